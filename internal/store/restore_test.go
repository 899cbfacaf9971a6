package store_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// seeded are the runs of a database that holds something of everything.
type seeded struct{ healed, calling, verifying, asking, queued string }

func seed(t *testing.T, f *fixture) seeded {
	t.Helper()
	var s seeded
	step := func(id string, status store.StepStatus) []store.Step {
		return []store.Step{{RunID: id, RemedyName: "restart", Name: "delete", Action: "pod.delete", Status: status, Ticks: 1,
			Plan: json.RawMessage(`{"summary":"delete <pod> & wait"}`)}}
	}
	begin := func(pb string, status store.StepStatus) (string, store.Run) {
		id := f.newRun(t, pb, deployment(pb))
		tr := intent(f.claim(t, id, "w"), f.time(t))
		tr.Steps = step(id, status)
		tr.Reserve = []guard.Reservation{{RunID: id, Scope: "nodes/c1", TargetKey: pb}}
		return id, f.apply(t, tr)
	}
	require.NoError(t, f.PutPlaybook(tctx, "hash-healed", []byte("kind: Playbook # ü\n")))
	var run store.Run
	s.healed, run = begin("healed", store.StepDone)
	f.apply(t, end(run, store.Healed, ""))
	s.calling, _ = begin("calling", store.StepIntended)
	s.verifying, run = begin("verifying", store.StepDone)
	run.Wait, run.DueAt = store.WaitVerify, f.time(t).Add(time.Hour)
	f.apply(t, store.Transition{Fence: run.Fence(), Run: run, Release: true})
	s.asking = f.newRun(t, "asking", deployment("asking"))
	f.apply(t, asking(f.claim(t, s.asking, "w"), "plan-1", f.time(t).Add(time.Hour)))
	s.queued = f.newRun(t, "queued", deployment("queued"))

	f.accept(t, firing("fp-candidate", playbook("waiting", 0)), firing("fp-unmatched"), firing("fp-closed"))
	f.accept(t, resolved("fp-closed", f.time(t)), resolved("fp-orphan", f.time(t)))
	require.NoError(t, f.SetPause(tctx, guard.Pause{Scope: guard.PauseNamespace, Value: "shop", By: "ada", Why: "release"}))
	require.NoError(t, f.SetValue(tctx, "slack/"+s.healed, `{"ts":"1"}`))
	require.NoError(t, f.Post(tctx, store.Message{Channel: "slack", RunID: s.healed, Payload: json.RawMessage(`{"text":"healed"}`)}))
	f.entries(t)
	require.NoError(t, f.Append(tctx, journal.Entry{Kind: journal.ServiceStopped, Message: "not sealed yet"}))
	return s
}

// takeBackup returns a backup, unzipped, which has been checked.
func takeBackup(t *testing.T, s *store.Store, o store.BackupOptions) []byte {
	t.Helper()
	var zipped bytes.Buffer
	info, err := s.Backup(tctx, &zipped, o)
	require.NoError(t, err)
	seen, err := store.VerifyBackup(bytes.NewReader(zipped.Bytes()))
	require.NoError(t, err)
	require.Equal(t, info.SHA256, seen.SHA256)
	require.Equal(t, info.Rows, seen.Rows)
	return unzip(t, zipped.Bytes())
}

func unzip(t *testing.T, zipped []byte) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(zipped))
	require.NoError(t, err)
	plain, err := io.ReadAll(r)
	require.NoError(t, err)
	return plain
}

