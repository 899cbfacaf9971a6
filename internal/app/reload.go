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

// reloaded journals a reload by whatever caused it: the signal, the endpoint or
// a changed file. The snapshots are stored before the set is used by anyone: the
// manager calls this before it swaps.
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
		if err := a.snapshotPlaybooks(ctx); err != nil {
			a.log.Error("store the snapshots of the playbooks; candidates of new ones are refused until it succeeds", "err", err)
		}
		a.rights.again()
	}
	if err := a.journal(ctx, en); err != nil {
		a.log.Error("journal the reload", "err", err)
	}
}
