package store

import (
	"context"
	"fmt"
	"strings"
)

// bulk is a statement that writes rows of one shape: on PostgreSQL all of them
// at once, since a round trip costs more than a row; on SQLite one after
// another, since a prepared statement costs less there than parsing a long one.
type bulk struct {
	columns int
	one     string // for one row
	all     string // PostgreSQL: for any number, a parameter is an array
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
	var names, one, all []string
	for _, part := range columns {
		for _, c := range part {
			names = append(names, c.name)
			one = append(one, fmt.Sprintf("$%d", len(names)))
			all = append(all, fmt.Sprintf("$%d::%s[]", len(names), c.kind))
		}
	}
	into := "INSERT INTO " + table + " (" + strings.Join(names, ", ") + ") "
	return bulk{columns: len(names), one: into + "VALUES (" + strings.Join(one, ", ") + ") " + conflict,
		all: into + "SELECT * FROM unnest(" + strings.Join(all, ", ") + ") " + conflict}
}

// write writes the rows, whose values are strings and int64s, and returns how
// many rows of the table changed.
func (t *txn) write(ctx context.Context, b bulk, rows [][]any) (int64, error) {
	if t.s.dialect.arrays && len(rows) > 1 {
		return t.affected(ctx, b.all, arrays(rows)...)
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
func arrays(rows [][]any) []any {
	out := make([]any, len(rows[0]))
	for i, first := range rows[0] {
		if _, ok := first.(int64); ok {
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
