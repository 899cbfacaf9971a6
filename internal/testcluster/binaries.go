package testcluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Environment variables that change where programs come from.
const (
	// EnvCache overrides the folder in which built programs and the state of
	// a running cluster are kept; by default it is os.UserCacheDir()/alertmedic.
	EnvCache = "ALERTMEDIC_CACHE"
	// EnvAssets is the folder in which controller-runtime's tools, too, look
	// for a control plane.
	EnvAssets = "KUBEBUILDER_ASSETS"
)

// Binaries finds or builds the programs of the control plane. A program in
// KUBEBUILDER_ASSETS or on PATH is used only when it reports the pinned
// major.minor version; any other is ignored, and the pinned one is built from
// its module under hack/cluster into the cache. The zero value is ready to
// use. It is safe for concurrent use, also by several processes.
type Binaries struct {
	// Root is the checkout's root; found from the working folder when empty.
	Root string
	// Cache is the folder that built programs are kept in; see [EnvCache].
	Cache string
	// Progress receives a line for each build; os.Stderr when nil.
	Progress io.Writer
	// IgnoreInstalled builds everything, whatever is installed.
	IgnoreInstalled bool
}

// CacheDir is the folder of built programs and cluster state, created when it
// is absent.
func CacheDir() (string, error) {
	dir := os.Getenv(EnvCache)
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("no cache folder, set %s: %w", EnvCache, err)
		}
		dir = filepath.Join(user, "alertmedic")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// moduleRoot walks up from the working folder, which in a test is the
// package's own. The source file's recorded path is the fallback for a program
// that is run from elsewhere and was built without -trimpath.
func moduleRoot() (string, error) {
	starts := []string{}
	if wd, err := os.Getwd(); err == nil {
		starts = append(starts, wd)
	}
	if _, file, _, ok := runtime.Caller(0); ok && filepath.IsAbs(file) {
		starts = append(starts, filepath.Dir(file))
	}
	for _, dir := range starts {
		for {
			if _, err := os.Stat(filepath.Join(dir, "hack", "cluster", "kubernetes", "go.mod")); err == nil {
				return dir, nil
			}
			parent := filepath.Dir(dir)
			if parent == dir {
				break
			}
			dir = parent
		}
	}
	return "", errors.New("hack/cluster not found above the working folder: run inside the checkout")
}

// Ensure returns the path of each named program, building what is missing.
// The first build takes many minutes; ctx ends it.
func (b Binaries) Ensure(ctx context.Context, names ...string) (map[string]string, error) {
	if b.Progress == nil {
		b.Progress = os.Stderr
	}
	var err error
	if b.Root == "" {
		if b.Root, err = moduleRoot(); err != nil {
			return nil, err
		}
	}
	if b.Cache == "" {
		if b.Cache, err = CacheDir(); err != nil {
			return nil, err
		}
	}
	found := make(map[string]string, len(names))
	var missing []program
	for _, name := range names {
		p, ok := findProgram(name)
		if !ok {
			return nil, fmt.Errorf("unknown program %q", name)
		}
		path, err := b.cached(p)
		if err != nil {
			return nil, err
		}
		if installed := b.installed(ctx, p); installed != "" {
			found[name] = installed
		} else if executable(path) {
			found[name] = path
		} else {
			missing = append(missing, p)
		}
	}
	if len(missing) == 0 {
		return found, nil
	}
	unlock, err := lockFile(ctx, filepath.Join(b.Cache, "build.lock"), b.Progress)
	if err != nil {
		return nil, err
	}
	defer unlock()
	for i, p := range missing {
		path, err := b.cached(p)
		if err != nil {
			return nil, err
		}
		// Another process may have built it while this one waited.
		if !executable(path) {
			if err := b.build(ctx, p, path, fmt.Sprintf("%d of %d", i+1, len(missing))); err != nil {
				return nil, err
			}
		}
		found[p.name] = path
	}
	return found, nil
}

// cached is where p lies once it is built. The folder's name holds a digest of
// all that decides what is built, so a changed pin never runs a stale program.
func (b Binaries) cached(p program) (string, error) {
	h := sha256.New()
	for _, name := range []string{"go.mod", "go.sum"} {
		data, err := os.ReadFile(filepath.Join(b.Root, "hack", "cluster", p.module, name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %d\n", name, len(data))
		h.Write(data)
	}
	fmt.Fprintf(h, "%s %s %s %s", runtime.Version(), runtime.GOOS, runtime.GOARCH, p.ldflags())
	sum := hex.EncodeToString(h.Sum(nil))[:16]
	return filepath.Join(b.Cache, "bin", p.module+"-"+sum, p.name), nil
}

// installed returns the path of a fitting p on this machine, or "".
func (b Binaries) installed(ctx context.Context, p program) string {
	if b.IgnoreInstalled {
		return ""
	}
	var candidates []string
	if dir := os.Getenv(EnvAssets); dir != "" {
		candidates = append(candidates, filepath.Join(dir, p.name))
	}
	if path, err := exec.LookPath(p.name); err == nil {
		candidates = append(candidates, path)
	}
	for _, path := range candidates {
		if !executable(path) {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		out, err := exec.CommandContext(ctx, path, p.flags...).CombinedOutput()
		cancel()
		if err == nil && p.fits(string(out)) {
			return path
		}
	}
	return ""
}

// build compiles p beside its final place and renames it, so that a build
// which is interrupted leaves nothing that looks finished.
func (b Binaries) build(ctx context.Context, p program, path, position string) error {
	fmt.Fprintf(b.Progress, "building %s (%s; the first build of all takes about 14 minutes on 2 cores)\n", p.name, position)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := fmt.Sprintf("%s.%d.tmp", path, os.Getpid())
	defer os.Remove(tmp)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", p.ldflags(), "-o", tmp, p.pkg)
	cmd.Dir = filepath.Join(b.Root, "hack", "cluster", p.module)
	// A workspace or flags meant for the product must not reach these modules.
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-buildvcs=false")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	var stderr strings.Builder
	cmd.Stderr = &stderr
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build %s in %s: %w\n%s", p.name, cmd.Dir, err, strings.TrimSpace(stderr.String()))
	}
	fmt.Fprintf(b.Progress, "built %s in %s\n", p.name, time.Since(start).Round(time.Second))
	return os.Rename(tmp, path)
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}

// lockFile takes an exclusive lock that other processes see and that the
// kernel releases when this process dies. A waiting process says so on w.
func lockFile(ctx context.Context, path string, w io.Writer) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, fs.FileMode(0o644))
	if err != nil {
		return nil, err
	}
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for told := false; ; told = true {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if !told {
			fmt.Fprintf(w, "waiting for another process that builds the control plane (%s)\n", path)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		case <-ticker.C:
		}
	}
}
