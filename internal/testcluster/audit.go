package testcluster

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

// AuditLog is the path of the API server's audit log, one JSON event a line.
// It holds every mutation that was not made by the control plane itself, with
// request and response, and a line without bodies for each read.
func (c *Cluster) AuditLog() string { return filepath.Join(c.dir, "audit.log") }

// AuditEvents returns the finished requests that the API server received at or
// after since, in the order of their ends. An event is in the log before its
// request is answered, so what a test did and was answered is here. The
// control plane's own requests are not.
func (c *Cluster) AuditEvents(since time.Time) ([]auditv1.Event, error) {
	f, err := os.Open(c.AuditLog())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var events []auditv1.Event
	lines := bufio.NewReaderSize(f, 1<<20)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return events, nil // what has no newline yet is still being written
		}
		if err != nil {
			return nil, err
		}
		var event auditv1.Event
		if err := json.Unmarshal(line, &event); err != nil {
			return nil, fmt.Errorf("audit log: %w", err)
		}
		if event.RequestReceivedTimestamp.Time.Before(since) || event.Stage == auditv1.StageResponseStarted {
			continue
		}
		events = append(events, event)
	}
}

// Mutations are the AuditEvents that changed something or tried to: all verbs
// but get, list and watch. Requests with dryRun=All are among them.
func (c *Cluster) Mutations(since time.Time) ([]auditv1.Event, error) {
	events, err := c.AuditEvents(since)
	if err != nil {
		return nil, err
	}
	mutations := events[:0]
	for _, e := range events {
		switch e.Verb {
		case "get", "list", "watch":
		default:
			mutations = append(mutations, e)
		}
	}
	return mutations, nil
}
