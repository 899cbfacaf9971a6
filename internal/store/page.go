package store

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Bounds of a page.
const (
	defaultLimit = 100
	maxLimit     = 1000
)

func (p Page) limit() int {
	if p.Limit <= 0 {
		return defaultLimit
	}
	return min(p.Limit, maxLimit)
}

func desc(yes bool) string {
	if yes {
		return " DESC"
	}
	return ""
}

// cursor is a position in a listing: the key of the last item of a page. Keys
// never change, so items that are added meanwhile neither repeat nor hide one.
type cursor struct {
	kind       string
	descending bool
	n          int64
	id         string
}

const (
	cursorLog  = "log"
	cursorRuns = "runs"
)

func (c cursor) encode() string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "1|%s|%t|%d|%s", c.kind, c.descending, c.n, c.id))
}

// decodeCursor refuses what encode did not write for the same kind of listing.
func decodeCursor(s, kind string, descending bool) (cursor, error) {
	bad := func() (cursor, error) {
		return cursor{}, fmt.Errorf("%w: begin again without one, or keep the listing and its order the same", ErrBadCursor)
	}
	raw, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return bad()
	}
	parts := strings.SplitN(string(raw), "|", 5)
	if len(parts) != 5 || parts[0] != "1" || parts[1] != kind || parts[2] != strconv.FormatBool(descending) {
		return bad()
	}
	n, err := strconv.ParseInt(parts[3], 10, 64)
	if err != nil || n < 1 {
		return bad()
	}
	return cursor{kind: kind, descending: descending, n: n, id: text(parts[4])}, nil
}

// where collects the conditions of a query and their parameters.
type where struct {
	conds []string
	args  []any
}

// add appends a condition whose %d are the numbers of its parameters.
func (w *where) add(cond string, args ...any) {
	nums := make([]any, len(args))
	for i := range args {
		nums[i] = len(w.args) + i + 1
	}
	w.conds = append(w.conds, fmt.Sprintf(cond, nums...))
	w.args = append(w.args, args...)
}

// equal selects by a column unless v is "".
func (w *where) equal(column, v string) {
	if v != "" {
		w.add(column+" = $%d", text(v))
	}
}

// span selects [since, until) unless the bounds are zero.
func (w *where) span(column string, since, until time.Time) {
	if !since.IsZero() {
		w.add(column+" >= $%d", micros(since))
	}
	if !until.IsZero() {
		w.add(column+" < $%d", micros(until))
	}
}

func (w *where) String() string {
	if len(w.conds) == 0 {
		return "1 = 1"
	}
	return strings.Join(w.conds, " AND ")
}
