package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// checkedBeforeUse is up to which size, in bytes, an SQLite file is checked
// before it is used. That takes a tenth of a second. A file that has grown for
// years takes minutes from a cold disk, in which Alertmanager would be refused
// and a probe would end the process, again and again.
const checkedBeforeUse = 32 << 20

// checkAgain is the pause after a check that could not be made.
const checkAgain = time.Second

var errQuickCheck = errors.New("the structure of the file is damaged")

// quickCheck reads every page of an SQLite file and fails when its structure is
// damaged.
func quickCheck(ctx context.Context, q querier) error {
	var result string
	if err := q.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&result); err != nil {
		return err
	}
	if result != "ok" {
		return fmt.Errorf("%w: quick_check says: %s", errQuickCheck, result)
	}
	return nil
}

// checkBeforeUse checks the whole file where that takes no time, where a damage
// has been found before, and before a migration, which would write all over it.
// Otherwise it leaves that to checkOn.
func (s *Store) checkBeforeUse(ctx context.Context) error {
	if s.lock == nil {
		return s.checkWhole(ctx)
	}
	info, err := os.Stat(s.loc.file)
	if err != nil {
		return fmt.Errorf("look at the database: %w", err)
	}
	suspected, err := s.lock.suspected()
	if err != nil {
		return err
	}
	if info.Size() > checkedBeforeUse && !suspected {
		if have, err := schemaVersion(ctx, s.db); err == nil && have == latestSchema() {
			return nil
		}
	}
	if err := s.checkWhole(ctx); err != nil {
		return err
	}
	return s.lock.clear()
}

// checkWhole checks the file now. PostgreSQL looks after its own.
func (s *Store) checkWhole(ctx context.Context) error {
	if s.loc.file != "" {
		if err := quickCheck(ctx, s.db); err != nil {
			return err
		}
	}
	close(s.checked)
	return nil
}

// checkOn checks beside everything else what checkBeforeUse has left, until the
// store is closed.
func (s *Store) checkOn(ctx context.Context) {
	select {
	case <-s.checked:
		return
	default:
	}
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.workers.Go(func() {
		began := time.Now()
		s.log.Info("the database file is being checked; webhooks are accepted meanwhile, and runs go on when it is done", "database", s.loc.shown)
		for {
			err := s.wrap("check the database", quickCheck(ctx, s.read))
			switch {
			case err == nil:
				s.log.Info("the database file has been checked and is sound", "database", s.loc.shown, "took", time.Since(began).Round(time.Millisecond).String())
				close(s.checked)
				return
			case ctx.Err() != nil:
				return
			case errors.Is(err, ErrCorrupt):
				s.log.Error("the database is damaged: nothing is written any more, webhooks are answered 503, and no run goes on", "err", err)
				close(s.checked)
				return
			}
			s.log.Error("the database file cannot be checked; no run goes on until it could be, which is tried again", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(checkAgain):
			}
		}
	})
}

// Sound waits until the whole database has been checked and returns nil if it is
// undamaged, ErrCorrupt if it is not, and ErrClosed or ctx's error if that came
// first. On PostgreSQL, and for a file that was
// small when it was opened, it does not wait. Nobody should act on what is stored
// before it has returned. Safe for concurrent use.
func (s *Store) Sound(ctx context.Context) error {
	select {
	case <-s.checked:
		return s.health.damage()
	case <-s.closing:
		return fmt.Errorf("wait for the check of the database: %w", ErrClosed)
	case <-ctx.Done():
		return fmt.Errorf("wait for the check of the database: %w", ctx.Err())
	}
}

// foundDamage stops all writing, and makes the next process check everything
// before it uses anything.
func (s *Store) foundDamage(err error) {
	if !s.health.found(err) || s.lock == nil {
		return
	}
	if err := s.lock.suspect(); err != nil {
		s.log.Warn("the damage could not be noted for the next start, which may find it only after it has accepted webhooks", "err", err)
	}
}
