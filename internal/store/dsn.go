package store

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// location is where a DSN leads: a file for SQLite, or a URL for PostgreSQL.
type location struct {
	file string
	url  string
	// shown is the DSN as it may be logged: without its password.
	shown string
}

// parseDSN reads a bare path, file:PATH, or postgres://URL. Errors never show a
// password.
func parseDSN(dsn string) (location, error) {
	scheme, rest, hasScheme := strings.Cut(dsn, ":")
	switch {
	case dsn == "":
		return location{}, fmt.Errorf("the database DSN is empty: give a path for SQLite, or postgres://user@host/database")
	case hasScheme && (scheme == "postgres" || scheme == "postgresql"):
		return parsePostgres(dsn)
	case hasScheme && scheme == "file":
		path, query, _ := strings.Cut(rest, "?")
		if query != "" {
			return location{}, fmt.Errorf("the DSN file:%s carries options (after the question mark): SQLite is set up by this program, leave them out", path)
		}
		if strings.HasPrefix(path, "//") {
			u, err := url.Parse("file:" + path)
			if err != nil || u.Host != "" && u.Host != "localhost" {
				return location{}, fmt.Errorf("the DSN file:%s names a host: write file:/path/to/alertmedic.db", path)
			}
			path = u.Path
		}
		return sqliteLocation(path)
	case strings.Contains(dsn, "://"):
		return location{}, fmt.Errorf("the DSN has the scheme %q, which is not known: give a path or file:PATH for SQLite, or postgres://user@host/database", scheme)
	case strings.Contains(dsn, "host=") || strings.Contains(dsn, "dbname=") || strings.Contains(dsn, "password="):
		return location{}, fmt.Errorf("the DSN is in keyword form: write it as postgres://user@host/database")
	}
	return sqliteLocation(dsn)
}

func sqliteLocation(path string) (location, error) {
	if path == "" || path == ":memory:" || strings.HasSuffix(path, "/") {
		return location{}, fmt.Errorf("the DSN must name a database file, such as /var/lib/alertmedic/alertmedic.db: what is kept in memory is lost by a restart")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return location{}, fmt.Errorf("find the database file %s: %w", path, err)
	}
	return location{file: abs, shown: abs}, nil
}

// checkPlace finds what SQLite would complain about in its own words, before
// anything is made.
func (l location) checkPlace() error {
	if info, err := os.Stat(l.file); err == nil && info.IsDir() {
		return fmt.Errorf("%s is a directory: name the file of the database in it, such as %s", l.file, filepath.Join(l.file, "alertmedic.db"))
	}
	dir := filepath.Dir(l.file)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the directory %s does not exist: make it, writable for the user that alertmedic runs as", dir)
	}
	return nil
}

func parsePostgres(dsn string) (location, error) {
	u, err := url.Parse(dsn)
	if err != nil {
		// The parser's error repeats the DSN, password included.
		return location{}, fmt.Errorf("the postgres DSN is no URL: write postgres://user:password@host:5432/database, with special characters of the password percent-encoded")
	}
	if strings.Trim(u.Path, "/") == "" {
		return location{}, fmt.Errorf("the DSN %s names no database: write postgres://user@host:5432/database", redactURL(u))
	}
	return location{url: dsn, shown: redactURL(u)}, nil
}

// Redact returns a DSN as it may be shown: every password is replaced.
func Redact(dsn string) string {
	loc, err := parseDSN(dsn)
	if err != nil {
		return "(unreadable DSN)"
	}
	return loc.shown
}

func redactURL(u *url.URL) string {
	c := *u
	if _, ok := c.User.Password(); ok {
		c.User = url.UserPassword(c.User.Username(), "xxxxx")
	}
	q := c.Query()
	for key := range q {
		if strings.Contains(strings.ToLower(key), "password") {
			q.Set(key, "xxxxx")
		}
	}
	c.RawQuery = q.Encode()
	return c.String()
}
