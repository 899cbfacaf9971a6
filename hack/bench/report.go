package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// row is one figure.
type row struct {
	Scenario string  `json:"scenario"`
	What     string  `json:"what"`
	Unit     string  `json:"unit"`
	Min      float64 `json:"min"`
	Median   float64 `json:"median"`
	Max      float64 `json:"max"`
	N        int     `json:"n"` // how often it was measured
	// Target is what Median must reach: at least it where Least is set, else at
	// most it. 0 is a figure to compare with.
	Target float64 `json:"target,omitempty"`
	Least  bool    `json:"atLeast,omitempty"`
	OK     bool    `json:"reached,omitempty"`
	Note   string  `json:"note,omitempty"`
	// Apart is when the row was measured in a run of its own, after the one that the
	// report is of.
	Apart time.Time `json:"measuredApart,omitzero"`
}

type report struct {
	Command  string   `json:"command"`
	Machine  machine  `json:"machine"`
	Seconds  int      `json:"seconds"`
	Rows     []row    `json:"rows"`
	Failures []string `json:"failures,omitempty"`
}

// machine is where it was measured.
type machine struct {
	CPU        string    `json:"cpu"`
	Cores      int       `json:"cores"`
	Memory     string    `json:"memory"`
	OS         string    `json:"os"`
	Go         string    `json:"go"`
	SQLite     string    `json:"sqlite"`
	PostgreSQL string    `json:"postgresql,omitempty"`
	FileSystem string    `json:"fileSystem"`
	Load       string    `json:"loadBefore"`
	Date       time.Time `json:"date"`
}

func thisMachine(dir string) machine {
	m := machine{Cores: runtime.NumCPU(), OS: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version(), Date: time.Now().UTC().Truncate(time.Second)}
	read := func(path string) string {
		data, _ := os.ReadFile(path) // a machine that does not tell is described by less
		return string(data)
	}
	for line := range strings.Lines(read("/proc/cpuinfo")) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			m.CPU = strings.TrimSpace(value)
			break
		}
	}
	if fields := strings.Fields(firstLine(read("/proc/meminfo"))); len(fields) > 1 {
		var kib int
		if _, err := fmt.Sscan(fields[1], &kib); err == nil {
			m.Memory = fmt.Sprintf("%d GiB", (kib+1<<19)>>20)
		}
	}
	if fields := strings.Fields(read("/proc/loadavg")); len(fields) > 0 {
		m.Load = fields[0]
	}
	if out, err := exec.Command("stat", "-f", "-c", "%T", dir).Output(); err == nil { //nolint:noctx // at once
		m.FileSystem = strings.TrimSpace(string(out))
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if dep.Path == "modernc.org/sqlite" {
				m.SQLite = dep.Path + " " + dep.Version
			}
		}
	}
	return m
}

// figure adds a row for values that were measured one a round.
func (b *bench) figure(what, unit string, values []float64, target float64, least bool, note string) {
	if len(values) == 0 {
		return
	}
	sorted := slices.Sorted(slices.Values(values))
	r := row{Scenario: b.scenario, What: what, Unit: unit, Min: sorted[0], Median: median(sorted), Max: sorted[len(sorted)-1], N: len(sorted),
		Target: target, Least: least, Note: note}
	r.OK = target == 0 || (least && r.Median >= target) || (!least && r.Median <= target)
	b.report.Rows = append(b.report.Rows, r)
	b.progress("%s: %s %s (%s–%s) %s", what, number(r.Median), unit, number(r.Min), number(r.Max), r.verdict())
}

func median(sorted []float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	if n := len(sorted); n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return sorted[len(sorted)/2]
}

func percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(math.Ceil(p*float64(len(sorted))))-1)]
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func (r row) verdict() string {
	switch {
	case r.Target == 0:
		return ""
	case r.OK:
		return "reached"
	}
	return "MISSED"
}

func (r row) bound() string {
	if r.Target == 0 {
		return ""
	}
	if r.Least {
		return "≥ " + number(r.Target)
	}
	return "≤ " + number(r.Target)
}

