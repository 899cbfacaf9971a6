package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/playbooks"
)

// Reload reads playbooks and tokens again. What fails leaves everything as it
// was and is returned; the outcome is in the metrics and the journal.
func (a *app) Reload(ctx context.Context) (playbooks.Result, error) {
	res, err := a.playbooks.Reload(ctx)
	if err = errors.Join(err, a.auth.Reload()); err == nil {
		// Said even when nothing changed: who sent the signal wants to know that it arrived.
		a.log.Info("playbooks and tokens were read again", "changed", res.Changed)
	}
	return res, err
}

// beforeSwap stores the snapshots of playbooks before anyone can meet them, so
// that no candidate or run of theirs is without. The set at start is stored when
// the database is open.
func (a *app) beforeSwap(ctx context.Context, set *playbooks.Set) error {
	if a.engine == nil {
		return nil
	}
	return a.snapshotPlaybooks(ctx, set)
}

// reloaded journals a reload by whatever caused it: the signal, the endpoint or
// a changed file.
func (a *app) reloaded(res playbooks.Result) {
	if a.engine == nil {
		return // the load at start; a failure there ends the process
	}
	ctx := context.Background()
	en := journal.Entry{Kind: journal.ConfigReloaded, Actor: a.owner, Cluster: a.cfg.Cluster}
	if res.Err != nil {
		en.Kind, en.Reason = journal.ConfigRejected, "invalid"
		en.Message = "the playbooks were not reloaded, the ones before stay in force: " + res.Err.Error()
	} else {
		if !res.Changed {
			return
		}
		en.Message = fmt.Sprintf("%d playbooks", a.playbooks.Current().Len())
		a.rights.again()
	}
	if err := a.journal(ctx, en); err != nil {
		a.log.Error("journal the reload", "err", err)
	}
}
