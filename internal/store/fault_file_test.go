package store_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// acceptable says whether a webhook would be answered 200.
func (f *fixture) acceptable(fp string) error {
	_, err := f.Accept(tctx, store.Batch{Observations: []store.Observation{firing(fp, playbook("a", 0))}})
	return err
}

// A file that loses its name under the running process: nothing is acknowledged
// that a restart would not find, readiness says why, nothing is put in its place,
// and what had been acknowledged is there when the advice is followed.
func TestAFileThatIsDeletedOrReplacedIsNoticed(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		suffix  string // of the file that is moved away
		replace bool   // by a copy
		says    []string
	}{
		"the database is deleted":  {"", false, []string{"medic.db was deleted while this process works on it", "put the file back"}},
		"the database is replaced": {"", true, []string{"medic.db was replaced while this process works on it", "put the file back"}},
		"the log is deleted":       {"-wal", false, []string{"medic.db-wal was deleted while this process works on it", "SIGTERM"}},
		"the log is replaced":      {"-wal", true, []string{"medic.db-wal was replaced while this process works on it", "SIGTERM"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := openSQLite(t, t)
			require.NoError(t, f.acceptable("before"))
			require.NoError(t, f.Ping(tctx))
			file, aside := f.dsn+tt.suffix, f.dsn+".aside"
			require.NoError(t, os.Rename(file, aside))
			if tt.replace {
				raw, err := os.ReadFile(aside)
				require.NoError(t, err)
				require.NoError(t, os.WriteFile(file, raw, 0o600))
			}
			accepted, pinged := f.acceptable("lost"), f.Ping(tctx)
			require.ErrorIs(t, accepted, store.ErrUnavailable)
			for _, says := range tt.says {
				require.ErrorContains(t, accepted, says)
				require.ErrorContains(t, pinged, says)
			}
			want := 1
			if tt.suffix == "" {
				if !tt.replace {
					f.readAtOnce(8)
					require.NoFileExists(t, file, "nobody makes another one")
				}
				require.NoError(t, os.Rename(aside, file))
				require.NoError(t, f.Ping(tctx))
				require.NoError(t, f.acceptable("after"))
				want = 2
			}
			require.NoError(t, f.Close())
			f.Store = f.open(t, t)
			open, err := f.OpenEpisodes(tctx, "am")
			require.NoError(t, err)
			require.Len(t, open, want, "what was acknowledged; what was refused was never written")
		})
	}
}

// readAtOnce makes n transactions that read at the same time, each of which needs
// a connection of its own; how they end does not matter.
func (f *fixture) readAtOnce(n int) {
	var all sync.WaitGroup
	arrived, release := make(chan struct{}, n), make(chan struct{})
	for range n {
		all.Go(func() {
			w := &gate{arrived: sync.OnceFunc(func() { arrived <- struct{}{} }), release: release}
			_, _ = f.Backup(tctx, w, store.BackupOptions{})
			w.arrived()
		})
	}
	for range n {
		<-arrived
	}
	close(release)
	all.Wait()
}

type gate struct {
	arrived func()
	release chan struct{}
}

func (g *gate) Write(b []byte) (int, error) {
	g.arrived()
	<-g.release
	return len(b), nil
}

// Where a database was, none is made anew without being asked for.
func TestAMissingOrEmptyFileIsNotMadeAgain(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		harm func(dsn string) error
		says string
	}{
		"gone":           {os.Remove, "and it is gone"},
		"empty":          {func(dsn string) error { return os.Truncate(dsn, 0) }, "and it is empty"},
		"only its log":   {func(dsn string) error { return os.Rename(dsn, dsn+"-wal") }, "its log"},
		"beside its log": {func(dsn string) error { _ = os.WriteFile(dsn+"-wal", []byte("x"), 0o600); return os.Truncate(dsn, 0) }, "its log"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := openSQLite(t, t)
			require.NoError(t, f.acceptable("a"))
			require.NoError(t, f.Close())
			require.NoError(t, tt.harm(f.dsn))
			for range 2 { // the first refusal leaves nothing that the second would take for a database
				_, err := store.Open(tctx, f.options())
				require.ErrorIs(t, err, store.ErrCorrupt)
				require.ErrorContains(t, err, tt.says)
				require.ErrorContains(t, err, "alertmedic restore")
			}
			for _, file := range []string{"", "-wal", "-shm", ".lock"} {
				require.NoError(t, os.RemoveAll(f.dsn+file))
			}
			f.Store = f.open(t, t) // as the message says
			require.NoError(t, f.acceptable("b"))
		})
	}
}