// tables decodes a backup: the rows of each table by column, in an order that
// both databases share.
func tables(t *testing.T, plain []byte) map[string][]map[string]any {
	t.Helper()
	out := map[string][]map[string]any{}
	var name string
	var columns []string
	lines := bufio.NewScanner(bytes.NewReader(plain))
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		if lines.Bytes()[0] == '{' {
			var head struct {
				Table   string
				Columns []string
			}
			require.NoError(t, json.Unmarshal(lines.Bytes(), &head))
			name, columns = head.Table, head.Columns
			continue
		}
		var row []any
		require.NoError(t, json.Unmarshal(lines.Bytes(), &row))
		named := map[string]any{}
		for i, c := range columns {
			named[c] = row[i]
		}
		out[name] = append(out[name], named)
	}
	require.NoError(t, lines.Err())
	for _, rows := range out {
		slices.SortFunc(rows, func(a, b map[string]any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	}
	return out
}

// empty is a database of a kind with nothing in it, which nobody has open.
func empty(t *testing.T, open func(require.TestingT, cleaner) *fixture) *fixture {
	t.Helper()
	f := open(t, t)
	require.NoError(t, f.Close())
	return f
}

func restore(t *testing.T, f *fixture, backup []byte, o store.RestoreOptions) store.Restored {
	t.Helper()
	o.DSN, o.Actor = f.dsn, "restore"
	got, err := store.Restore(tctx, bytes.NewReader(backup), o)
	require.NoError(t, err)
	f.Store = f.open(t, t)
	return got
}

// fromEachToEach runs a test for every pair of databases.
func fromEachToEach(t *testing.T, fn func(t *testing.T, from, to *fixture)) {
	t.Parallel()
	for _, from := range dialects {
		for _, to := range dialects {
			if from.ok() && to.ok() {
				t.Run(from.name+" to "+to.name, func(t *testing.T) {
					t.Parallel()
					fn(t, from.open(t, t), empty(t, to.open))
				})
			}
		}
	}
}

// A move loses nothing and changes nothing but the leases: every row of every
// table is there, the chain goes on, and runs go on where they were.
func TestAMoveKeepsEverything(t *testing.T) {
	fromEachToEach(t, func(t *testing.T, from, to *fixture) {
		s := seed(t, from)
		backup := takeBackup(t, from.Store, store.BackupOptions{Stopped: true, Program: "v1"})
		got := restore(t, to, backup, store.RestoreOptions{Move: true})
		require.False(t, got.Paused)
		require.Equal(t, "v1", got.Backup.Program)

		want, have := tables(t, backup), tables(t, takeBackup(t, to.Store, store.BackupOptions{}))
		for _, side := range []map[string][]map[string]any{want, have} {
			for _, table := range []string{"runs", "candidates", "outbox"} {
				for _, row := range side[table] {
					delete(row, "lease_until")
				}
			}
		}
		have["journal"] = slices.DeleteFunc(have["journal"], func(row map[string]any) bool { return row["kind"] == string(journal.ServiceRestored) })
		require.Equal(t, want, have)

		require.Equal(t, store.Active, mustRun(t, to, s.calling).Phase)
		to.pass(t, 2*time.Hour)
		require.True(t, to.claim(t, s.calling, "w2").TakenOver)
		require.Contains(t, to.kinds(t), journal.ServiceRestored)
	})
}

// After a restore nothing that was live goes on, a person is told what to look
// at, and alerts that still fire are seen anew, once the pause is lifted.
func TestARestoreEndsWhatWasLive(t *testing.T) {
	fromEachToEach(t, func(t *testing.T, from, to *fixture) {
		s := seed(t, from)
		before := from.accept(t, firing("fp-closed"))
		require.Equal(t, 1, before.Reopened)
		got := restore(t, to, takeBackup(t, from.Store, store.BackupOptions{}), store.RestoreOptions{})
		require.Equal(t, store.Settled{Cancelled: 2, Escalated: 1, Unknown: 1, Candidates: 1, Episodes: 3, Messages: 1, Paused: true}, got.Settled)

		outcomes := map[string]store.Outcome{s.healed: store.Healed, s.calling: store.OutcomeUnknown, s.verifying: store.Escalated, s.asking: store.Cancelled, s.queued: store.Cancelled}
		for id, outcome := range outcomes {
			r := mustRun(t, to, id)
			require.Equal(t, store.Done, r.Phase)
			require.Equal(t, outcome, r.Outcome)
			require.Equal(t, outcome != store.Healed, r.Reason == "restored")
			require.False(t, r.EndedAt.IsZero())
		}
		steps, err := to.Steps(tctx, s.calling)
		require.NoError(t, err)
		require.Equal(t, store.StepUnknown, steps[0].Status)
		_, err = to.PendingApproval(tctx, s.asking)
		require.ErrorIs(t, err, store.ErrNoApproval)
		pauses, err := to.Pauses(tctx)
		require.NoError(t, err)
		require.Len(t, pauses, 2)
		require.Equal(t, guard.PauseGlobal, pauses[1].Scope)
		require.Contains(t, pauses[1].Why, "restored from the backup of")
		n, err := to.PendingMessages(tctx)
		require.NoError(t, err)
		require.Empty(t, n)
		to.pass(t, 2*time.Hour)
		runs, err := to.ClaimRuns(tctx, "w2", time.Minute, 100)
		require.NoError(t, err)
		require.Empty(t, runs)
		require.Empty(t, to.candidates(t, 100))

		// What had begun belongs to a person; the rest is seen anew. What an attempt
		// did counts for the cooldown.
		res := to.accept(t, firing("fp-calling-calling", playbook("calling", 0)), firing("fp-verifying-verifying", playbook("verifying", 0)))
		require.Equal(t, store.AcceptResult{Repeated: 2}, res)
		res = to.accept(t, firing("fp-queued-queued", playbook("queued", 0)), firing("fp-asking-asking", playbook("asking", 0)), firing("fp-candidate", playbook("waiting", 0)))
		require.Equal(t, store.AcceptResult{Opened: 3, Candidates: 3}, res)
		ledger, err := to.Ledger(tctx, guard.Query{AttemptKey: deployment("calling").AttemptKey()})
		require.NoError(t, err)
		require.Len(t, ledger.Past, 1)
		require.Empty(t, slices.DeleteFunc(ledger.Reservations, func(r guard.Reservation) bool { return r.Released != nil }))
		require.Empty(t, ledger.Active)

		kinds := to.kinds(t)
		require.Contains(t, kinds, journal.ServiceRestored)
		require.Contains(t, kinds, journal.StepUnknown)
	})
}

// A restore replaces nothing without being told to, and on SQLite keeps the file
// that was there.
func TestARestoreDoesNotReplaceUnasked(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		f.accept(t, firing("old"))
		backup := takeBackup(t, f.Store, store.BackupOptions{})
		f.accept(t, firing("lost"))
		require.NoError(t, f.Close())

		_, err := store.Restore(tctx, bytes.NewReader(backup), store.RestoreOptions{DSN: f.dsn})
		require.ErrorIs(t, err, store.ErrNotEmpty)
		require.ErrorContains(t, err, "holds 0 runs, 2 episodes, 4 journal entries; --force replaces all of it with the backup of")
		_, err = store.Restore(tctx, bytes.NewReader(backup), store.RestoreOptions{DSN: f.dsn, Force: true, Move: true})
		require.ErrorIs(t, err, store.ErrBadBackup, "the service ran on")
		f.Store = f.open(t, t)
		open, err := f.OpenEpisodes(tctx, "")
		require.NoError(t, err)
		require.Len(t, open, 2)
		require.NoError(t, f.Close())

		got := restore(t, f, backup, store.RestoreOptions{Force: true})
		open, err = f.OpenEpisodes(tctx, "")
		require.NoError(t, err)
		require.Len(t, open, 1)
		if f.Dialect() == "sqlite" {
			old, err := store.Open(tctx, store.Options{DSN: got.Kept})
			require.NoError(t, err)
			open, err := old.OpenEpisodes(tctx, "")
			require.NoError(t, err)
			require.Len(t, open, 2)
			require.NoError(t, old.Close())
		}
	})
}

