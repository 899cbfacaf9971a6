package guard

import (
	"slices"
	"time"
)

// Window is a time that comes again: a freeze, inside which nothing is changed,
// or a maintenance window, outside which nothing is changed. It is read from the
// wall clock of its zone: on the day when an hour comes twice both count, and on
// the day when it is left out there is none.
type Window struct {
	Name string `json:"name"`
	// Freeze is true for a freeze and false for a maintenance window.
	Freeze bool `json:"freeze,omitempty"`
	// Days on which it begins; empty is every day.
	Days []time.Weekday `json:"days,omitempty"`
	// Start and End are minutes after midnight by the wall clock. It wraps
	// midnight when End is not after Start; when both are the same it lasts the
	// whole day.
	Start int `json:"start"`
	End   int `json:"end"`
	// From and Until bound it, for a freeze that comes once; zero is unbounded.
	From  time.Time `json:"from,omitzero"`
	Until time.Time `json:"until,omitzero"`
	// Zone is an IANA name; "" is UTC.
	Zone string `json:"zone,omitempty"`
	// Namespaces and Playbooks that it is for; empty is all. An object without a
	// namespace belongs to windows without namespaces only.
	Namespaces []string `json:"namespaces,omitempty"`
	Playbooks  []string `json:"playbooks,omitempty"`

	// Location is that of Zone, set by whoever read the window so that a decision
	// reads no file; nil looks the zone up.
	Location *time.Location `json:"-"`
}

// For reports whether the window is about such a run.
func (w Window) For(playbook, namespace string) bool {
	return (len(w.Playbooks) == 0 || slices.Contains(w.Playbooks, playbook)) &&
		(len(w.Namespaces) == 0 || slices.Contains(w.Namespaces, namespace))
}

// Contains reports whether t lies in the window. The error is that of an unknown
// zone.
func (w Window) Contains(t time.Time) (bool, error) {
	loc, err := w.location()
	if err != nil {
		return false, err
	}
	return w.contains(t, loc), nil
}

func (w Window) location() (*time.Location, error) {
	if w.Location != nil {
		return w.Location, nil
	}
	return time.LoadLocation(w.Zone)
}

func (w Window) contains(t time.Time, loc *time.Location) bool {
	if !w.From.IsZero() && t.Before(w.From) || !w.Until.IsZero() && !t.Before(w.Until) {
		return false
	}
	local := t.In(loc)
	minute, today := local.Hour()*60+local.Minute(), local.Weekday()
	yesterday := (today + 6) % 7
	begins := func(day time.Weekday) bool { return len(w.Days) == 0 || slices.Contains(w.Days, day) }
	if w.Start < w.End {
		return begins(today) && minute >= w.Start && minute < w.End
	}
	return begins(today) && minute >= w.Start || begins(yesterday) && minute < w.End
}

// Turns is when Contains next changes its mind after t, zero when it never does.
func (w Window) Turns(t time.Time) time.Time {
	loc, err := w.location()
	if err != nil {
		return time.Time{}
	}
	inside := w.contains(t, loc)
	// It can only turn at a start, an end, a bound, or where the clock is changed.
	at := []time.Time{w.From, w.Until}
	local := t.In(loc)
	for day := range 10 {
		at = append(at,
			time.Date(local.Year(), local.Month(), local.Day()+day-1, 0, w.Start, 0, 0, loc),
			time.Date(local.Year(), local.Month(), local.Day()+day-1, 0, w.End, 0, 0, loc))
	}
	for turn := local; len(at) < 30; {
		_, turn = turn.ZoneBounds()
		if turn.IsZero() {
			break
		}
		at = append(at, turn)
	}
	slices.SortFunc(at, time.Time.Compare)
	for _, next := range at {
		if next.After(t) && w.contains(next, loc) != inside {
			return next
		}
	}
	return time.Time{}
}

// window holds runs back in a freeze, and outside of the maintenance windows that
// are for them. What still fires afterwards is acted on.
func window(in Input) Decision {
	if !in.Subject.Mutating {
		return admit()
	}
	l := in.Subject.Limits
	if d := open(in, l.Windows, "safety.windows"); d.Verdict != Admit {
		return d
	}
	return open(in, l.PlaybookWindows, "spec.windows of playbook "+in.Subject.Playbook)
}

// open asks the windows of one setting: an open maintenance window of one does not
// stand for those of the other.
func open(in Input, windows []Window, setting string) Decision {
	s := in.Subject
	var outside []Window
	maintained := false
	for _, w := range windows {
		if !w.For(s.Playbook, s.Target.Namespace) {
			continue
		}
		inside, err := w.Contains(in.Ledger.Now)
		switch {
		case err != nil:
			return in.delay(ReasonWindow, time.Time{}, "window %q cannot be told: %s; correct its timeZone", w.Name, err)
		case w.Freeze && inside:
			until := w.Turns(in.Ledger.Now)
			return in.delay(ReasonWindow, until, "the freeze %q holds%s (%s)", w.Name, upTo(until), setting)
		case !w.Freeze && inside:
			maintained = true
		case !w.Freeze:
			outside = append(outside, w)
		}
	}
	if maintained || len(outside) == 0 {
		return admit()
	}
	next := outside[0]
	opens := next.Turns(in.Ledger.Now)
	for _, w := range outside[1:] {
		if at := w.Turns(in.Ledger.Now); !at.IsZero() && (opens.IsZero() || at.Before(opens)) {
			next, opens = w, at
		}
	}
	if opens.IsZero() {
		return in.delay(ReasonWindow, time.Time{}, "no maintenance window will open any more: %q is over (%s)", next.Name, setting)
	}
	return in.delay(ReasonWindow, opens, "outside of the maintenance windows; %q opens at %s (%s)", next.Name, opens.UTC().Format(time.RFC3339), setting)
}

func upTo(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return " until " + t.UTC().Format(time.RFC3339)
}
