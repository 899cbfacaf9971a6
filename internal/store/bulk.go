package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// bulk is a statement that writes rows of one shape: on PostgreSQL all of them
// at once, since a round trip costs more than a row; on SQLite one after
// another, by prepared statements: one for 16 rows takes a fifth longer for a
// thousand alerts there, one for 64 twice as long.
type bulk struct {
	columns []column
	one     string // for one row
	// PostgreSQL's form for any number of rows: before, then one array for each
	// column, then after.
	before, after string
}

// all is the form for any number of rows, whose first parameter is number from.
func (b bulk) all(from int) string {
	arrays := make([]string, len(b.columns))
	for i, c := range b.columns {
		arrays[i] = fmt.Sprintf("$%d::%s[]", from+i, c.kind)
	}
	return b.before + "unnest(" + strings.Join(arrays, ", ") + ")" + b.after
}

// column is one of a bulk, with its type on PostgreSQL.
type column struct{ name, kind string }

func texts(names ...string) []column { return typed("text", names) }
func ints(names ...string) []column  { return typed("bigint", names) }

func typed(kind string, names []string) []column {
	out := make([]column, len(names))
	for i, name := range names {
		out[i] = column{name, kind}
	}
	return out
}

// insert makes the bulk of INSERT INTO table; conflict is its last clause.
func insert(table, conflict string, columns ...[]column) bulk {
	b := bulk{columns: slices.Concat(columns...)}
	var names, params []string
	for i, c := range b.columns {
		names = append(names, c.name)
		params = append(params, fmt.Sprintf("$%d", i+1))
	}
	into := "INSERT INTO " + table + " (" + strings.Join(names, ", ") + ") "
	b.one = into + "VALUES (" + strings.Join(params, ", ") + ") " + conflict
	b.before, b.after = into+"SELECT * FROM ", " "+conflict
	return b
}

// write writes the rows, whose values are strings and int64s, and returns how
// many rows of the table changed.
func (t *txn) write(ctx context.Context, b bulk, rows [][]any) (int64, error) {
	if t.s.dialect.arrays && len(rows) > 1 {
		return t.affected(ctx, b.all(1), b.arrays(rows)...)
	}
	var sum int64
	for _, row := range rows {
		n, err := t.affected(ctx, b.one, row...)
		if err != nil {
			return sum, err
		}
		sum += n
	}
	return sum, nil
}

// arrays turns rows into columns.
func (b bulk) arrays(rows [][]any) []any {
	out := make([]any, len(b.columns))
	for i, c := range b.columns {
		if c.kind == "bigint" {
			col := make([]int64, len(rows))
			for j, row := range rows {
				col[j], _ = row[i].(int64)
			}
			out[i] = col
			continue
		}
		col := make([]string, len(rows))
		for j, row := range rows {
			col[j], _ = row[i].(string)
		}
		out[i] = col
	}
	return out
}

// rowsOf are rows and the statement that writes them.
type rowsOf struct {
	bulk
	rows [][]any
	what string // in an error
}

// together makes one statement of several, which tells for each how many rows of
// its table changed. They must not depend on each other's effects, but for
// foreign keys, which are checked at its end.
func together(parts []bulk) string {
	var with, counts []string
	from := 1
	for i, b := range parts {
		with = append(with, fmt.Sprintf("w%d AS (%s RETURNING 1)", i, b.all(from)))
		counts = append(counts, fmt.Sprintf("(SELECT count(*) FROM w%d)", i))
		from += len(b.columns)
	}
	return "WITH " + strings.Join(with, ", ") + " SELECT " + strings.Join(counts, ", ")
}

// writeNew writes rows of which none may be there already, in the order given.
func (t *txn) writeNew(ctx context.Context, statement string, parts []rowsOf) error {
	counts := make([]int64, len(parts))
	if t.s.dialect.arrays {
		var args, into []any
		for i, p := range parts {
			args = append(args, p.arrays(p.rows)...)
			into = append(into, &counts[i])
		}
		if err := t.QueryRowContext(ctx, statement, args...).Scan(into...); err != nil {
			return fmt.Errorf("write what was folded: %w", err)
		}
	} else {
		for i, p := range parts {
			var err error
			if counts[i], err = t.write(ctx, p.bulk, p.rows); err != nil {
				return fmt.Errorf("%s: %w", p.what, err)
			}
		}
	}
	for i, p := range parts {
		if counts[i] != int64(len(p.rows)) {
			return fmt.Errorf("%s: %w", p.what, errRace)
		}
		if counts[i] > 0 {
			t.wakes = true
		}
	}
	return nil
}