// A damaged file is replaced when a person says so, and kept.
func TestARestoreReplacesADamagedFile(t *testing.T) {
	t.Parallel()
	f := openSQLite(t, t)
	f.accept(t, firing("a"))
	backup := takeBackup(t, f.Store, store.BackupOptions{})
	require.NoError(t, f.Close())
	require.NoError(t, os.WriteFile(f.dsn, bytes.Repeat([]byte("damaged "), 1000), 0o600))
	require.NoError(t, os.Chmod(f.dsn, 0o640))
	_, err := store.Restore(tctx, bytes.NewReader(backup), store.RestoreOptions{DSN: f.dsn})
	require.ErrorIs(t, err, store.ErrNotEmpty)
	got := restore(t, f, backup, store.RestoreOptions{Force: true})
	f.entries(t)
	kept, err := os.ReadFile(got.Kept)
	require.NoError(t, err)
	require.True(t, bytes.HasPrefix(kept, []byte("damaged ")))
	info, err := os.Stat(f.dsn)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o640), info.Mode().Perm())
}

// Nothing is restored, and nothing replaced, while a service runs.
func TestARestoreUnderARunningServiceIsRefused(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		backup := takeBackup(t, f.Store, store.BackupOptions{})
		require.NoError(t, f.Announce(tctx, "pod-1", time.Minute))
		_, err := store.Restore(tctx, bytes.NewReader(backup), store.RestoreOptions{DSN: f.dsn, Force: true})
		require.ErrorIs(t, err, store.ErrBusy)
		_, stopped, err := openForBackup(t, f.dsn)
		if f.Dialect() == "sqlite" {
			require.ErrorIs(t, err, store.ErrBusy)
		} else {
			require.NoError(t, err)
			require.False(t, stopped)
		}
		require.NoError(t, f.Withdraw(tctx, "pod-1"))
		require.NoError(t, f.Close())
		s, stopped, err := openForBackup(t, f.dsn)
		require.NoError(t, err)
		require.True(t, stopped)
		takeBackup(t, s, store.BackupOptions{Stopped: stopped})
		require.NoError(t, s.Close())
		restore(t, f, backup, store.RestoreOptions{Force: true})
	})
}

