package guard

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func berlin(t require.TestingT) *time.Location {
	loc, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	return loc
}

func TestWindows(t *testing.T) {
	t.Parallel()
	loc := berlin(t)
	at := func(s string) time.Time {
		at, err := time.ParseInLocation("Mon 2006-01-02 15:04", s, loc)
		require.NoError(t, err)
		return at
	}
	night := Window{Start: 22 * 60, End: 5 * 60, Zone: "Europe/Berlin"}
	friday := night
	friday.Days = []time.Weekday{time.Friday}
	office := Window{Days: []time.Weekday{time.Monday, time.Tuesday}, Start: 9 * 60, End: 17*60 + 30, Zone: "Europe/Berlin"}
	once := Window{From: at("Mon 2026-12-21 00:00"), Until: at("Mon 2027-01-04 00:00"), Zone: "Europe/Berlin"}
	gap := Window{Start: 2 * 60, End: 3 * 60, Zone: "Europe/Berlin"}
	for _, tt := range []struct {
		name   string
		window Window
		at     time.Time
		inside bool
		turns  time.Time
	}{
		{"before midnight", night, at("Mon 2026-11-23 23:00"), true, at("Tue 2026-11-24 05:00")},
		{"after midnight", night, at("Tue 2026-11-24 04:59"), true, at("Tue 2026-11-24 05:00")},
		{"the end is outside", night, at("Tue 2026-11-24 05:00"), false, at("Tue 2026-11-24 22:00")},
		{"it belongs to the day on which it begins", friday, at("Sat 2026-11-28 04:00"), true, at("Sat 2026-11-28 05:00")},
		{"the day after begins none", friday, at("Sat 2026-11-28 23:00"), false, at("Fri 2026-12-04 22:00")},
		{"the morning of its day is the end of no other", friday, at("Fri 2026-11-27 04:00"), false, at("Fri 2026-11-27 22:00")},
		{"office hours", office, at("Mon 2026-11-23 09:00"), true, at("Mon 2026-11-23 17:30")},
		{"the weekend is long", office, at("Tue 2026-11-24 17:30"), false, at("Mon 2026-11-30 09:00")},
		{"once, for whole days", once, at("Fri 2026-12-25 12:00"), true, at("Mon 2027-01-04 00:00")},
		{"once, and over", once, at("Mon 2027-01-04 00:00"), false, time.Time{}},
		{"the hour that is left out", gap, at("Sun 2026-03-29 01:59"), false, at("Mon 2026-03-30 02:00")},
		{"the hour that comes twice, the first time", gap, time.Date(2026, 10, 25, 0, 30, 0, 0, time.UTC), true, time.Date(2026, 10, 25, 2, 0, 0, 0, time.UTC)},
		{"the hour that comes twice, the second time", gap, time.Date(2026, 10, 25, 1, 30, 0, 0, time.UTC), true, time.Date(2026, 10, 25, 2, 0, 0, 0, time.UTC)},
	} {
		inside, err := tt.window.Contains(tt.at)
		require.NoError(t, err, tt.name)
		require.Equal(t, tt.inside, inside, tt.name)
		require.True(t, tt.turns.Equal(tt.window.Turns(tt.at)), "%s: it turns at %s", tt.name, tt.window.Turns(tt.at))
	}
}

// A window is about the runs that it names, and about all when it names none. A
// node, which has no namespace, belongs to windows without namespaces only.
func TestWindowsAreForSome(t *testing.T) {
	t.Parallel()
	w := Window{Namespaces: []string{"shop"}, Playbooks: []string{"pb"}}
	require.True(t, w.For("pb", "shop"))
	require.False(t, w.For("other", "shop"))
	require.False(t, w.For("pb", "bank"))
	require.False(t, w.For("pb", ""))
	require.True(t, Window{}.For("any", ""))
	in := good()
	in.Subject.Limits.Windows = []Window{{Name: "x", Freeze: true, Playbooks: []string{"other"}}, {Name: "y", Namespaces: []string{"bank"}}}
	d, _ := Decide(List(), in)
	require.Equal(t, Admit, d.Verdict, "%+v", d)
	in.Subject.Limits.Windows = []Window{{Name: "day", Start: 8 * 60, End: 18 * 60}, {Name: "night", Start: 22 * 60, End: 5 * 60}}
	d, _ = Decide(List(), in)
	require.Equal(t, Admit, d.Verdict, "one open maintenance window is enough: %+v", d)
}

