package app

import (
	"context"
	"time"

	"github.com/alertmedic/alertmedic/internal/journal"
)

// stopped journals an orderly stop; one that was not is told by its absence.
func (a *app) stopped(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := a.journal(ctx, journal.Entry{Kind: journal.ServiceStopped, Actor: a.owner, Cluster: a.cfg.Cluster}); err != nil {
		a.log.Error("journal the stop", "err", err)
	}
	if _, err := a.store.Seal(ctx, a.owner); err != nil {
		a.log.Warn("seal the journal; the next process does it", "err", err)
	}
	a.log.Info("stopped")
}
