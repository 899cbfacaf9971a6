package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/api"
	"github.com/alertmedic/alertmedic/internal/api/apitest"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// database is a SQLite file with some entries, and a configuration that names it.
type database struct {
	*fixture
	dir, config, dsn string
}

func newDatabase(t *testing.T, entries int) *database {
	t.Helper()
	dir := t.TempDir()
	d := &database{fixture: setup(t, apitest.Admin), dir: dir, config: filepath.Join(dir, "alertmedic.yaml"), dsn: filepath.Join(dir, "medic.db")}
	require.NoError(t, os.WriteFile(d.config, fmt.Appendf(nil, "cluster: c\nsources: [{name: am}]\nsafety: {mode: Approve}\nstore: {dsn: %q}\n", d.dsn), 0o600))
	if entries > 0 {
		d.with(t, func(s *store.Store) {
			for i := range entries {
				require.NoError(t, s.Append(t.Context(), journal.Entry{Kind: journal.ConfigReloaded, Message: fmt.Sprint("entry ", i)}))
			}
			_, err := s.Seal(t.Context(), "test")
			require.NoError(t, err)
		})
	}
	return d
}

func (d *database) with(t *testing.T, fn func(*store.Store)) {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{DSN: d.dsn})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	fn(s)
}

// serve lets the fixture's server answer from the database.
func (d *database) serve(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{DSN: d.dsn})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	d.env[envServer] = apitest.Server(t, nil, func(o *api.Options) {
		o.Store = s
		o.Backup = func(ctx context.Context, w io.Writer) error {
			_, err := s.Backup(ctx, w, store.BackupOptions{Program: "v1"})
			return err
		}
	}).URL
	return s
}

