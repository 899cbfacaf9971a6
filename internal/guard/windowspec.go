package guard

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// WindowSpec is a window as people write it, in the configuration or a playbook.
type WindowSpec struct {
	Name       string
	Type       string   // WindowTypes
	Days       []string // weekdays on which it begins, such as "Sat"
	Start, End string   // times of the day such as "22:00"
	From       string   // RFC 3339
	Until      string   // RFC 3339
	TimeZone   string   // an IANA name; "" is UTC
	Namespaces []string
}

// WindowProblem is one thing that is wrong with a WindowSpec.
type WindowProblem struct {
	// Field is where, such as "days[0]"; "" is the window as a whole.
	Field   string
	Message string
	// Got was written, and is none of Known, where that is a short list.
	Got   string
	Known []string
}

var weekdays = []string{"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"}

// WindowTypes are the types that a window can be of.
func WindowTypes() []string { return []string{"Freeze", "Maintenance"} }

// Window reads the window. It is to be used only when there are no problems.
func (s WindowSpec) Window() (Window, []WindowProblem) {
	var problems []WindowProblem
	wrong := func(field, got string, known []string, format string, args ...any) {
		problems = append(problems, WindowProblem{Field: field, Got: got, Known: known, Message: fmt.Sprintf(format, args...)})
	}
	clock := func(field, text string) int {
		if text == "" {
			return 0
		}
		t, err := time.Parse("15:04", text)
		if err != nil {
			wrong(field, "", nil, "%q is no time of the day such as \"22:00\"; the end of a day is \"00:00\"", text)
		}
		return t.Hour()*60 + t.Minute()
	}
	instant := func(field, text string) time.Time {
		if text == "" {
			return time.Time{}
		}
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			wrong(field, "", nil, "%q is no date and time such as \"2026-12-21T00:00:00+01:00\"", text)
		}
		return t
	}
	out := Window{Name: s.Name, Freeze: s.Type == "Freeze", Zone: s.TimeZone, Namespaces: s.Namespaces}
	if !slices.Contains(WindowTypes(), s.Type) {
		wrong("type", s.Type, WindowTypes(), "must be one of %s, not %q", strings.Join(WindowTypes(), ", "), s.Type)
	}
	for i, day := range s.Days {
		n := slices.Index(weekdays, day)
		if n < 0 {
			wrong(fmt.Sprintf("days[%d]", i), day, weekdays, "must be one of %s, not %q", strings.Join(weekdays, ", "), day)
		}
		out.Days = append(out.Days, time.Weekday(max(0, n)))
	}
	if (s.Start == "") != (s.End == "") {
		wrong("", "", nil, "has a start or an end but not both: write both as times of the day such as \"22:00\", or neither for whole days")
	}
	out.Start, out.End = clock("start", s.Start), clock("end", s.End)
	out.From, out.Until = instant("from", s.From), instant("until", s.Until)
	if !out.From.IsZero() && !out.Until.IsZero() && !out.Until.After(out.From) {
		wrong("until", "", nil, "is not after from: the window would never be")
	}
	if s.Start+s.End+s.From+s.Until == "" && len(s.Days) == 0 {
		wrong("", "", nil, "says no time: write days, start and end, or from and until; the command alertmedic pause stops everything until further notice")
	}
	loc, err := time.LoadLocation(s.TimeZone)
	if err != nil || s.TimeZone == "Local" {
		wrong("timeZone", s.TimeZone, nil, "%q is no IANA time zone such as Europe/Berlin", s.TimeZone)
		loc = time.UTC
	}
	out.Location = loc
	return out, problems
}
