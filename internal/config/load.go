package config

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxSize bounds a configuration file: the largest sensible one has a few
// kilobytes, and a device or a database given by mistake has no end.
const maxSize = 256 << 10

// Load reads and checks the configuration file at path. Its error is an *Error
// that holds every problem of the file.
func Load(path string) (*Config, error) {
	data, err := read(path)
	if err != nil {
		return nil, &Error{Problems: []Problem{{File: path, Message: err.Error()}}}
	}
	return Parse(path, data)
}

// Parse is Load for a file that was read already; path locates its problems
// and what it names relatively.
func Parse(path string, data []byte) (*Config, error) {
	d := &decoder{file: path, where: map[string]position{}}
	cfg := Default()
	if line, ok := invalidUTF8(data); !ok {
		d.add(position{line, 1}, "", "is not UTF-8: save the file as UTF-8")
	} else if line := tooDeep(data); line > 0 {
		d.add(position{line, 1}, "", "is nested too deeply: the configuration has at most 6 levels")
	} else {
		d.decode(data, cfg)
		// A file that is no mapping at all has said what is wrong already.
		if len(d.where) > 0 || len(d.problems) == 0 {
			d.validateRest(cfg)
		}
	}
	if len(d.problems) > 0 {
		slices.SortStableFunc(d.problems, func(a, b Problem) int {
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
		})
		return nil, &Error{Problems: d.problems}
	}
	for i := range cfg.Sources {
		if cfg.Sources[i].Cluster == "" {
			cfg.Sources[i].Cluster = cfg.Cluster
		}
	}
	cfg.absolute(filepath.Dir(path))
	sum := sha256.Sum256(data)
	cfg.File, cfg.Hash = path, hex.EncodeToString(sum[:])
	return cfg, nil
}

// validateRest validates, and drops what it says about fields that could not
// be decoded: their values are not what was written.
func (d *decoder) validateRest(cfg *Config) {
	undecoded := map[string]bool{}
	for _, p := range d.problems {
		undecoded[p.Path] = true
	}
	before := len(d.problems)
	d.validate(cfg)
	d.problems = append(d.problems[:before], slices.DeleteFunc(d.problems[before:], func(p Problem) bool {
		for path := p.Path; path != ""; path = parentOf(path) {
			if undecoded[path] {
				return true
			}
		}
		return false
	})...)
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, errors.New("there is no such file: name the configuration with --config")
		case errors.Is(err, fs.ErrPermission):
			return nil, errors.New("permission denied: make the file readable for this user")
		}
		return nil, fmt.Errorf("cannot be opened: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, errors.New("is a directory: name the file in it")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", err)
	}
	if len(data) > maxSize {
		return nil, fmt.Errorf("is larger than %d bytes: this is not a configuration file", maxSize)
	}
	return data, nil
}

func invalidUTF8(data []byte) (line int, ok bool) {
	for i, l := range bytes.Split(data, []byte("\n")) {
		if !utf8.Valid(l) {
			return i + 1, false
		}
	}
	return 0, true
}

// maxNesting is far beyond what a configuration needs and far below where the
// YAML parser's run time, which grows faster than the depth, becomes a nuisance.
const maxNesting = 200

// tooDeep returns the first line nested deeper than maxNesting, 0 if none is.
// It looks at brackets and indentation only, without knowing of quotes.
func tooDeep(data []byte) int {
	open := 0
	for i, line := range bytes.Split(data, []byte("\n")) {
		if indent := len(line) - len(bytes.TrimLeft(line, " -?")); indent > maxNesting {
			return i + 1
		}
		for _, b := range line {
			switch b {
			case '[', '{':
				open++
			case ']', '}':
				open = max(0, open-1)
			}
			if open > maxNesting {
				return i + 1
			}
		}
	}
	return 0
}

// absolute makes the names of files relative to the directory of the
// configuration; store.dsn stays as it is, because data does not belong next to
// a mounted, read-only configuration.
func (c *Config) absolute(dir string) {
	files := []*string{&c.Listen.WebConfigFile, &c.Store.DSNFile, &c.Kubernetes.Kubeconfig,
		&c.Notify.Slack.TokenFile, &c.Notify.Slack.WebhookURLFile, &c.Journal.CheckpointKeyFile, &c.Journal.CheckpointFile}
	for i := range c.Sources {
		s := &c.Sources[i]
		files = append(files, &s.TokenFile)
		for _, list := range [][]Endpoint{s.Alertmanagers, s.Prometheuses} {
			for j := range list {
				files = append(files, &list[j].BearerTokenFile, &list[j].CAFile)
			}
		}
	}
	for i := range c.Auth.Tokens {
		files = append(files, &c.Auth.Tokens[i].TokenFile)
	}
	for i := range c.Playbooks.Paths {
		files = append(files, &c.Playbooks.Paths[i])
	}
	for _, f := range files {
		if *f != "" && !filepath.IsAbs(*f) {
			*f = filepath.Join(dir, *f)
		}
	}
}

// ResolveDSN returns the DSN, read from DSNFile when that is set. It may hold
// a password: never log it.
func (s Store) ResolveDSN() (string, error) {
	if s.DSNFile == "" {
		return s.DSN, nil
	}
	data, err := read(s.DSNFile)
	if err != nil {
		return "", fmt.Errorf("store.dsnFile %s %w", s.DSNFile, err)
	}
	dsn := strings.TrimSpace(string(data))
	if dsn == "" {
		return "", fmt.Errorf("store.dsnFile %s is empty: write a postgres:// URL into it", s.DSNFile)
	}
	return dsn, nil
}