func openForBackup(t *testing.T, dsn string) (*store.Store, bool, error) {
	t.Helper()
	s, stopped, err := store.OpenForBackup(tctx, dsn)
	if err == nil {
		t.Cleanup(func() { require.NoError(t, s.Close()) })
	}
	return s, stopped, err
}

func TestOpenForBackupMakesNothing(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "none.db")
	_, _, err := openForBackup(t, file)
	require.ErrorIs(t, err, os.ErrNotExist)
	left, err := filepath.Glob(file + "*")
	require.NoError(t, err)
	require.Empty(t, left)
}

// Whatever happens to a file on its way is noticed, and leaves the database as
// it was.
func TestABadBackupIsRefused(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		seed(t, f)
		good := takeBackup(t, f.Store, store.BackupOptions{})
		require.NoError(t, f.Close())
		to := empty(t, map[string]func(require.TestingT, cleaner) *fixture{"sqlite": openSQLite, "postgres": openPostgres}[f.Dialect()])
		lines := bytes.SplitAfter(good, []byte("\n"))
		lines = lines[:len(lines)-1]
		join := func(l [][]byte) []byte { return bytes.Join(l, nil) }
		without := func(i int) []byte { return join(slices.Delete(slices.Clone(lines), i, i+1)) }
		var zipped bytes.Buffer
		w := gzip.NewWriter(&zipped)
		_, err := w.Write(good)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		flipped := slices.Clone(zipped.Bytes())
		flipped[len(flipped)/2] ^= 0xff
		summed := slices.Clone(zipped.Bytes())
		summed[len(summed)-8] ^= 0xff

		for name, tt := range map[string]struct {
			file []byte
			says string
		}{
			"nothing":                 {nil, "it is empty"},
			"something else":          {[]byte("apiVersion: v1\n"), "does not begin as one"},
			"cut between lines":       {join(lines[:len(lines)/2]), "cut off after line"},
			"cut before the end":      {join(lines[:len(lines)-1]), "cut off after line"},
			"cut in a line":           {good[:len(good)/2], "cut off in line"},
			"zipped and cut":          {zipped.Bytes()[:zipped.Len()/2], "cut off in line"},
			"zipped, cut in its head": {zipped.Bytes()[:5], "no gzip file"},
			// What a damaged stream unpacks to is left to chance, and so is who notices.
			"zipped and damaged":       {flipped, "the backup cannot be used"},
			"zipped, its sum damaged":  {summed, "damaged near line"},
			"a row left out":           {without(2), "altered or damaged"},
			"a row changed":            {bytes.Replace(good, []byte(`# ü`), []byte(`# u`), 1), "altered or damaged"},
			"an entry changed":         {bytes.Replace(good, []byte(`\"message\":\"no playbook matches the alert\"`), []byte(`\"message\":\"one playbook matches the alert\"`), 1), "altered or damaged"},
			"more after the end":       {append(slices.Clone(good), "[1]\n"...), "more after the end"},
			"of a newer format":        {bytes.Replace(good, []byte(`"version":1`), []byte(`"version":2`), 1), "format is version 2"},
			"of a newer schema":        {bytes.Replace(good, fmt.Appendf(nil, `"schema":%d`, store.LatestSchema()), []byte(`"schema":999`), 1), "newer version"},
			"with an unknown table":    {bytes.Replace(good, []byte(`{"table":"kv"`), []byte(`{"table":"users"`), 1), `has a table "users"`},
			"with an unknown column":   {bytes.Replace(good, []byte(`"updated_at"`), []byte(`"deleted_at"`), 1), "has the columns"},
			"with a table of no scope": {bytes.Replace(good, []byte(`{"table":"kv"`), []byte(`{"table":"goose_db_version"`), 1), "has a table"},
		} {
			require.NotEqual(t, good, tt.file, name)
			_, err := store.Restore(tctx, bytes.NewReader(tt.file), store.RestoreOptions{DSN: to.dsn})
			require.ErrorContains(t, err, tt.says, name)
			if name == "of a newer schema" {
				require.ErrorIs(t, err, store.ErrNewerSchema)
			} else {
				require.ErrorIs(t, err, store.ErrBadBackup, name)
			}
		}
		to.Store = to.open(t, t)
		require.Empty(t, tables(t, takeBackup(t, to.Store, store.BackupOptions{})), "nothing of them is left")
		left, err := filepath.Glob(to.dsn + ".restoring*")
		require.NoError(t, err)
		require.Empty(t, left)
	})
}

