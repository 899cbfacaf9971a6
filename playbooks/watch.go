package playbooks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Watch reloads when a file of a playbook changes, until ctx is done; then it
// returns. It watches directories and never files: editors and the mounts of a
// ConfigMap replace what a name points to, and a watch on a file would stay with
// the old one. Symbolic links on the way to a path are followed, so that the
// swap of any of them is seen. Where nothing can be watched (a node has few
// watches, and others use them up), the files are read again from time to time.
func (m *Manager) Watch(ctx context.Context) {
	for {
		err := m.watch(ctx)
		if err == nil {
			return // ctx is done
		}
		m.logger.Error("changes of the playbooks are not seen at once: the files are read again from time to time",
			"err", err, "every", m.opts.Retry)
		select {
		case <-ctx.Done():
			return
		case <-time.After(m.opts.Retry):
		}
	}
}

// watch returns nil when ctx is done, and otherwise why it cannot watch. Before
// either it has read the files at least once.
func (m *Manager) watch(ctx context.Context) error {
	w, err := m.newWatcher()
	if err != nil {
		m.reloadWatched(ctx)
		return fmt.Errorf("watch playbooks: %w", err)
	}
	defer func() { _ = w.Close() }() // nothing is lost with it
	failed := m.follow(w)
	// What changed between the last load and now has made no event.
	retry := m.reloadWatched(ctx)
	if failed != nil {
		return fmt.Errorf("watch playbooks: %w", failed)
	}
	m.watching(w.WatchList())

	// The delay counts from the first event and is not extended by the next
	// ones: a file that is written to for ever must not put it off for ever.
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-w.Events:
			if !ok {
				return errors.New("watch playbooks: the watcher was closed")
			}
			if due == nil {
				due = time.After(m.opts.Debounce)
			}
			continue
		case err, ok := <-w.Errors:
			if !ok {
				return errors.New("watch playbooks: the watcher was closed")
			}
			// An overflow says that events were lost; one is as good as many.
			m.logger.Warn("watching playbooks", "err", err)
			if due == nil {
				due = time.After(m.opts.Debounce)
			}
			continue
		case <-due:
		case <-retry:
		}
		due = nil
		// First the new directories, then the files: what changes in between
		// makes an event.
		failed := m.follow(w)
		retry = m.reloadWatched(ctx)
		if failed != nil {
			return fmt.Errorf("watch playbooks: %w", failed)
		}
		m.watching(w.WatchList())
	}
}

// reloadWatched reloads. Reload has logged and reported a failure: the next
// change of a file tries again, and where the files are not the reason, the
// channel that it returns does.
func (m *Manager) reloadWatched(ctx context.Context) (retry <-chan time.Time) {
	_, err := m.Reload(ctx)
	if _, outside := errors.AsType[*notPutError](err); outside {
		return time.After(m.opts.Retry)
	}
	return nil
}

// follow makes w watch the directories that matter now, and no others. It
// repeats until nothing is new: what appeared while the directory above it was
// being added has made no event.
func (m *Manager) follow(w *fsnotify.Watcher) error {
	const rounds = 10 // more only if directories come faster than they are added
	var err error
	for range rounds {
		var added bool
		if added, err = m.followOnce(w); err != nil || !added {
			break
		}
	}
	return err
}

func (m *Manager) followOnce(w *fsnotify.Watcher) (added bool, err error) {
	want := map[string]bool{}
	for _, path := range m.opts.Paths {
		abs, err := filepath.Abs(path)
		if err != nil {
			return false, fmt.Errorf("locate %s: %w", path, err)
		}
		addWatchDirs(abs, want, 0)
	}
	have := map[string]bool{}
	for _, dir := range w.WatchList() {
		if have[dir] = true; !want[dir] {
			_ = w.Remove(dir) // it may be gone already
		}
	}
	var errs []error
	for _, dir := range slices.Sorted(maps.Keys(want)) {
		if have[dir] {
			continue
		}
		added = true
		if err := w.Add(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("watch %s: %w", dir, err))
		}
	}
	return added, errors.Join(errs...)
}

// maxLinks ends a cycle of symbolic links.
const maxLinks = 40

// addWatchDirs adds the directories in which a change can alter what path
// leads to: its own if it is one, the one that holds it, and the one of every
// symbolic link on the way. They are added by their real names, so that a
// swapped link shows as another directory.
func addWatchDirs(path string, dirs map[string]bool, links int) {
	if links > maxLinks {
		return
	}
	addDir(filepath.Dir(path), dirs)
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		addDir(path, dirs)
	}
	prefix := string(filepath.Separator)
	for part := range strings.SplitSeq(path, string(filepath.Separator)) {
		parent := prefix
		prefix = filepath.Join(prefix, part)
		target, err := os.Readlink(prefix)
		if err != nil {
			continue // no link
		}
		addDir(parent, dirs)
		if !filepath.IsAbs(target) {
			target = filepath.Join(parent, target)
		}
		addWatchDirs(target, dirs, links+1)
	}
}

// addDir adds the real name of dir, or of the nearest directory above it that
// exists: that is where it will appear.
func addDir(dir string, dirs map[string]bool) {
	for {
		if resolved, err := filepath.EvalSymlinks(dir); err == nil {
			dirs[resolved] = true
			return
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return
		}
		dir = parent
	}
}
