package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"golang.org/x/term"
)

// console is what a command reads and writes.
type console struct {
	in       io.Reader
	out, err io.Writer
	env      func(string) string
	// colour is true when out is a terminal and nobody objects; ask when in and
	// err are terminals, so that a person can answer.
	colour, ask bool
	now         func() time.Time
}

// terminal is the console of the process.
func terminal() console {
	return console{
		in: os.Stdin, out: os.Stdout, err: os.Stderr, env: os.Getenv, now: time.Now,
		colour: term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb",
		ask:    term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stderr.Fd())),
	}
}

// The colours. All have the same length, so that a column of which every cell
// is painted stays aligned.
const (
	plain  = "\x1b[39m"
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	blue   = "\x1b[34m"
	reset  = "\x1b[0m"
)

func (c console) paint(colour, s string) string {
	if !c.colour {
		return s
	}
	return colour + s + reset
}

// clean makes text of others (labels, messages) harmless for a terminal, which
// would obey the escape sequences in it. Line breaks stay when keep is true.
func clean(s string, keep bool) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' && keep, r == '\t' && keep:
			return r
		case r == '\n', r == '\t', r == '\r':
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Cf, r):
			return '\uFFFD'
		}
		return r
	}, s)
}

// table writes rows of cells, which the caller has made clean.
func (c console) table(header []string, rows [][]string) error {
	w := tabwriter.NewWriter(c.out, 0, 8, 3, ' ', 0)
	for _, row := range append([][]string{header}, rows...) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(strings.Join(row, "\t"), "\t")); err != nil {
			return err
		}
	}
	return w.Flush()
}

// json writes an indented document.
func (c console) json(v any) error {
	enc := json.NewEncoder(c.out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// short makes a duration as people say it: its largest unit, or two.
func short(d time.Duration) string {
	d = max(d, 0)
	day := 24 * time.Hour
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < day:
		return strings.TrimSuffix(fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60), "h0m") + map[bool]string{true: "h"}[int(d.Minutes())%60 == 0]
	}
	return fmt.Sprintf("%dd", int(d/day))
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