// damage overwrites part of a file.
func damage(t require.TestingT, file string, at int64, with []byte) {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt(with, at)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// A file with a damage of any kind is refused at open, with the way out.
func TestADamagedFileIsRefused(t *testing.T) {
	t.Parallel()
	f := openSQLite(t, t)
	for range 200 {
		require.NoError(t, f.Append(tctx, journal.Entry{Kind: journal.StepDone, Message: strings.Repeat("x", 1000)}))
	}
	require.NoError(t, f.Close())
	sound, err := os.ReadFile(f.dsn)
	require.NoError(t, err)
	require.Greater(t, len(sound), 40*4096)
	tests := map[string]func([]byte) []byte{
		"the header":        func(b []byte) []byte { copy(b, "not a database any more"); return b },
		"the first page":    func(b []byte) []byte { copy(b[100:], bytes.Repeat([]byte{0xee}, 200)); return b },
		"a page":            func(b []byte) []byte { copy(b[len(b)/2/4096*4096:], bytes.Repeat([]byte{0xee}, 4096)); return b },
		"a page of zeroes":  func(b []byte) []byte { copy(b[len(b)/2/4096*4096:], make([]byte, 4096)); return b },
		"half of it":        func(b []byte) []byte { return b[:len(b)/2/4096*4096] },
		"cut within a page": func(b []byte) []byte { return b[:len(b)/2/4096*4096+1000] },
		"one page left":     func(b []byte) []byte { return b[:4096] },
		"less than a page":  func(b []byte) []byte { return b[:50] },
	}
	for name, harm := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := f.options()
			o.DSN = filepath.Join(t.TempDir(), "medic.db")
			require.NoError(t, os.WriteFile(o.DSN, harm(bytes.Clone(sound)), 0o600))
			for range 2 {
				_, err := store.Open(tctx, o)
				require.ErrorIs(t, err, store.ErrCorrupt)
				require.ErrorContains(t, err, "alertmedic restore --force")
				require.ErrorContains(t, err, ".recover")
			}
		})
	}
}

// A damage that appears while the process runs is found by the first who reads
// it. From then on nothing is written, which would make it worse.
func TestADamageFoundWhileRunningStopsWriting(t *testing.T) {
	t.Parallel()
	f := openSQLite(t, t)
	for range 300 {
		require.NoError(t, f.Append(tctx, journal.Entry{Kind: journal.StepDone, Message: strings.Repeat("x", 1000)}))
	}
	f.entries(t)
	require.NoError(t, f.ExecRaw(tctx, "PRAGMA wal_checkpoint(TRUNCATE)"))
	info, err := os.Stat(f.dsn)
	require.NoError(t, err)
	for at := int64(20 * 4096); at < info.Size(); at += 4096 {
		damage(t, f.dsn, at, bytes.Repeat([]byte{0xee}, 512))
	}
	err = f.LogIter(tctx, store.LogFilter{}, func(journal.Entry) error { return nil })
	require.ErrorIs(t, err, store.ErrCorrupt)
	require.ErrorContains(t, err, "alertmedic restore")
	require.ErrorIs(t, f.acceptable("refused"), store.ErrCorrupt)
	require.ErrorIs(t, f.Ping(tctx), store.ErrCorrupt, "readiness says so")
}

// logged returns a copy of a database whose last transactions, one for each
// text, are in the log only, as a kill -9 leaves it, and where each begins there.
func logged(t *testing.T, texts int) (dsn string, begins []int64) {
	t.Helper()
	f := openSQLite(t, t)
	require.NoError(t, f.ExecRaw(tctx, "PRAGMA wal_checkpoint(TRUNCATE)"))
	for i := range texts {
		info, err := os.Stat(f.dsn + "-wal")
		require.NoError(t, err)
		begins = append(begins, max(32, info.Size()))
		require.NoError(t, f.SetValue(tctx, fmt.Sprintf("k%d", i), strings.Repeat("x", 3000)))
	}
	dsn = filepath.Join(t.TempDir(), "medic.db")
	for _, suffix := range []string{"", "-wal"} {
		raw, err := os.ReadFile(f.dsn + suffix)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(dsn+suffix, raw, 0o600))
	}
	return dsn, begins
}

// survivors opens a database and counts the transactions of logged.
func survivors(t require.TestingT, dsn string, texts int) (int, error) {
	s, err := store.Open(tctx, store.Options{DSN: dsn})
	if err != nil {
		return 0, err
	}
	n := 0
	for i := range texts {
		if _, err := s.GetValue(tctx, fmt.Sprintf("k%d", i)); err == nil {
			require.Equal(t, n, i, "the first ones, without a gap")
			n++
		}
	}
	require.NoError(t, s.Close())
	return n, nil
}

