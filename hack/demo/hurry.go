package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/prometheus/common/model"
)

// A demo that waits as production does would take an hour. The rules and the
// playbooks are the shipped ones; only these durations are shortened, by these
// rules and nothing else:
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

func hurryRules(text string) string {
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

func hurryPlaybook(text string) string {
	text = stableFor.ReplaceAllString(text, "${1}5s")
	return verifyLimit.ReplaceAllString(text, "${1}2m")
}

// writeRules copies the shipped rules, shortened, and returns their glob.
func (s *stage) writeRules() (string, error) {
	return s.copyShortened(filepath.Join(s.root, "rules"), "rules", hurryRules)
}

// writeLibrary copies the shipped playbooks, shortened, and returns their folder.
func (s *stage) writeLibrary() (string, error) {
	glob, err := s.copyShortened(filepath.Join(s.root, "playbooks", "library"), "playbooks", hurryPlaybook)
	return filepath.Dir(glob), err
}

func (s *stage) copyShortened(from, to string, shorten func(string) string) (string, error) {
	files, err := filepath.Glob(filepath.Join(from, "*.yaml"))
	if err != nil {
		return "", err
	}
	if len(files) == 0 {
		return "", fmt.Errorf("no files in %s", from)
	}
	dir := filepath.Join(s.dir, to)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(f)), []byte(shorten(string(text))), 0o600); err != nil {
			return "", err
		}
	}
	return filepath.Join(dir, "*.yaml"), nil
}
