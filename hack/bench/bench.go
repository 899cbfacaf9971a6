package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/alertmedic/alertmedic/internal/testcluster"
)

// bench holds what the scenarios share; each part is started when it is first
// asked for.
type bench struct {
	rounds   int
	profiles string
	scenario string
	began    time.Time
	dir      string
	report   report
	failures []string

	postgres  *testcluster.Postgres
	databases int
	cluster   *testcluster.Cluster
	binary    string
	ending    []func() error // of the scenario that runs
}

func newBench(rounds int, profiles string) (*bench, error) {
	if profiles != "" {
		if err := os.MkdirAll(profiles, 0o755); err != nil { //nolint:gosec // profiles are no secret
			return nil, err
		}
	}
	dir, err := os.MkdirTemp("", "alertmedic-bench-")
	if err != nil {
		return nil, err
	}
	b := &bench{rounds: max(1, rounds), profiles: profiles, began: time.Now(), dir: dir}
	b.report.Command = "make bench"
	b.report.Machine = thisMachine(dir)
	return b, nil
}

func (b *bench) close() error {
	errs := []error{b.cleanup()}
	if b.cluster != nil {
		errs = append(errs, b.cluster.Stop())
	}
	if b.postgres != nil {
		errs = append(errs, b.postgres.Stop())
	}
	return errors.Join(append(errs, os.RemoveAll(b.dir))...)
}

// onEnd has something undone when the scenario ends.
func (b *bench) onEnd(f func() error) { b.ending = append(b.ending, f) }

func (b *bench) cleanup() error {
	var errs []error
	for i := len(b.ending) - 1; i >= 0; i-- {
		errs = append(errs, b.ending[i]())
	}
	b.ending = nil
	return errors.Join(errs...)
}

func (b *bench) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%4ds  %-8s %s\n", int(time.Since(b.began).Seconds()), b.scenario, fmt.Sprintf(format, args...))
}

// folder makes a folder of the scenario's own.
func (b *bench) folder() (string, error) {
	dir, err := os.MkdirTemp(b.dir, b.scenario+"-")
	if err == nil {
		b.onEnd(func() error { return os.RemoveAll(dir) })
	}
	return dir, err
}

// databasesOf are the kinds of database that everything is measured on.
var databaseKinds = []string{"sqlite", "postgres"}

// database makes an empty database and returns its DSN.
func (b *bench) database(ctx context.Context, kind string) (string, error) {
	if kind == "sqlite" {
		dir, err := b.folder()
		return filepath.Join(dir, "medic.db"), err
	}
	if b.postgres == nil {
		b.progress("starting a PostgreSQL that syncs")
		var err error
		if b.postgres, err = testcluster.StartPostgres(ctx, testcluster.PostgresOptions{Sync: true}); err != nil {
			return "", err
		}
	}
	admin, err := sql.Open("pgx", b.postgres.DSN)
	if err != nil {
		return "", err
	}
	defer admin.Close()
	if b.report.Machine.PostgreSQL == "" {
		if err := admin.QueryRowContext(ctx, "SHOW server_version").Scan(&b.report.Machine.PostgreSQL); err != nil {
			return "", err
		}
	}
	b.databases++
	name := fmt.Sprintf("bench_%d", b.databases)
	if _, err := admin.ExecContext(ctx, "CREATE DATABASE "+name); err != nil {
		return "", err
	}
	b.onEnd(func() error {
		admin, err := sql.Open("pgx", b.postgres.DSN)
		if err != nil {
			return err
		}
		defer admin.Close()
		_, err = admin.ExecContext(context.Background(), "DROP DATABASE "+name+" WITH (FORCE)")
		return err
	})
	u, err := url.Parse(b.postgres.DSN)
	if err != nil {
		return "", err
	}
	u.Path = "/" + name
	return u.String(), nil
}

// service is the path of the built service.
func (b *bench) service(ctx context.Context) (string, error) {
	if b.binary != "" {
		return b.binary, nil
	}
	b.progress("building the service")
	path := filepath.Join(b.dir, "alertmedic")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, "github.com/alertmedic/alertmedic/cmd/alertmedic")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the service: %w\n%s", err, out)
	}
	b.binary = path
	return path, nil
}

// controlPlane is a cluster of the benchmark's own.
func (b *bench) controlPlane(ctx context.Context) (*testcluster.Cluster, error) {
	if b.cluster != nil {
		return b.cluster, nil
	}
	b.progress("starting a control plane")
	var err error
	b.cluster, err = testcluster.Start(ctx, testcluster.Options{Nodes: 3})
	return b.cluster, err
}

func firstLine(s string) string { line, _, _ := strings.Cut(s, "\n"); return line }