func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, 3)
	s := d.serve(t)
	file := filepath.Join(d.dir, "a.backup")
	r := d.run(t, "backup", "-o", file)
	require.Equal(t, exitOK, r.code, r.err)
	require.Contains(t, r.err, "a.backup: 0 runs, 0 episodes, 3 log entries, as of ")
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "it holds what the log holds")
	r = d.run(t, "backup", "-o", "-")
	require.Equal(t, exitOK, r.code, r.err)
	_, err = store.VerifyBackup(strings.NewReader(r.out))
	require.NoError(t, err)

	// The file cannot be read under the service, nor be replaced.
	for _, args := range [][]string{{"backup", "--config", d.config, "-o", file}, {"restore", "--config", d.config, "--force", file}} {
		r = d.run(t, args...)
		require.Equal(t, exitRefused, r.code, r.err)
		require.Contains(t, r.err, "in use by another process")
	}
	require.NoError(t, s.Close())
	r = d.run(t, "restore", "--config", d.config, file)
	require.Equal(t, exitRefused, r.code, r.err)
	require.Contains(t, r.err, "holds 0 runs, 0 episodes, 3 journal entries; --force replaces all of it with the backup of")
	r = d.run(t, "restore", "--config", d.config, "--force", file)
	require.Equal(t, exitOK, r.code, r.err)
	require.Contains(t, r.out, "the log's chain holds up to seq 3\nthe database before is kept as "+d.dsn+".before-restore-")
	require.Contains(t, r.out, "paused: start the service, look at what fires and at what was done since ")

	// A move, from the standard input, to another place.
	r = d.run(t, "backup", "--config", d.config, "-o", file)
	require.Equal(t, exitOK, r.code, r.err)
	require.Contains(t, r.err, " 5 log entries")
	to := newDatabase(t, 0)
	backup, err := os.ReadFile(file)
	require.NoError(t, err)
	to.in = bytes.NewReader(backup)
	r = to.run(t, "restore", "--config", to.config, "--move", "-o", "json", "-")
	require.Equal(t, exitOK, r.code, r.err)
	var got store.Restored
	require.NoError(t, json.Unmarshal([]byte(r.out), &got))
	require.False(t, got.Paused)
	require.True(t, got.Backup.Stopped)
	left, err := filepath.Glob(filepath.Join(d.dir, "*.partial"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestRestoreTellsWhatItEnded(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, 0)
	d.with(t, func(s *store.Store) {
		a := alert.Alert{Status: alert.Firing, Fingerprint: "f", StartsAt: time.Unix(1, 0), Labels: map[string]string{"alertname": "Broken"}}
		_, err := s.Accept(t.Context(), store.Batch{Observations: []store.Observation{{Source: "am", Cluster: "c", Alert: a,
			Playbooks: []store.MatchedPlaybook{{Name: "p", Hash: "h", ExpireAfter: time.Hour}}}}})
		require.NoError(t, err)
	})
	file := filepath.Join(d.dir, "a.backup")
	require.Equal(t, exitOK, d.run(t, "backup", "--config", d.config, "-o", file).code)
	to := newDatabase(t, 0)
	r := to.run(t, "restore", "--config", to.config, file)
	require.Equal(t, exitOK, r.code, r.err)
	require.Contains(t, r.out, "1 candidate ended before a run began\n")
	s := to.serve(t)
	_, err := s.Seal(t.Context(), "test")
	require.NoError(t, err)
	require.Contains(t, to.run(t, "pause", "--list").out, "restored from the backup of")
	require.Contains(t, to.run(t, "log", "--kind", "service.restored").out, "whatever came after it is not in this log")
	require.Contains(t, to.run(t, "log", "--kind", "candidate.ended").out, "cancelled (restored)")
}

func TestBackupMistakes(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, 1)
	file := filepath.Join(d.dir, "a.backup")
	require.Equal(t, exitOK, d.run(t, "backup", "--config", d.config, "-o", file).code)
	good, err := os.ReadFile(file)
	require.NoError(t, err)
	cut := filepath.Join(d.dir, "cut.backup")
	require.NoError(t, os.WriteFile(cut, good[:len(good)-10], 0o600))
	viewer := setup(t, apitest.Viewer)
	nothing := newDatabase(t, 0)
	for _, tt := range []struct {
		f    *fixture
		args []string
		code int
		says string
	}{
		{d.fixture, []string{"backup"}, exitUsage, "-o is required"},
		{d.fixture, []string{"backup", "--config", d.config, "--server", "http://x", "-o", file}, exitUsage, "leave one out"},
		{d.fixture, []string{"backup", "-o", filepath.Join(d.dir, "no", "where")}, exitError, "no such file or directory"},
		{d.fixture, []string{"backup", "--config", filepath.Join(d.dir, "none.yaml"), "-o", file}, exitError, "there is no such file"},
		{nothing.fixture, []string{"backup", "--config", nothing.config, "-o", file}, exitError, "is store.dsn right"},
		{viewer, []string{"backup", "-o", file}, exitRefused, "does not have the role admin"},
		{d.fixture, []string{"restore", "--config", d.config}, exitUsage, "name one file, the backup"},
		{d.fixture, []string{"restore", "--config", d.config, cut + "none"}, exitError, "no such file"},
		{nothing.fixture, []string{"restore", "--config", nothing.config, cut}, exitProblems, "it is cut off"},
		{nothing.fixture, []string{"restore", "--config", nothing.config, d.config}, exitProblems, "does not begin as one"},
		{d.fixture, []string{"verify", cut}, exitProblems, "it is cut off"},
		{d.fixture, []string{"verify", cut, cut}, exitUsage, "name one backup"},
		{d.fixture, []string{"verify", "--checkpoints", cut}, exitUsage, "key"},
	} {
		r := tt.f.run(t, tt.args...)
		require.Equal(t, tt.code, r.code, "%v: %s%s", tt.args, r.out, r.err)
		require.Contains(t, r.out+r.err, tt.says)
	}
	after, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, good, after, "a backup that fails leaves the one before")
	require.NoFileExists(t, nothing.dsn)
}