// A run needs the leave of the configuration's windows and of its playbook's: an
// open maintenance window of one does not stand for the other's.
func TestPlaybookWindowsTighten(t *testing.T) {
	t.Parallel()
	day, night := Window{Name: "day", Start: 8 * 60, End: 18 * 60}, Window{Name: "night", Start: 22 * 60, End: 5 * 60} // it is noon
	freeze := Window{Name: "noon", Freeze: true, Start: 11 * 60, End: 13 * 60}
	for name, c := range map[string]struct {
		theirs, own []Window
		held        string
	}{
		"both open":             {[]Window{day}, []Window{day}, ""},
		"the playbook's closed": {[]Window{day}, []Window{night}, `"night" opens at 2026-03-01T22:00:00Z (spec.windows of playbook pb)`},
		"the configuration's":   {[]Window{night}, []Window{day}, `"night" opens at 2026-03-01T22:00:00Z (safety.windows)`},
		"a freeze of its own":   {[]Window{day}, []Window{day, freeze}, `the freeze "noon" holds until 2026-03-01T13:00:00Z (spec.windows of playbook pb)`},
		"one open is enough":    {nil, []Window{night, day}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := good()
			in.Subject.Limits.Windows, in.Subject.Limits.PlaybookWindows = c.theirs, c.own
			d, _ := Decide(List(), in)
			if c.held == "" {
				require.Equal(t, Admit, d.Verdict, "%+v", d)
				return
			}
			require.Equal(t, []any{Delay, ReasonWindow}, []any{d.Verdict, d.Reason})
			require.Contains(t, d.Message, c.held)
		})
	}
}

// Turns is the first minute at which a clock that is read every minute would
// see the window change, whatever the zone does to its clocks.
func TestWindowsTurnWhenTheClockSaysSo(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := Window{Start: rapid.IntRange(0, 24*60-1).Draw(t, "start"), End: rapid.IntRange(0, 24*60-1).Draw(t, "end"),
			Zone: rapid.SampledFrom([]string{"UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kathmandu"}).Draw(t, "zone")}
		for day := range time.Weekday(7) {
			if rapid.Bool().Draw(t, "day") {
				w.Days = append(w.Days, day)
			}
		}
		// Around the days on which clocks are changed, mostly.
		base := rapid.SampledFrom([]time.Time{time.Date(2026, 3, 27, 0, 0, 0, 0, time.UTC), time.Date(2026, 10, 23, 0, 0, 0, 0, time.UTC),
			time.Date(2026, 3, 6, 0, 0, 0, 0, time.UTC), time.Date(2026, 4, 3, 0, 0, 0, 0, time.UTC), time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)}).Draw(t, "base")
		from := base.Add(time.Duration(rapid.IntRange(0, 4*24*60).Draw(t, "minute")) * time.Minute)
		loc, err := time.LoadLocation(w.Zone)
		require.NoError(t, err)
		w.Location = loc
		inside := w.contains(from, loc)
		turns := w.Turns(from)
		var want time.Time
		for at := from.Add(time.Minute); at.Before(from.Add(8 * 24 * time.Hour)); at = at.Add(time.Minute) {
			if w.contains(at, loc) != inside {
				want = at
				break
			}
		}
		require.True(t, want.Equal(turns), "from %s (inside: %t) it turns at %s, Turns says %s", from, inside, want, turns)
	})
}
