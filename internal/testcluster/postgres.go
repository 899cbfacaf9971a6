package testcluster

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
)

// EnvPostgres is the DSN of a PostgreSQL in which tests may create databases.
const EnvPostgres = "ALERTMEDIC_TEST_POSTGRES"

// PostgresOptions configure a throwaway PostgreSQL.
type PostgresOptions struct {
	// Sync turns fsync on; off by default, since the data is thrown away.
	Sync bool
	// Dir is where the temporary folder is made; os.TempDir() by default.
	Dir string
}

// Postgres is a throwaway PostgreSQL on a loopback port.
type Postgres struct {
	// DSN is a URL that connects as a superuser to the database postgres.
	DSN        string
	supervisor *supervisor
}

// StartPostgres runs a new, empty PostgreSQL from the programs on PATH or
// under /usr/lib/postgresql (Debian's package postgresql). As root it runs as
// the user postgres, since PostgreSQL refuses root. Nothing survives this
// process; Stop ends it earlier. ctx bounds the start alone.
func StartPostgres(ctx context.Context, opts PostgresOptions) (*Postgres, error) {
	const attempts = 3
	for attempt := 1; ; attempt++ {
		p, err := startPostgres(ctx, opts)
		if err == nil {
			return p, nil
		}
		if attempt == attempts || ctx.Err() != nil || !errors.Is(err, errEndedEarly) {
			return nil, fmt.Errorf("start PostgreSQL: %w", err)
		}
	}
}

func startPostgres(ctx context.Context, opts PostgresOptions) (_ *Postgres, err error) {
	bin, err := postgresBin()
	if err != nil {
		return nil, err
	}
	credential, err := postgresCredential()
	if err != nil {
		return nil, err
	}
	sup, err := newSupervisor(opts.Dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, sup.stop())
		}
	}()
	data := filepath.Join(sup.dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return nil, err
	}
	if credential != nil {
		// The folder itself is the owner's alone; let the other user through.
		if err := os.Chmod(sup.dir, 0o711); err != nil {
			return nil, err
		}
		if err := os.Chown(data, int(credential.Uid), int(credential.Gid)); err != nil {
			return nil, err
		}
	}
	password := randomSuffix()
	passwordFile := filepath.Join(data, "..", "password")
	if err := os.WriteFile(passwordFile, []byte(password+"\n"), 0o644); err != nil {
		return nil, err
	}
	as := func(p *Process) { p.credential = credential }
	initdb, err := sup.start("initdb", filepath.Join(bin, "initdb"), []string{
		"--pgdata=" + data, "--username=medic", "--pwfile=" + passwordFile,
		"--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync",
	}, as)
	if err != nil {
		return nil, err
	}
	select {
	case <-initdb.exited():
		if initdb.err != nil {
			return nil, fmt.Errorf("initdb: %w\n%s", initdb.err, initdb.logTail())
		}
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	sync := "off"
	if opts.Sync {
		sync = "on"
	}
	server, err := sup.start("postgres", filepath.Join(bin, "postgres"), []string{
		"-D", data, "-h", "127.0.0.1", "-p", strconv.Itoa(ports[0]), "-k", "",
		"-c", "fsync=" + sync, "-c", "synchronous_commit=on", "-c", "full_page_writes=" + sync,
		"-c", "max_connections=200", "-c", "shared_buffers=64MB", "-c", "timezone=UTC",
	}, as)
	if err != nil {
		return nil, err
	}
	dsn := url.URL{Scheme: "postgres", User: url.UserPassword("medic", password), Host: loopback(ports[0]), Path: "/postgres", RawQuery: "sslmode=disable"}
	db, err := sql.Open("pgx", dsn.String())
	if err != nil {
		return nil, err
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err = Poll(ctx, func(ctx context.Context) (bool, error) {
		select {
		case <-server.exited():
			return false, fmt.Errorf("postgres %w: %s", errEndedEarly, server.logTail())
		default:
			return db.PingContext(ctx) == nil, nil
		}
	})
	if err != nil {
		return nil, err
	}
	return &Postgres{DSN: dsn.String(), supervisor: sup}, nil
}

// Restart stops the server as a crash would, every connection with it, and
// starts it again on the same port and data. It returns when it answers.
func (p *Postgres) Restart(ctx context.Context) error {
	server := p.Process()
	// Immediate shutdown: a killed postmaster would leave its children behind,
	// which live in groups of their own.
	if err := syscall.Kill(server.PID(), syscall.SIGQUIT); err != nil {
		return fmt.Errorf("stop PostgreSQL: %w", err)
	}
	select {
	case <-server.exited():
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := server.Restart(); err != nil {
		return fmt.Errorf("start PostgreSQL again: %w", err)
	}
	db, err := sql.Open("pgx", p.DSN)
	if err != nil {
		return err
	}
	defer db.Close()
	return Poll(ctx, func(ctx context.Context) (bool, error) {
		select {
		case <-server.exited():
			return false, fmt.Errorf("postgres ended: %s", server.logTail())
		default:
			return db.PingContext(ctx) == nil, nil
		}
	})
}

// Process is the server, to kill, pause or restart.
func (p *Postgres) Process() *Process { return p.supervisor.process("postgres") }

// Stop ends the server and removes its data; it may be called more than once.
func (p *Postgres) Stop() error { return p.supervisor.stop() }

// postgresBin is the folder of initdb and postgres, the newest version's if
// several are installed.
func postgresBin() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		// Both must be of one version: follow a link to where they lie together.
		if path, err = filepath.EvalSymlinks(path); err == nil && executable(filepath.Join(filepath.Dir(path), "postgres")) {
			return filepath.Dir(path), nil
		}
	}
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.SortFunc(dirs, func(a, b string) int { return postgresMajor(b) - postgresMajor(a) })
	for _, dir := range dirs {
		if executable(filepath.Join(dir, "initdb")) && executable(filepath.Join(dir, "postgres")) {
			return dir, nil
		}
	}
	return "", errors.New("neither on PATH nor under /usr/lib/postgresql: install PostgreSQL (apt-get install postgresql)")
}

func postgresMajor(dir string) int {
	n, _ := strconv.Atoi(strings.SplitN(filepath.Base(filepath.Dir(dir)), ".", 2)[0])
	return n
}

// postgresCredential is the user to run as; nil is this one.
func postgresCredential() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL does not run as root: %w", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// Database returns the DSN of a fresh database for the test, in the server
// that ALERTMEDIC_TEST_POSTGRES names; it is dropped at the end. ok is false
// when the variable is not set.
func Database(t testing.TB) (dsn string, ok bool) {
	t.Helper()
	server := os.Getenv(EnvPostgres)
	if server == "" {
		return "", false
	}
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("pgx", server)
	if err != nil {
		t.Fatal(err)
	}
	name := "medic_" + randomSuffix()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if _, err := db.ExecContext(ctx, "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer db.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		if _, err := db.ExecContext(ctx, "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	})
	u.Path = "/" + name
	q := u.Query()
	q.Set("connect_timeout", "60") // a busy machine is not a server that is away
	u.RawQuery = q.Encode()
	return u.String(), true
}