// verify finds what was altered, over the API and in a backup, and with
// checkpoints also that the whole chain was made anew.
func TestVerify(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, 5)
	key, err := journal.GenerateKey()
	require.NoError(t, err)
	public, err := journal.PublicPEM(key.Public().(ed25519.PublicKey))
	require.NoError(t, err)
	pem, lines := filepath.Join(d.dir, "key.pem"), filepath.Join(d.dir, "checkpoints")
	require.NoError(t, os.WriteFile(pem, public, 0o600))
	checkpoint := func(heads ...journal.Head) {
		var b strings.Builder
		for _, h := range heads {
			line, err := json.Marshal(journal.Sign(key, h, now))
			require.NoError(t, err)
			fmt.Fprintf(&b, "%s\n", line)
		}
		require.NoError(t, os.WriteFile(lines, []byte(b.String()), 0o600))
	}
	s := d.serve(t)
	entries, _, err := s.Log(t.Context(), store.LogFilter{}, store.Page{})
	require.NoError(t, err)
	head := journal.Head{Seq: 3, Hash: entries[2].Hash}
	checkpoint(head, journal.Head{Seq: 5, Hash: entries[4].Hash})
	file := filepath.Join(d.dir, "a.backup")
	require.Equal(t, exitOK, d.run(t, "backup", "-o", file).code)

	for _, args := range [][]string{{"verify"}, {"verify", file}} {
		r := d.run(t, args...)
		require.Equal(t, exitOK, r.code, r.err)
		require.Equal(t, "the log holds up to seq 5\n", r.out)
		r = d.run(t, append(args, "--checkpoints", lines, "--key", pem)...)
		require.Equal(t, exitOK, r.code, r.err)
		require.Equal(t, "the log holds up to seq 5; it agrees with 2 checkpoints\n", r.out)
	}
	checkpoint(head, journal.Head{Seq: 4, Hash: entries[0].Hash}, journal.Head{Seq: 6, Hash: entries[0].Hash})
	r := d.run(t, "verify", "--checkpoints", lines, "--key", pem)
	require.Equal(t, exitProblems, r.code)
	require.Contains(t, r.out, "the chain breaks at seq 4 (hash)")
	checkpoint(journal.Head{Seq: 6, Hash: entries[0].Hash})
	r = d.run(t, "verify", file, "--checkpoints", lines, "--key", pem)
	require.Equal(t, exitProblems, r.code)
	require.Contains(t, r.out, "the chain breaks at seq 6 (truncated)")
	require.NoError(t, os.WriteFile(lines, []byte(`{"seq":3,"keyID":"other"}`), 0o600))
	r = d.run(t, "verify", "--checkpoints", lines, "--key", pem)
	require.Equal(t, exitError, r.code)
	require.Contains(t, r.err, "checkpoints:1: the signature does not fit")

	// Somebody writes to the database, past the service.
	db, err := sql.Open("sqlite", d.dsn)
	require.NoError(t, err)
	defer db.Close()
	_, err = db.ExecContext(t.Context(), `UPDATE journal SET doc = replace(doc, 'entry 3', 'entry 9') WHERE seq = 4`)
	require.NoError(t, err)
	r = d.run(t, "verify", "-o", "json")
	require.Equal(t, exitProblems, r.code, r.err)
	var got verified
	require.NoError(t, json.Unmarshal([]byte(r.out), &got))
	require.EqualValues(t, 4, got.BadSeq)
	require.EqualValues(t, 3, got.Seq)
	require.Contains(t, got.Problem, "it was changed after it was sealed")

	// Such a log can be backed up, which is told, and restored when that is wanted.
	r = d.run(t, "backup", "-o", file)
	require.Equal(t, exitProblems, r.code)
	require.Contains(t, r.err, "a.backup is written, and may be restored with --broken-log: the backup cannot be used: it is whole, but its remediation log was tampered with, before the backup was taken: the chain breaks at seq 4 (hash)")
	to := newDatabase(t, 0)
	r = to.run(t, "restore", "--config", to.config, file)
	require.Equal(t, exitProblems, r.code)
	require.Contains(t, r.err, "tampered with")
	require.NoFileExists(t, to.dsn)
	r = to.run(t, "restore", "--config", to.config, "--broken-log", file)
	require.Equal(t, exitOK, r.code, r.err)
	require.Contains(t, r.out, "the log's chain is broken, as `alertmedic verify` says")
}
