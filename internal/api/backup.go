package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"

	"github.com/alertmedic/alertmedic/internal/auth"
)

const (
	backupType = "application/gzip"
	// backupTimeout bounds a backup as a whole: while it lasts, the database keeps
	// what it would otherwise clean up.
	backupTimeout = time.Hour
)

func (a *API) registerBackup() {
	op := operation(auth.Admin, huma.Operation{
		OperationID: "backup", Method: http.MethodGet, Path: "/api/v1/backup", Summary: "Take a backup", Tags: []string{"operations"},
		Description: "A consistent snapshot of the database, for `alertmedic restore`, while the service goes on: gzipped lines of JSON, of which the last holds a checksum. " +
			"One that does not end with it is not whole. It holds everything that the log and the runs hold, so keep it like them.",
	}, http.StatusConflict, http.StatusNotImplemented)
	op.Responses = map[string]*huma.Response{"200": {Description: "The backup.",
		Content: map[string]*huma.MediaType{backupType: {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}}}}
	huma.Register(a.huma, op, a.backup)
}

func (a *API) backup(ctx context.Context, _ *struct{}) (*huma.StreamResponse, error) {
	if a.Backup == nil {
		return nil, huma.Error501NotImplemented("this process takes no backups")
	}
	if !a.backingUp.TryLock() {
		return nil, huma.Error409Conflict("another backup is being taken: wait until it is done")
	}
	by := actor(ctx)
	return &huma.StreamResponse{Body: func(hctx huma.Context) {
		defer a.backingUp.Unlock()
		ctx, cancel := context.WithTimeout(hctx.Context(), backupTimeout)
		defer cancel()
		go func() {
			select {
			case <-a.closed:
				cancel()
			case <-ctx.Done():
			}
		}()
		began := time.Now()
		hctx.SetHeader("Content-Type", backupType)
		hctx.SetHeader("Content-Disposition", fmt.Sprintf(`attachment; filename="alertmedic-%s.backup.gz"`, began.UTC().Format("20060102T150405Z")))
		hctx.SetHeader("Cache-Control", "no-store")
		_, rw := humachi.Unwrap(hctx)
		w := &patientWriter{w: rw, control: http.NewResponseController(rw)}
		err := a.Backup(ctx, w)
		if err != nil {
			// The status is sent. A broken connection tells the reader that this is not
			// a backup.
			a.Logger.Error("take a backup", "by", by, "bytes", w.n, "err", err)
			panic(http.ErrAbortHandler)
		}
		a.Logger.Info("backup taken", "by", by, "bytes", w.n, "duration", time.Since(began).String())
	}}, nil
}

// patientWriter replaces the server's write time-out, which is for whole
// answers, by one for standing still.
type patientWriter struct {
	w       io.Writer
	control *http.ResponseController
	n       int64
}

func (p *patientWriter) Write(b []byte) (int, error) {
	if err := p.control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, fmt.Errorf("%w: %w", errReader, err)
	}
	n, err := p.w.Write(b)
	p.n += int64(n)
	if err != nil {
		return n, fmt.Errorf("%w: %w", errReader, err)
	}
	return n, nil
}
