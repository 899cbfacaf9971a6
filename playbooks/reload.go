package playbooks

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// ManagerOptions are the options of NewManager. Paths and Catalogue are
// required.
type ManagerOptions struct {
	Paths       []string
	Catalogue   Catalogue
	MaxFileSize int64 // see LoadOptions

	Logger     *slog.Logger          // nil: discards
	Registerer prometheus.Registerer // nil: the metrics are registered nowhere
	// BeforeSwap is called with a good set before it is put in force, never
	// concurrently. Its error fails the reload, and the set before stays. The app
	// stores the snapshots there, which everyone who meets the set rests on. nil:
	// nothing is done.
	BeforeSwap func(context.Context, *Set) error
	// OnReload is called after every reload that changed something or failed,
	// before Reload returns, never concurrently; the app journals it there.
	OnReload func(Result)
	// Debounce is how long Watch waits after the first change of a file, so
	// that a writer of many files causes one reload; 0 means 250 ms.
	Debounce time.Duration
	// Retry is how long Watch waits until it tries again what failed for a
	// reason outside the files: BeforeSwap, or the watching itself. 0 means 30 s.
	Retry time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Result says what a reload did.
type Result struct {
	At time.Time
	// Changed is true when another set is in force now.
	Changed bool
	// Hash is that of the set in force, PreviousHash of the one before it.
	Hash, PreviousHash string
	Loaded             int // playbooks in force
	// Added, Updated and Removed name playbooks, sorted.
	Added, Updated, Removed []string
	// Problems has the warnings of a success too.
	Problems Problems
	// Err is non-nil when the reload failed and nothing was changed.
	Err error
}

// Manager holds the set in force and replaces it as a whole. It is safe for
// concurrent use.
type Manager struct {
	opts    ManagerOptions
	logger  *slog.Logger
	current atomic.Pointer[Set]
	refused atomic.Pointer[Problems] // why the last reload failed; nil when it did not
	reload  sync.Mutex               // one reload at a time, so that an older read never wins

	loaded, successful, successTime, hash prometheus.Gauge

	watching   func([]string) // told what is watched, for tests
	newWatcher func() (*fsnotify.Watcher, error)
}

// NewManager returns a manager that holds the empty set until its first Reload.
func NewManager(opts ManagerOptions) (*Manager, error) {
	switch {
	case len(opts.Paths) == 0:
		return nil, errors.New("playbook manager: Paths is missing: name a file or a directory of playbooks")
	case opts.Catalogue == nil:
		return nil, errors.New("playbook manager: Catalogue is missing")
	case opts.Debounce < 0:
		return nil, errors.New("playbook manager: Debounce is negative")
	case opts.Retry < 0:
		return nil, errors.New("playbook manager: Retry is negative")
	}
	if opts.Retry == 0 {
		opts.Retry = 30 * time.Second
	}
	if opts.Debounce == 0 {
		opts.Debounce = 250 * time.Millisecond
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.BeforeSwap == nil {
		opts.BeforeSwap = func(context.Context, *Set) error { return nil }
	}
	if opts.OnReload == nil {
		opts.OnReload = func(Result) {}
	}
	m := &Manager{opts: opts, logger: opts.Logger, watching: func([]string) {}, newWatcher: fsnotify.NewWatcher}
	if m.logger == nil {
		m.logger = slog.New(slog.DiscardHandler)
	}
	metrics := promauto.With(opts.Registerer)
	gauge := func(name, help string) prometheus.Gauge {
		return metrics.NewGauge(prometheus.GaugeOpts{Namespace: "alertmedic", Name: name, Help: help})
	}
	m.loaded = gauge("playbooks_loaded", "Number of playbooks in force.")
	m.successful = gauge("playbooks_last_reload_successful", "Whether the last attempt to load the playbooks succeeded.")
	m.successTime = gauge("playbooks_last_reload_success_timestamp_seconds", "Unix time of the last successful load of the playbooks.")
	m.hash = gauge("playbooks_hash", "Hash of the playbooks in force; equal on replicas that have the same ones.")
	m.current.Store(newSet(nil))
	return m, nil
}

// Current returns the set in force; it is never nil.
func (m *Manager) Current() *Set { return m.current.Load() }

// Refused returns why the files as they are now are not in force: the errors of
// the last reload if it failed, else nil.
func (m *Manager) Refused() Problems {
	if p := m.refused.Load(); p != nil {
		return *p
	}
	return nil
}

// Reload reads the playbooks again and puts them in force if all of them are
// good and something has changed. Otherwise everything stays as it was. The
// error is that of the result.
func (m *Manager) Reload(ctx context.Context) (Result, error) {
	m.reload.Lock()
	defer m.reload.Unlock()
	if err := ctx.Err(); err != nil {
		return Result{}, fmt.Errorf("reload playbooks: %w", err)
	}
	before := m.current.Load()
	set, problems := Load(m.opts.Paths, LoadOptions{Catalogue: m.opts.Catalogue, MaxFileSize: m.opts.MaxFileSize})
	result := Result{At: m.opts.Now(), Hash: before.Hash(), PreviousHash: before.Hash(), Loaded: before.Len(), Problems: problems}
	if err := problems.Err(); err != nil {
		errs := problems.Errors()
		return m.fail(result, errs, err, errs[0].String())
	}
	if set.Hash() == before.Hash() {
		m.succeed(result)
		// The hash of the very first load may be that of the empty set.
		m.hash.Set(hashMetric(set.Hash()))
		m.logger.Debug("playbooks unchanged", "playbooks", set.Len())
		return result, nil
	}
	if err := m.opts.BeforeSwap(ctx, set); err != nil {
		refused := Problems{{Message: "the files are good, and cannot be put in force: " + err.Error()}}
		return m.fail(result, refused, &notPutError{err}, refused[0].Message)
	}
	result.Changed, result.Hash, result.Loaded = true, set.Hash(), set.Len()
	result.Added, result.Updated, result.Removed = difference(before, set)
	m.current.Store(set)
	m.succeed(result)
	m.loaded.Set(float64(set.Len()))
	m.hash.Set(hashMetric(set.Hash()))
	m.logger.Info("playbooks reloaded", "playbooks", set.Len(), "added", len(result.Added), "updated", len(result.Updated),
		"removed", len(result.Removed), "hash", set.Hash())
	for _, w := range problems.Warnings() {
		m.logger.Warn("playbook warning", "problem", w.String())
	}
	m.opts.OnReload(result)
	return result, nil
}

// notPutError says that a good set could not be put in force; the files are not
// the reason, and the same may succeed in a while.
type notPutError struct{ err error }

func (e *notPutError) Error() string { return "put the playbooks in force: " + e.err.Error() }

func (e *notPutError) Unwrap() error { return e.err }

func (m *Manager) fail(result Result, refused Problems, err error, first string) (Result, error) {
	result.Err = fmt.Errorf("reload playbooks: %w", err)
	m.refused.Store(&refused)
	m.successful.Set(0)
	what := "playbooks not reloaded; those in force stay"
	if result.Loaded == 0 {
		what = "playbooks not loaded"
	}
	m.logger.Error(what, "problems", len(refused), "first", first, "playbooks", result.Loaded)
	m.opts.OnReload(result)
	return result, result.Err
}

func (m *Manager) succeed(result Result) {
	m.refused.Store(nil)
	m.successful.Set(1)
	m.successTime.Set(float64(result.At.UnixMilli()) / 1000)
}

// difference names what is new, different and gone in after.
func difference(before, after *Set) (added, updated, removed []string) {
	for _, name := range sortedNames(after.byName) {
		switch old, ok := before.byName[name]; {
		case !ok:
			added = append(added, name)
		case old.Hash != after.byName[name].Hash:
			updated = append(updated, name)
		}
	}
	for _, name := range sortedNames(before.byName) {
		if _, ok := after.byName[name]; !ok {
			removed = append(removed, name)
		}
	}
	return added, updated, removed
}

// hashMetric is the lower 48 bits of a hash: a float64 holds 53 exactly.
func hashMetric(hash string) float64 {
	raw, err := hex.DecodeString(hash)
	if err != nil || len(raw) < 6 {
		return 0
	}
	var n uint64
	for _, b := range raw[len(raw)-6:] {
		n = n<<8 | uint64(b)
	}
	return float64(n)
}
