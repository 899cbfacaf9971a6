package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"

	"github.com/alertmedic/alertmedic/internal/store"
)

const ndjsonType = "application/x-ndjson"

// PageInput are the parameters of every listing. (Exported for huma, which
// cannot fill embedded fields that are not.)
type PageInput struct {
	Limit  int    `query:"limit" minimum:"0" maximum:"1000" doc:"Items of a page, 100 by default; of a whole NDJSON stream, all by default."`
	Cursor string `query:"cursor" maxLength:"1024" doc:"nextCursor of the page before, with the same filters and order."`
	Order  string `query:"order" enum:"asc,desc" doc:"By time."`
	Accept string `header:"Accept"`
}

func (in *PageInput) page(newestFirst bool) store.Page {
	p := store.Page{Limit: in.Limit, Cursor: in.Cursor, Descending: newestFirst}
	if p.Limit == 0 {
		p.Limit = DefaultLimit
	}
	if in.Order != "" {
		p.Descending = in.Order == "desc"
	}
	return p
}

func (in *PageInput) ndjson() bool {
	for part := range strings.SplitSeq(in.Accept, ",") {
		if media, _, err := mime.ParseMediaType(part); err == nil && (media == ndjsonType || media == "application/jsonl") {
			return true
		}
	}
	return false
}

// listResponses documents that a listing answers with JSON or with NDJSON.
func listResponses[List, Item any](a *API, op *huma.Operation) {
	schemas := a.huma.OpenAPI().Components.Schemas
	op.Responses = map[string]*huma.Response{"200": {
		Description: "A page, or the whole listing as a stream.",
		Content: map[string]*huma.MediaType{
			"application/json": {Schema: schemas.Schema(typeOf[List](), true, "")},
			ndjsonType:         {Schema: schemas.Schema(typeOf[Item](), true, "")},
		},
	}}
}

// json answers with one document. (A handler of a listing cannot return it as a
// typed body, because it may have to stream instead.)
func (a *API) json(body any) *huma.StreamResponse {
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		ctx.SetHeader("Content-Type", "application/json")
		if err := json.NewEncoder(ctx.BodyWriter()).Encode(body); err != nil {
			a.Logger.Debug("answer", "err", err)
		}
	}}
}

// stream answers with NDJSON, written by write until it returns. A reader that
// stands still, leaves, or the service's end cancel write's context.
func (a *API) stream(_ context.Context, write func(ctx context.Context, w *lineWriter) error) (*huma.StreamResponse, error) {
	select {
	case a.streams <- struct{}{}:
	default:
		return nil, huma.Error503ServiceUnavailable(fmt.Sprintf("%d streams are open, which is the most: close one, or read pages", maxStreams))
	}
	return &huma.StreamResponse{Body: func(hctx huma.Context) {
		defer func() { <-a.streams }()
		ctx, cancel := context.WithCancel(hctx.Context())
		defer cancel()
		go func() {
			select {
			case <-a.closed:
				cancel()
			case <-ctx.Done():
			}
		}()
		hctx.SetHeader("Content-Type", ndjsonType)
		hctx.SetHeader("Cache-Control", "no-store")
		hctx.SetHeader("X-Accel-Buffering", "no") // a proxy must not hold entries back
		_, rw := humachi.Unwrap(hctx)
		w := &lineWriter{buffer: bufio.NewWriter(rw), control: http.NewResponseController(rw)}
		err := write(ctx, w)
		if err != nil && ctx.Err() == nil && !errors.Is(err, errReader) {
			// The status is sent. A broken connection tells the reader that this
			// is not the end of the listing.
			a.Logger.Error("stream", "err", err)
			panic(http.ErrAbortHandler)
		}
	}}, nil
}

// errReader marks a failed write: the reader has left.
var errReader = errors.New("the reader has left")

// lineWriter writes one JSON document a line.
type lineWriter struct {
	buffer  *bufio.Writer
	control *http.ResponseController
}

func (w *lineWriter) line(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode an item: %w", err)
	}
	if err := w.deadline(); err != nil {
		return err
	}
	if _, err := w.buffer.Write(append(data, '\n')); err != nil {
		return fmt.Errorf("%w: %w", errReader, err)
	}
	return nil
}

// beat writes an empty line, which readers of NDJSON pass over.
func (w *lineWriter) beat() error {
	if err := w.deadline(); err != nil {
		return err
	}
	if err := w.buffer.WriteByte('\n'); err != nil {
		return fmt.Errorf("%w: %w", errReader, err)
	}
	return w.flush()
}

func (w *lineWriter) flush() error {
	if err := w.buffer.Flush(); err != nil {
		return fmt.Errorf("%w: %w", errReader, err)
	}
	if err := w.control.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("%w: %w", errReader, err)
	}
	return nil
}

// deadline replaces the server's write time-out, which is for whole answers.
func (w *lineWriter) deadline() error {
	if err := w.control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("%w: %w", errReader, err)
	}
	return nil
}

// pages writes the items of all pages, at most limit of them unless it is 0. A
// page is in memory before it is written, so that a slow reader holds no
// connection to the database.
func pages[T any](ctx context.Context, page store.Page, limit int, w *lineWriter, fetch func(context.Context, store.Page) ([]T, string, error)) error {
	if limit == 0 {
		page.Limit = MaxLimit
	}
	for {
		items, next, err := fetch(ctx, page)
		if err != nil {
			return err
		}
		for _, it := range items {
			if err := w.line(it); err != nil {
				return err
			}
		}
		if err := w.flush(); err != nil {
			return err
		}
		if next == "" || limit > 0 {
			return nil
		}
		page.Cursor = next
	}
}
