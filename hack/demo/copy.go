package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// writeRules copies the shipped rules, shortened, and returns their glob.
func (s *stage) writeRules() (string, error) {
	return s.copyShortened(filepath.Join(s.root, "rules"), "rules", testcluster.HurryRules)
}

// writeLibrary copies the shipped playbooks, shortened, and returns their folder.
func (s *stage) writeLibrary() (string, error) {
	glob, err := s.copyShortened(filepath.Join(s.root, "playbooks", "library"), "playbooks", testcluster.HurryPlaybook)
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
