// Command clusterctl keeps one local control plane running in the background:
//
//	go run ./hack/clusterctl up [-nodes 3] [-monitoring] [-rules GLOB] [-webhook URL]
//	go run ./hack/clusterctl status
//	go run ./hack/clusterctl down
//
// Its state, kubeconfig and log lie in the user's cache folder, under
// alertmedic/cluster. up does nothing but say where it is when one is running.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/alertmedic/alertmedic/internal/testcluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "clusterctl:", err)
		stop()
		os.Exit(1)
	}
}

// paths of the files that say what runs.
type paths struct{ dir, lock, info, log, kubeconfig, state string }

func locate() (paths, error) {
	cache, err := testcluster.CacheDir()
	if err != nil {
		return paths{}, err
	}
	dir := filepath.Join(cache, "cluster")
	return paths{
		dir:        dir,
		lock:       filepath.Join(dir, "lock"),
		info:       filepath.Join(dir, "info.json"),
		log:        filepath.Join(dir, "log"),
		kubeconfig: filepath.Join(dir, "kubeconfig"),
		state:      filepath.Join(dir, "state.json"),
	}, os.MkdirAll(dir, 0o700)
}

// info is what up and status print.
type info struct {
	Server       string   `json:"server"`
	Folder       string   `json:"folder"`
	Prometheus   []string `json:"prometheus,omitempty"`
	Alertmanager []string `json:"alertmanager,omitempty"`
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("usage: clusterctl up|down|status")
	}
	p, err := locate()
	if err != nil {
		return err
	}
	flags := flag.NewFlagSet("clusterctl "+args[0], flag.ContinueOnError)
	switch args[0] {
	case "up", "serve":
		nodes := flags.Int("nodes", 3, "nodes to create, over the zones a, b and c")
		monitoring := flags.Bool("monitoring", false, "run kube-state-metrics, Prometheus and Alertmanager too")
		rules := flags.String("rules", "", "glob of the rule files that Prometheus loads")
		webhook := flags.String("webhook", "", "URL that Alertmanager sends every alert to")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		if args[0] == "up" {
			return up(ctx, p, args[1:], out)
		}
		opts := testcluster.MonitoringOptions{WebhookURL: *webhook}
		if *rules != "" {
			opts.RuleFiles = []string{*rules}
		}
		return serve(ctx, p, *nodes, *monitoring, opts)
	case "down", "status":
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		if args[0] == "down" {
			return down(ctx, p, out)
		}
		return status(p, out)
	default:
		return fmt.Errorf("unknown command %q: up, down or status", args[0])
	}
}

// errHeld means that a cluster runs: its process holds the lock.
var errHeld = errors.New("a cluster is running")

// acquire takes the lock that lasts as long as the cluster's process.
func (p paths) acquire() (*os.File, error) {
	f, err := os.OpenFile(p.lock, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errHeld
		}
		return nil, err
	}
	return f, nil
}

// running reports whether a cluster's process lives.
func (p paths) running() (bool, error) {
	f, err := p.acquire()
	if errors.Is(err, errHeld) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, f.Close()
}

func up(ctx context.Context, p paths, args []string, out io.Writer) error {
	held, err := p.running()
	if err != nil {
		return err
	}
	if !held {
		if err := os.Remove(p.info); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		log, err := os.Create(p.log)
		if err != nil {
			return err
		}
		defer log.Close()
		cmd := exec.Command("/proc/self/exe", append([]string{"serve"}, args...)...) //nolint:noctx // outlives the call: it is stopped in order
		cmd.Stdout, cmd.Stderr = log, log
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return err
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		err = testcluster.Poll(ctx, func(context.Context) (bool, error) {
			select {
			case err := <-ended:
				return false, fmt.Errorf("the cluster did not start (%w):\n%s", err, tail(p.log))
			default:
			}
			_, err := os.Stat(p.info)
			return err == nil, nil
		})
		if err != nil {
			if ctx.Err() != nil {
				err = errors.Join(err, cmd.Process.Signal(syscall.SIGTERM))
			}
			return err
		}
	} else {
		// Another up may still be starting it.
		if err := testcluster.Poll(ctx, func(context.Context) (bool, error) {
			_, err := os.Stat(p.info)
			if err == nil {
				return true, nil
			}
			held, err := p.running()
			if err == nil && !held {
				err = errors.New("the cluster that was starting has ended")
			}
			return false, err
		}); err != nil {
			return err
		}
	}
	return status(p, out)
}

func status(p paths, out io.Writer) error {
	held, err := p.running()
	if err != nil {
		return err
	}
	if !held {
		return errors.New("no cluster is running: clusterctl up")
	}
	data, err := os.ReadFile(p.info)
	if err != nil {
		return fmt.Errorf("the cluster is still starting: %w", err)
	}
	var i info
	if err := json.Unmarshal(data, &i); err != nil {
		return err
	}
	fmt.Fprintf(out, "API server    %s\nlogs          %s\n", i.Server, i.Folder)
	for _, url := range i.Prometheus {
		fmt.Fprintf(out, "Prometheus    %s\n", url)
	}
	for _, url := range i.Alertmanager {
		fmt.Fprintf(out, "Alertmanager  %s\n", url)
	}
	fmt.Fprintf(out, "\nexport KUBECONFIG=%s\nexport %s=%s\n", p.kubeconfig, testcluster.EnvState, p.state)
	return nil
}

// serve is the process in the background; it lives until SIGTERM.
func serve(ctx context.Context, p paths, nodes int, monitoring bool, opts testcluster.MonitoringOptions) (err error) {
	lock, err := p.acquire()
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := errors.Join(lock.Truncate(0), writeAt(lock, strconv.Itoa(os.Getpid()))); err != nil {
		return err
	}
	c, err := testcluster.Start(ctx, testcluster.Options{Nodes: nodes})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	i := info{Server: c.Server(), Folder: c.Dir()}
	if monitoring {
		m, err := c.StartMonitoring(ctx, opts)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, m.Stop()) }()
		i.Prometheus, i.Alertmanager = []string{m.PrometheusURL(0)}, []string{m.AlertmanagerURL(0)}
	}
	if err := errors.Join(c.Kubeconfig(p.kubeconfig), c.Save(p.state)); err != nil {
		return err
	}
	data, err := json.Marshal(i)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(p.info), os.Remove(p.kubeconfig), os.Remove(p.state)) }()
	// Renamed into place: up takes its presence for the cluster's readiness.
	if err := os.WriteFile(p.info+".tmp", data, 0o600); err != nil {
		return err
	}
	if err := os.Rename(p.info+".tmp", p.info); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func writeAt(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}

func down(ctx context.Context, p paths, out io.Writer) error {
	held, err := p.running()
	if err != nil {
		return err
	}
	if !held {
		fmt.Fprintln(out, "no cluster is running")
		return nil
	}
	data, err := os.ReadFile(p.lock)
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return fmt.Errorf("%s holds no process id", p.lock)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := testcluster.Poll(ctx, func(context.Context) (bool, error) {
		held, err := p.running()
		return !held, err
	}); err != nil {
		return fmt.Errorf("process %d does not end: %w", pid, err)
	}
	fmt.Fprintln(out, "the cluster is stopped")
	return nil
}

func tail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	const most = 4096
	if len(data) > most {
		data = data[len(data)-most:]
	}
	return string(bytes.TrimSpace(data))
}
