package store_test

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// writeLongBackup writes a backup with n sealed entries of about a kilobyte,
// without holding them.
func writeLongBackup(w io.Writer, n int) error {
	sum := sha256.New()
	line := func(v any) error {
		doc, err := json.Marshal(v)
		if err == nil {
			_, err = io.MultiWriter(w, sum).Write(append(doc, '\n'))
		}
		return err
	}
	columns := []string{"id", "recorded", "ord", "seq", "prev_hash", "hash", "at", "kind", "run_id", "episode_id", "fingerprint", "alertname",
		"playbook", "namespace", "target_kind", "target_name", "action", "outcome", "reason", "doc"}
	// The chain is made twice: its head stands in the first line.
	chain := func(yield func(journal.Entry) error) (journal.Head, error) {
		var head journal.Head
		for i := range n {
			e := journal.Entry{ID: fmt.Sprintf("%036d", i), At: begun.Add(time.Duration(i) * time.Second), Kind: journal.StepDone, AlertName: "Broken",
				Playbook: fmt.Sprint("p", i%50), Message: strings.Repeat("what happened ", 50)}
			if err := journal.Seal(head.Hash, head.Seq+1, &e); err != nil {
				return head, err
			}
			head = journal.Head{Seq: e.Seq, Hash: e.Hash}
			if err := yield(e); err != nil {
				return head, err
			}
		}
		return head, nil
	}
	head, err := chain(func(journal.Entry) error { return nil })
	if err != nil {
		return err
	}
	if err := line(store.BackupHeader{Format: "alertmedic-backup", Version: 1, Schema: store.LatestSchema(), TakenAt: begun, Stopped: true, Journal: head}); err != nil {
		return err
	}
	if err := line(map[string]any{"table": "journal", "columns": columns}); err != nil {
		return err
	}
	if _, err := chain(func(e journal.Entry) error {
		seq, prev, hash := e.Seq, e.PrevHash, e.Hash
		e.Seq, e.PrevHash, e.Hash = 0, "", ""
		doc, err := json.Marshal(e)
		if err != nil {
			return err
		}
		return line([]any{e.ID, e.At.UnixMicro(), seq, seq, prev, hash, e.At.UnixMicro(), e.Kind, "", "", "", e.AlertName, e.Playbook, "", "", "", "", "", "", string(doc)})
	}); err != nil {
		return err
	}
	return line(map[string]any{"rows": map[string]int{"journal": n}, "sha256": hex.EncodeToString(sum.Sum(nil))})
}

// peak is the most that the heap has held while it was looked at.
type peak struct {
	before, most uint64
	writes       int
}

func newPeak() *peak {
	runtime.GC()
	runtime.GC() // what the first one found in pools
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return &peak{before: m.HeapAlloc, most: m.HeapAlloc}
}

func (p *peak) Write(b []byte) (int, error) {
	if p.writes++; p.writes%4 == 0 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		if m.HeapAlloc > p.most+1<<20 {
			runtime.GC() // on a busy machine the collector is behind, and garbage is not what is held
			runtime.ReadMemStats(&m)
		}
		p.most = max(p.most, m.HeapAlloc)
	}
	return len(b), nil
}

// However long the log is, backup and restore hold a few rows of it. Not
// parallel: the heap is everybody's.
func TestBackupAndRestoreHoldAFewRows(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(10)) // garbage is not what is held
	entries := 20_000
	if soak {
		entries = 200_000
	}
	for _, d := range dialects {
		if !d.ok() {
			continue
		}
		t.Run(d.name, func(t *testing.T) {
			f := empty(t, d.open)
			grown := func(what string, p *peak, began time.Time) {
				more := (p.most - p.before) >> 20
				t.Logf("%s of %d entries: %d MiB more on the heap, %s", what, entries, more, time.Since(began).Round(time.Millisecond))
				require.LessOrEqual(t, more, uint64(16))
			}
			pr, pw := io.Pipe()
			held, began := newPeak(), time.Now()
			done := make(chan struct{})
			go func() {
				defer close(done)
				w := bufio.NewWriterSize(io.MultiWriter(pw, held), 256<<10)
				err := writeLongBackup(w, entries)
				if err == nil {
					err = w.Flush()
				}
				pw.CloseWithError(err)
			}()
			_, err := store.Restore(tctx, pr, store.RestoreOptions{DSN: f.dsn, Move: true})
			require.NoError(t, err)
			<-done
			grown("restore", held, began)
			f.Store = f.open(t, t)

			held, began = newPeak(), time.Now()
			pr, pw = io.Pipe()
			done = make(chan struct{})
			go func() {
				defer close(done)
				_, err := f.Backup(tctx, io.MultiWriter(pw, held), store.BackupOptions{})
				pw.CloseWithError(err)
			}()
			info, err := store.VerifyBackup(pr)
			require.NoError(t, err)
			<-done
			require.EqualValues(t, entries, info.Journal.Seq)
			grown("backup and verification", held, began)
		})
	}
}