// A table that a migration adds must be said to be in backups, or not.
func TestEveryTableIsInBackupsOrLeftOut(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		have, err := f.Tables(tctx)
		require.NoError(t, err)
		require.ElementsMatch(t, have, store.BackupTables())
	})
}

// freezeSchema makes TestSchemasOfReleasesAreUpgraded write the file of the
// present schema: set it once, when a migration is added.
const freezeSchema = "ALERTMEDIC_FREEZE_SCHEMA"

func frozen(version int64) string {
	return filepath.Join("testdata", fmt.Sprintf("schema-%d.backup.jsonl", version))
}

// A database of every schema that was ever released is upgraded by the
// migrations of today on both kinds: its runs, locks and journal are intact. The
// files were written by the versions of then and are never changed.
func TestSchemasOfReleasesAreUpgraded(t *testing.T) {
	t.Parallel()
	if os.Getenv(freezeSchema) != "" {
		f := openSQLite(t, t)
		seed(t, f)
		file := frozen(store.LatestSchema())
		require.NoFileExists(t, file, "a released schema is frozen")
		require.NoError(t, os.WriteFile(file, takeBackup(t, f.Store, store.BackupOptions{Stopped: true, Program: "frozen"}), 0o644))
	}
	for version := int64(1); version <= store.LatestSchema(); version++ {
		backup, err := os.ReadFile(frozen(version))
		require.NoError(t, err, "freeze the new schema: %s=1 go test ./internal/store -run %s", freezeSchema, t.Name())
		for _, d := range dialects {
			if !d.ok() {
				continue
			}
			t.Run(fmt.Sprint(d.name, " from ", version), func(t *testing.T) {
				t.Parallel()
				checkFrozen(t, empty(t, d.open), backup, version)
			})
		}
	}
}

