package testcluster

import (
	"regexp"
	"time"

	"github.com/prometheus/common/model"
)

// A demo or a test that waits as production does would take an hour. The rules
// and the playbooks are the shipped ones; only these durations are shortened, by
// these rules and nothing else:
//
//   - in rules, `for:`, range selectors and rate windows are divided by 30, but
//     never below 3 s (a window needs two scrapes of 1 s);
//   - in playbooks, `stableFor` is at most 5 s, and `timeout` within `verify` at
//     most 2 m.
const (
	hurryFactor = 30
	hurryLeast  = 3 * time.Second
)

var (
	forClause   = regexp.MustCompile(`(?m)^(\s*for: )(\S+)$`)
	rangeClause = regexp.MustCompile(`\[(\d+[smhd])(:)?\]`)
	stableFor   = regexp.MustCompile(`(stableFor: )(\d+[smh]+)`)
	verifyLimit = regexp.MustCompile(`(verify:\s*\{?\s*timeout: )(\d+[smh]+)`)
)

// HurryRules returns the text of a rule file with its durations shortened.
func HurryRules(text string) string {
	text = forClause.ReplaceAllStringFunc(text, func(m string) string {
		parts := forClause.FindStringSubmatch(m)
		return parts[1] + divided(parts[2])
	})
	return rangeClause.ReplaceAllStringFunc(text, func(m string) string {
		parts := rangeClause.FindStringSubmatch(m)
		return "[" + divided(parts[1]) + parts[2] + "]"
	})
}

func divided(text string) string {
	d, err := model.ParseDuration(text)
	if err != nil {
		return text
	}
	return model.Duration(max(time.Duration(d)/hurryFactor, hurryLeast).Round(time.Second)).String()
}

// HurryPlaybook returns the text of a playbook file with its durations shortened.
func HurryPlaybook(text string) string {
	text = stableFor.ReplaceAllString(text, "${1}5s")
	return verifyLimit.ReplaceAllString(text, "${1}2m")
}
