package app

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/alertmedic/alertmedic/internal/journal"
)

// checkpoints signs the head of the sealed journal and takes the signature out
// of the database: to the process's log, which the cluster collects, and to a
// file. Tampering before the last checkpoint is provable from then on.
func (a *app) checkpoints(ctx context.Context) error {
	key, err := a.checkpointKey()
	if err != nil {
		return err
	}
	public, err := journal.PublicPEM(key.Public().(ed25519.PublicKey))
	if err != nil {
		return err
	}
	a.log.Info("journal checkpoints are signed", "key", journal.KeyID(key.Public().(ed25519.PublicKey)), "public", string(public))
	tick := time.NewTicker(a.cfg.Journal.CheckpointInterval)
	defer tick.Stop()
	last := int64(-1)
	for {
		if last, err = a.checkpoint(context.WithoutCancel(ctx), key, last); err != nil {
			a.log.Error("write a journal checkpoint; trying again", "err", err, "after", a.cfg.Journal.CheckpointInterval)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (a *app) checkpointKey() (ed25519.PrivateKey, error) {
	if file := a.cfg.Journal.CheckpointKeyFile; file != "" {
		key, err := journal.LoadOrCreateKey(file)
		if err != nil {
			return nil, fmt.Errorf("journal.checkpointKeyFile: %w", err)
		}
		return key, nil
	}
	return journal.GenerateKey()
}

// checkpoint writes one when the journal has grown, and returns its seq.
func (a *app) checkpoint(ctx context.Context, key ed25519.PrivateKey, last int64) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	seq, hash, err := a.store.LastSealed(ctx)
	if err != nil {
		return last, fmt.Errorf("read the head of the journal: %w", err)
	}
	if seq == last || seq == 0 {
		return last, nil
	}
	now, err := a.store.Now(ctx)
	if err != nil {
		return last, err
	}
	cp := journal.Sign(key, journal.Head{Seq: seq, Hash: hash}, now)
	line, err := json.Marshal(cp)
	if err != nil {
		return last, fmt.Errorf("encode the checkpoint: %w", err)
	}
	a.log.Info("journal checkpoint", "checkpoint", string(line))
	if file := a.cfg.Journal.CheckpointFile; file != "" {
		if err := appendLine(file, line); err != nil {
			return last, fmt.Errorf("journal.checkpointFile: %w", err)
		}
	}
	return seq, nil
}

func appendLine(file string, line []byte) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	if _, err = f.Write(append(line, '\n')); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
