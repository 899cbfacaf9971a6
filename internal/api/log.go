package api

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/alertmedic/alertmedic/internal/auth"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

type logInput struct {
	PageInput
	Kind        string    `query:"kind" doc:"Of the entry, such as step.intent."`
	Playbook    string    `query:"playbook"`
	Namespace   string    `query:"namespace" doc:"Of the target."`
	TargetKind  string    `query:"targetKind"`
	Target      string    `query:"target" doc:"The target's name."`
	Run         string    `query:"run" doc:"The run's id."`
	Episode     string    `query:"episode" doc:"The episode's id."`
	Fingerprint string    `query:"fingerprint" doc:"Of the alert."`
	AlertName   string    `query:"alertname"`
	Action      string    `query:"action"`
	Outcome     string    `query:"outcome"`
	Reason      string    `query:"reason"`
	Since       time.Time `query:"since" doc:"At or after."`
	Until       time.Time `query:"until" doc:"Before."`
	AfterSeq    int64     `query:"afterSeq" minimum:"0" doc:"Entries with a greater seq."`
	Follow      bool      `query:"follow" doc:"Stream NDJSON, and go on with new entries until the reader leaves. An empty line is a heartbeat."`
}

// Resolve implements huma.Resolver: a kind that there is none of would find nothing,
// and look like an answer.
func (in *logInput) Resolve(huma.Context) []error {
	if in.Kind == "" || slices.Contains(journal.Kinds(), journal.Kind(in.Kind)) {
		return nil
	}
	var known []string
	for _, k := range journal.Kinds() {
		known = append(known, string(k))
	}
	return []error{&huma.ErrorDetail{Location: "query.kind", Value: in.Kind, Message: "no entry is of this kind; the kinds are " + strings.Join(known, ", ")}}
}

func (in *logInput) filter() store.LogFilter {
	return store.LogFilter{Kind: in.Kind, Playbook: in.Playbook, Namespace: in.Namespace, RunID: in.Run, EpisodeID: in.Episode,
		Fingerprint: in.Fingerprint, AlertName: in.AlertName, Action: in.Action, Outcome: in.Outcome, Reason: in.Reason,
		TargetKind: in.TargetKind, TargetName: in.Target, Since: in.Since, Until: in.Until, AfterSeq: in.AfterSeq}
}

func (a *API) registerLog() {
	op := operation(auth.View, huma.Operation{
		OperationID: "list-log", Method: http.MethodGet, Path: "/api/v1/log", Summary: "Read the remediation log", Tags: []string{"log"},
		Description: "Sealed entries in the order of their seq, unless order says otherwise. With `Accept: application/x-ndjson` every entry that the filters select is streamed, one a line; with `follow=true` the stream goes on.",
	}, http.StatusBadRequest)
	listResponses[EntryList, journal.Entry](a, &op)
	huma.Register(a.huma, op, a.listLog)
}

func (a *API) listLog(ctx context.Context, in *logInput) (*huma.StreamResponse, error) {
	page := in.page(false)
	switch {
	case in.Follow && (page.Descending || page.Cursor != "" || in.Limit != 0):
		return nil, huma.Error400BadRequest("follow goes on for ever from afterSeq: leave out limit, cursor and order=desc")
	case in.Follow:
		return a.stream(ctx, func(ctx context.Context, w *lineWriter) error { return a.follow(ctx, in.filter(), w) })
	case in.ndjson():
		return a.stream(ctx, func(ctx context.Context, w *lineWriter) error {
			return pages(ctx, page, in.Limit, w, func(ctx context.Context, p store.Page) ([]journal.Entry, string, error) {
				return a.Store.Log(ctx, in.filter(), p)
			})
		})
	}
	entries, next, err := a.Store.Log(ctx, in.filter(), page)
	if err != nil {
		return nil, a.problem(ctx, "read the log", err)
	}
	if entries == nil {
		entries = []journal.Entry{}
	}
	return a.json(EntryList{Items: entries, NextCursor: next}), nil
}

// follow writes the entries that f selects as they are sealed, until the reader
// leaves or the service stops.
func (a *API) follow(ctx context.Context, f store.LogFilter, w *lineWriter) error {
	heartbeat := time.NewTicker(a.Heartbeat)
	defer heartbeat.Stop()
	poll := time.NewTicker(a.Poll)
	defer poll.Stop()
	if err := w.beat(); err != nil { // the reader learns at once that it is connected
		return err
	}
	for {
		changed := a.Store.Changed()
		// Entries are sealed in order and never change: once everything up to the
		// head was looked at, it need not be looked at again, whether or not the
		// filter selected any of it.
		head, _, err := a.Store.Log(ctx, store.LogFilter{}, store.Page{Limit: 1, Descending: true})
		if err != nil {
			return err
		}
		if len(head) > 0 && head[0].Seq > f.AfterSeq {
			err := pages(ctx, store.Page{Limit: MaxLimit}, 0, w, func(ctx context.Context, p store.Page) ([]journal.Entry, string, error) {
				entries, next, err := a.Store.Log(ctx, f, p)
				for i, en := range entries {
					if en.Seq > head[0].Seq { // sealed since: the next round's
						return entries[:i], "", err
					}
				}
				return entries, next, err
			})
			if err != nil {
				return err
			}
			f.AfterSeq = head[0].Seq
			heartbeat.Reset(a.Heartbeat)
		}
		if !f.Until.IsZero() && time.Now().After(f.Until) {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-poll.C:
		case <-heartbeat.C:
			if err := w.beat(); err != nil {
				return err
			}
		}
	}
}