// SQLite drops what follows a bad frame of its log. Where that would lose what
// had been committed, the file is refused instead.
func TestADamagedLogIsRefused(t *testing.T) {
	t.Parallel()
	const texts = 20
	dsn, begins := logged(t, texts)
	log, err := os.ReadFile(dsn + "-wal")
	require.NoError(t, err)
	db, err := os.ReadFile(dsn)
	require.NoError(t, err)
	fresh := func(t require.TestingT, dir string, log []byte) string {
		dsn := filepath.Join(dir, "medic.db")
		require.NoError(t, os.WriteFile(dsn, db, 0o600))
		require.NoError(t, os.WriteFile(dsn+"-wal", log, 0o600))
		_ = os.Remove(dsn + "-shm")
		return dsn
	}
	n, err := survivors(t, fresh(t, t.TempDir(), log), texts)
	require.NoError(t, err)
	require.Equal(t, texts, n)

	harm := func(at int64) []byte {
		b := bytes.Clone(log)
		b[at] ^= 0x40
		return b
	}
	refused := map[string]int64{"magic": 0, "page size": 10, "salt": 17, "header's checksum": 30, "first frame's page": 32 + 24 + 100,
		"first frame's salt": 32 + 8, "a frame's checksum": begins[5] + 17, "a page in the middle": begins[10] + 24 + 2000, "the last but one": begins[texts-2] + 24 + 10}
	for name, at := range refused {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := survivors(t, fresh(t, t.TempDir(), harm(at)), texts)
			require.ErrorIs(t, err, store.ErrCorrupt)
			require.ErrorContains(t, err, "would be dropped without a word")
			require.ErrorContains(t, err, "alertmedic restore --force")
			require.ErrorContains(t, err, "wal_checkpoint(TRUNCATE)")
		})
	}
	t.Run("any byte", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		rapid.Check(t, func(t *rapid.T) {
			at := rapid.Int64Range(0, begins[texts-3]-1).Draw(t, "at")
			_, err := survivors(t, fresh(t, dir, harm(at)), texts)
			require.ErrorIs(t, err, store.ErrCorrupt)
		})
	})
	// What a crash leaves is no damage: the transactions that were complete are
	// there, and it starts.
	t.Run("a crash", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		rapid.Check(t, func(t *rapid.T) {
			cut := rapid.Int64Range(0, int64(len(log))).Draw(t, "cut")
			b := log[:cut]
			if rapid.Bool().Draw(t, "zeroes") { // the size of the file came before its contents
				b = append(bytes.Clone(b), make([]byte, 9000)...)
			}
			n, err := survivors(t, fresh(t, dir, b), texts)
			require.NoError(t, err)
			complete := 0
			for i := range begins {
				end := int64(len(log))
				if i+1 < texts {
					end = begins[i+1]
				}
				if end <= cut {
					complete++
				}
			}
			require.Equal(t, complete, n)
		})
	})
	t.Run("a torn last transaction", func(t *testing.T) {
		t.Parallel()
		n, err := survivors(t, fresh(t, t.TempDir(), harm(begins[texts-1]+24+50)), texts)
		require.NoError(t, err)
		require.Equal(t, texts-1, n)
	})
	// Behind the live frames of a log that was begun anew lie those of before.
	t.Run("begun anew", func(t *testing.T) {
		t.Parallel()
		f := openSQLite(t, t)
		for i := range 20 {
			require.NoError(t, f.SetValue(tctx, fmt.Sprintf("k%d", i), strings.Repeat("x", 3000)))
		}
		require.NoError(t, f.ExecRaw(tctx, "PRAGMA wal_checkpoint(RESTART)"))
		require.NoError(t, f.SetValue(tctx, "k0", "new"))
		var err error
		log, err := os.ReadFile(f.dsn + "-wal")
		require.NoError(t, err)
		db, err := os.ReadFile(f.dsn)
		require.NoError(t, err)
		copied := filepath.Join(t.TempDir(), "medic.db")
		require.NoError(t, os.WriteFile(copied, db, 0o600))
		require.NoError(t, os.WriteFile(copied+"-wal", log, 0o600))
		n, err := survivors(t, copied, 20)
		require.NoError(t, err)
		require.Equal(t, 20, n)
	})
}

// A full disk and one that may not be written refuse, say what to do, and are
// over by themselves. The limits are SQLite's own; internal/app does the same
// with a real file system.
func TestAFullOrReadOnlyDiskIsTemporary(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ begin, end, says string }{
		"full":      {"PRAGMA max_page_count = 1", "PRAGMA max_page_count = 1000000", "is full, free some space"},
		"read-only": {"PRAGMA query_only = 1", "PRAGMA query_only = 0", "cannot be written, check the owner and mode"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := openSQLite(t, t)
			require.NoError(t, f.acceptable("before"))
			require.NoError(t, f.ExecRaw(tctx, tt.begin))
			big := firing("big", playbook("a", 0))
			big.Alert.Annotations = map[string]string{"description": strings.Repeat("x", 100_000)} // no free page holds it
			accept := func() error {
				_, err := f.Accept(tctx, store.Batch{Observations: []store.Observation{big}})
				return err
			}
			err := accept()
			require.ErrorIs(t, err, store.ErrUnavailable)
			require.ErrorContains(t, err, tt.says)
			if name == "read-only" { // on a full disk a small write may still find room
				require.ErrorContains(t, f.Ping(tctx), tt.says)
			}
			require.NoError(t, f.ExecRaw(tctx, tt.end))
			require.NoError(t, f.Ping(tctx), "it finds out by itself")
			require.NoError(t, accept())
			open, err := f.OpenEpisodes(tctx, "am")
			require.NoError(t, err)
			require.Len(t, open, 2)
		})
	}
}