func checkFrozen(t *testing.T, f *fixture, backup []byte, version int64) {
	info, err := store.VerifyBackup(bytes.NewReader(backup))
	require.NoError(t, err)
	require.Equal(t, version, info.Schema)
	restore(t, f, backup, store.RestoreOptions{Move: true})
	have, err := f.SchemaVersion(tctx)
	require.NoError(t, err)
	require.Equal(t, store.LatestSchema(), have)
	entries := f.entries(t)
	require.Equal(t, info.Journal.Hash, entries[info.Journal.Seq-1].Hash)

	byPlaybook := map[string]store.Run{}
	runs, _, err := f.Runs(tctx, store.RunFilter{}, store.Page{})
	require.NoError(t, err)
	for _, r := range runs {
		byPlaybook[r.Playbook] = r
	}
	require.Len(t, byPlaybook, 5)
	require.Equal(t, store.Healed, byPlaybook["healed"].Outcome)
	require.Equal(t, store.WaitVerify, byPlaybook["verifying"].Wait)
	_, err = f.PendingApproval(tctx, byPlaybook["asking"].ID)
	require.NoError(t, err)
	steps, err := f.Steps(tctx, byPlaybook["calling"].ID)
	require.NoError(t, err)
	require.Equal(t, store.StepIntended, steps[0].Status)

	// The lock of a live run still holds: a rival on its target is passed over.
	// The run itself goes on to its end, and then the rival's turn has come.
	f.pass(t, 2*time.Hour)
	f.accept(t, firing("fp-rival", playbook("rival", 0)))
	var rival string
	for _, c := range f.candidates(t, 10) {
		if c.Playbook == "rival" {
			rival = f.resolve(t, c, byPlaybook["calling"].Target).RunID
		}
	}
	require.NotEmpty(t, rival)
	claimed, err := f.ClaimRuns(tctx, "w2", time.Minute, 100)
	require.NoError(t, err)
	at := slices.IndexFunc(claimed, func(r store.Run) bool { return r.ID == byPlaybook["calling"].ID })
	require.GreaterOrEqual(t, at, 0)
	require.False(t, slices.ContainsFunc(claimed, func(r store.Run) bool { return r.ID == rival }), "it is locked")
	f.apply(t, end(claimed[at], store.Healed, ""))
	f.claim(t, rival, "w2")
}

// A database that a newer version has written is refused, on both kinds.
func TestANewerSchemaIsRefused(t *testing.T) {
	contract(t, func(t *testing.T, f *fixture) {
		seed(t, f)
		backup := takeBackup(t, f.Store, store.BackupOptions{})
		require.NoError(t, f.ExecRaw(tctx, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, $1)", true))
		require.NoError(t, f.Close())
		_, err := store.Open(tctx, f.options())
		require.ErrorIs(t, err, store.ErrNewerSchema)
		_, _, err = openForBackup(t, f.dsn)
		require.ErrorIs(t, err, store.ErrNewerSchema)
		if f.Dialect() == "postgres" {
			_, err = store.Restore(context.Background(), bytes.NewReader(backup), store.RestoreOptions{DSN: f.dsn, Force: true})
			require.ErrorIs(t, err, store.ErrNewerSchema)
		}
	})
}