func number(v float64) string {
	switch a := math.Abs(v); {
	case a >= 1000:
		return fmt.Sprintf("%.0f", v)
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a == 0:
		return "0"
	}
	return strings.TrimRight(strings.TrimRight(fmt.Sprintf("%.3f", v), "0"), ".")
}

// markdown writes the machine and the tables.
func (r report) markdown(w io.Writer) {
	m := r.Machine
	fmt.Fprintf(w, "Measured with `%s` in %d s on %s: %d × %s, %s of memory, %s, %s, %s, PostgreSQL %s, files on %s; load before the start %s.\n",
		r.Command, r.Seconds, m.Date.Format("2006-01-02 15:04 UTC"), m.Cores, cmp.Or(m.CPU, "unknown CPU"), m.Memory, m.OS, m.Go,
		m.SQLite, cmp.Or(m.PostgreSQL, "not run"), m.FileSystem, m.Load)
	last := ""
	for _, row := range r.Rows {
		if row.Scenario != last {
			last = row.Scenario
			fmt.Fprintf(w, "\n### %s\n\n", last)
			if !row.Apart.IsZero() {
				fmt.Fprintf(w, "In a run of its own on %s.\n\n", row.Apart.Format("2006-01-02 15:04 UTC"))
			}
			fmt.Fprint(w, "| figure | median | min–max | unit | must reach | |\n|---|---:|---:|---|---|---|\n")
		}
		what := row.What
		if row.Note != "" {
			what += " (" + row.Note + ")"
		}
		fmt.Fprintf(w, "| %s | %s | %s–%s | %s | %s | %s |\n", what, number(row.Median), number(row.Min), number(row.Max), row.Unit, row.bound(), row.verdict())
	}
	for _, f := range r.Failures {
		fmt.Fprintf(w, "\nNot measured: %s\n", f)
	}
}

const (
	beginMark = "<!-- begin: written by make bench -->"
	endMark   = "<!-- end: written by make bench -->"
)

// into puts the scenarios that r has measured, or failed to, in the place of those
// of an earlier report, in the order of all.
func (r report) into(earlier report, all []scenario) report {
	measured := func(name string) bool {
		return slices.ContainsFunc(r.Rows, func(row row) bool { return row.Scenario == name }) ||
			slices.ContainsFunc(r.Failures, func(f string) bool { return strings.HasPrefix(f, name+": ") })
	}
	out := earlier
	out.Rows, out.Failures = nil, nil
	for _, s := range all {
		from, apart := earlier, measured(s.name)
		if apart {
			from = r
		}
		for _, row := range from.Rows {
			if row.Scenario == s.name {
				if apart {
					row.Apart = r.Machine.Date
				}
				out.Rows = append(out.Rows, row)
			}
		}
		for _, f := range from.Failures {
			if strings.HasPrefix(f, s.name+": ") {
				out.Failures = append(out.Failures, f)
			}
		}
	}
	return out
}

// readReport reads the JSON that write has left.
func readReport(path string) (report, error) {
	var r report
	doc, err := os.ReadFile(jsonBeside(path))
	if err == nil {
		err = json.Unmarshal(doc, &r)
	}
	return r, err
}

func jsonBeside(path string) string { return strings.TrimSuffix(path, ".md") + ".json" }

// write replaces the tables of a file and writes the JSON beside it.
func (r report) write(path string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(old), beginMark)
	_, after, ok2 := strings.Cut(rest, endMark)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no markers %q and %q", path, beginMark, endMark)
	}
	var out strings.Builder
	out.WriteString(before + beginMark + "\n\n")
	r.markdown(&out)
	out.WriteString("\n" + endMark + after)
	doc, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(jsonBeside(path), append(doc, '\n'), 0o644); err != nil { //nolint:gosec // a document
		return err
	}
	return os.WriteFile(path, []byte(out.String()), 0o644) //nolint:gosec // a document
}
