package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/alertmedic/alertmedic/internal/auth"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/k8sactions"
	"github.com/alertmedic/alertmedic/playbooks"
	"github.com/alertmedic/alertmedic/receiver"
)

// A child is this program in another role: a server is measured in a process of
// its own, without the load generator's garbage.
const (
	childEnv   = "ALERTMEDIC_BENCH_CHILD"
	dsnEnv     = "ALERTMEDIC_BENCH_DSN"
	profileEnv = "ALERTMEDIC_BENCH_PROFILE"
)

type child struct {
	cmd     *exec.Cmd
	address string
	stdin   io.Closer
	ended   chan struct{}
	err     error // how it ended
	stop    func() error
}

// child starts this program in a role; it says where it listens, or what it
// found, on its first line.
func (b *bench) child(ctx context.Context, role, dsn string) (*child, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, exe)
	cmd.Env = append(os.Environ(), childEnv+"="+role, dsnEnv+"="+dsn)
	if b.profiles != "" {
		kind := "sqlite"
		if strings.HasPrefix(dsn, "postgres") {
			kind = "postgres"
		}
		cmd.Env = append(cmd.Env, profileEnv+"="+filepath.Join(b.profiles, b.scenario+"-"+role+"-"+kind+".pprof"))
	}
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, stdin: stdin, ended: make(chan struct{})}
	c.stop = sync.OnceValue(c.end)
	b.onEnd(c.stop)
	line := make([]byte, 4096)
	n, err := stdout.Read(line)
	go func() {
		c.err = cmd.Wait()
		close(c.ended)
	}()
	if err != nil {
		return nil, fmt.Errorf("the server %s did not start: %w", role, err)
	}
	c.address = strings.TrimSpace(string(line[:n]))
	return c, nil
}

// end ends the child, which waits for its standard input to close. stop does it
// once.
func (c *child) end() error {
	err := c.stdin.Close()
	select {
	case <-c.ended:
	case <-time.After(10 * time.Second):
		err = errors.Join(err, c.cmd.Process.Kill())
		<-c.ended
	}
	return errors.Join(err, c.err)
}

// serve answers on l until end is called, which says what went wrong.
func serve(server *http.Server, l net.Listener) (end func() error) {
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	return func() error {
		err := server.Close()
		if s := <-served; !errors.Is(s, http.ErrServerClosed) {
			err = errors.Join(err, s)
		}
		return err
	}
}

// beChild serves until standard input closes.
func beChild(role string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if path := os.Getenv(profileEnv); path != "" {
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	var handler http.Handler
	switch role {
	case "bare":
		handler = http.HandlerFunc(bare)
	case "durable":
		s, err := store.Open(ctx, store.Options{DSN: os.Getenv(dsnEnv), FlapDwell: 2 * time.Minute, Registerer: prometheus.NewRegistry()})
		if err != nil {
			return err
		}
		defer s.Close()
		if handler, err = durable(s); err != nil {
			return err
		}
	case "export":
		return export(ctx)
	default:
		return errors.New("unknown role " + role)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler} //nolint:gosec // Configure sets the limits
	receiver.Limits{}.Configure(server)
	end := serve(server, l)
	fmt.Println(l.Addr())
	_, err = io.Copy(io.Discard, os.Stdin)
	return errors.Join(err, end())
}

// payload is Alertmanager's, as a receiver would declare it.
type payload struct {
	Version           string            `json:"version"`
	GroupKey          string            `json:"groupKey"`
	TruncatedAlerts   uint64            `json:"truncatedAlerts"`
	Status            string            `json:"status"`
	Receiver          string            `json:"receiver"`
	GroupLabels       map[string]string `json:"groupLabels"`
	CommonLabels      map[string]string `json:"commonLabels"`
	CommonAnnotations map[string]string `json:"commonAnnotations"`
	ExternalURL       string            `json:"externalURL"`
	Alerts            []struct {
		Status       string            `json:"status"`
		Labels       map[string]string `json:"labels"`
		Annotations  map[string]string `json:"annotations"`
		StartsAt     time.Time         `json:"startsAt"`
		EndsAt       time.Time         `json:"endsAt"`
		GeneratorURL string            `json:"generatorURL"`
		Fingerprint  string            `json:"fingerprint"`
	} `json:"alerts"`
}

// bare decodes the webhook and stores nothing: the baseline.
func bare(w http.ResponseWriter, r *http.Request) {
	var p payload
	if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, `{"accepted":%d}`, len(p.Alerts))
}

// durable is the service's webhook on its store, with the shipped playbooks; one
// matches. No engine works.
func durable(s *store.Store) (http.Handler, error) {
	catalogue, err := k8sactions.New(nil, k8sactions.Options{})
	if err != nil {
		return nil, err
	}
	dir, err := library()
	if err != nil {
		return nil, err
	}
	set, problems := playbooks.Load([]string{dir}, playbooks.LoadOptions{Catalogue: catalogue})
	if err := problems.Err(); err != nil {
		return nil, err
	}
	if n := len(set.Match(podAlert(1))); n != 1 {
		return nil, fmt.Errorf("%d playbooks of %s match the alert, want 1", n, dir)
	}
	who, err := auth.Load(nil, auth.WithAnonymous(auth.Identity{Name: "bench", Roles: []auth.Role{auth.Ingest}, Source: "am"}))
	if err != nil {
		return nil, err
	}
	hook, err := receiver.New(receiver.Options{Accepter: s, Authenticator: who, Current: func() receiver.Matcher { return set },
		Sources: map[string]receiver.Source{"am": {Name: "am", Cluster: "bench"}}, ExpireAfter: func(*playbooks.Playbook) time.Duration { return time.Hour }, Registerer: prometheus.NewRegistry()})
	if err != nil {
		return nil, err
	}
	r := chi.NewRouter()
	hook.Routes(r)
	return r, nil
}

// library is the folder of the shipped playbooks.
func library() (string, error) {
	out, err := exec.Command("go", "list", "-f", "{{.Dir}}", "github.com/alertmedic/alertmedic/playbooks").Output() //nolint:noctx // at once
	if err != nil {
		return "", fmt.Errorf("find the playbooks: %w", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "library"), nil
}
