package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// Backup writes a backup of the service's database to w. That it is whole is for
// store.VerifyBackup to say.
func (c *Client) Backup(ctx context.Context, w io.Writer) error {
	resp, err := c.send(ctx, http.MethodGet, "/api/v1/backup", nil, nil, "application/gzip, application/problem+json") //nolint:bodyclose // closed below
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("receive the backup; the service's log says more if the fault is there: %w", err)
	}
	return nil
}

// Entries hands every entry that f selects to yield, in the order of seq,
// without holding more than one.
func (c *Client) Entries(ctx context.Context, f store.LogFilter, yield func(journal.Entry) error) error {
	resp, err := c.send(ctx, http.MethodGet, "/api/v1/log", logValues(f), nil, "application/x-ndjson") //nolint:bodyclose // closed below
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for dec := json.NewDecoder(resp.Body); ; {
		var en journal.Entry
		if err := dec.Decode(&en); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read the log: %w", err)
		}
		if err := yield(en); err != nil {
			return err
		}
	}
}
