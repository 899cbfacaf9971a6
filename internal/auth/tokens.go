package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// TokenSpec is one static credential.
type TokenSpec struct {
	// Name is who the log says acted. Required, unique.
	Name string
	// File holds the token; white space around it is ignored. It is read again
	// at Reload.
	File  string
	Roles []Role
	// Source is the source that a token with the role ingest sends for.
	Source string
}

const (
	minToken = 16      // bytes: shorter ones can be guessed
	maxToken = 8 << 10 // bytes: a ServiceAccount's token has about 1 KiB
)

type token struct {
	hash [sha256.Size]byte
	who  Identity
}

// readTokens reads all files; the errors of all of them are joined.
func readTokens(specs []TokenSpec) ([]token, error) {
	var (
		tokens []token
		errs   []error
		names  = map[string]bool{}
		owner  = map[[sha256.Size]byte]string{}
	)
	for _, spec := range specs {
		if err := spec.check(); err != nil {
			errs = append(errs, err)
			continue
		}
		if names[spec.Name] {
			errs = append(errs, fmt.Errorf("token %q is configured twice: names must differ", spec.Name))
			continue
		}
		names[spec.Name] = true
		secret, err := readToken(spec.File)
		if err != nil {
			errs = append(errs, fmt.Errorf("token %q: %w", spec.Name, err))
			continue
		}
		hash := sha256.Sum256([]byte(secret))
		if other, taken := owner[hash]; taken {
			errs = append(errs, fmt.Errorf("tokens %q and %q are the same: give each its own, or nobody can tell who acted", other, spec.Name))
			continue
		}
		owner[hash] = spec.Name
		tokens = append(tokens, token{hash: hash, who: Identity{Name: spec.Name, Roles: slices.Clone(spec.Roles), Source: spec.Source}})
	}
	return tokens, errors.Join(errs...)
}

func (s TokenSpec) check() error {
	switch {
	case s.Name == "":
		return fmt.Errorf("the token in file %q has no name", s.File)
	case s.File == "":
		return fmt.Errorf("token %q has no file", s.Name)
	case len(s.Roles) == 0:
		return fmt.Errorf("token %q has no roles: give it some of %v", s.Name, Roles())
	}
	for _, role := range s.Roles {
		if !slices.Contains(Roles(), role) {
			return fmt.Errorf("token %q has the unknown role %q: the roles are %v", s.Name, role, Roles())
		}
	}
	ingest := slices.Contains(s.Roles, Ingest)
	switch {
	case ingest && len(s.Roles) > 1:
		return fmt.Errorf("token %q may ingest webhooks and so must have no other role: it lies in Alertmanager's configuration; make another token for people", s.Name)
	case ingest && s.Source == "":
		return fmt.Errorf("token %q may ingest webhooks but names no source", s.Name)
	case !ingest && s.Source != "":
		return fmt.Errorf("token %q names source %q but may not ingest webhooks", s.Name, s.Source)
	}
	return nil
}

// readToken reads one token. A file that others on the machine can write is
// refused; one that they can read is not, because 0644 is how Kubernetes mounts
// a Secret by default.
func readToken(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("read the token file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("read the token file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("token file %s is not a regular file", file)
	}
	if info.Mode().Perm()&0o002 != 0 {
		return "", fmt.Errorf("token file %s can be written by everyone (mode %04o): chmod o-w", file, info.Mode().Perm())
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxToken+1))
	if err != nil {
		return "", fmt.Errorf("read the token file: %w", err)
	}
	secret := strings.TrimSpace(string(raw))
	switch {
	case len(raw) > maxToken:
		return "", fmt.Errorf("token file %s is larger than %d bytes: it must hold one token and nothing else", file, maxToken)
	case secret == "":
		return "", fmt.Errorf("token file %s is empty", file)
	case len(secret) < minToken:
		return "", fmt.Errorf("the token in %s has %d characters, want at least %d: make one with openssl rand -hex 32", file, len(secret), minToken)
	case strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", fmt.Errorf("the token in %s holds white space or characters that are not ASCII: it must be one word", file)
	}
	return secret, nil
}

// find compares the credential with every token, in time that tells neither
// which one it is nor how much of it is right.
func find(tokens []token, credential string) (Identity, bool) {
	hash := sha256.Sum256([]byte(credential))
	index := -1
	for i := range tokens {
		index = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(hash[:], tokens[i].hash[:]), i, index)
	}
	if index < 0 {
		return Identity{}, false
	}
	return tokens[index].who, true
}
