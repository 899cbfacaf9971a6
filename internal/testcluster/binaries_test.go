package testcluster

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAFittingVersionIsOneOfThePinnedMinor(t *testing.T) {
	for _, tc := range []struct {
		program, output string
		want            bool
	}{
		{"kube-apiserver", "Kubernetes v1.37.2", true},
		{"kube-apiserver", "Kubernetes v1.37.0-rc.1", true},
		{"kube-apiserver", "Kubernetes v1.36.9", false},
		{"kube-apiserver", "Kubernetes v1.370.2", false},
		{"kubectl", "Client Version: v1.32.4-dispatcher\nKustomize Version: v5.5.0", false},
		{"kubectl", "Client Version: v1.37.2\nKustomize Version: v5.8.1", true},
		{"etcd", "etcd Version: 3.7.3\nGit SHA: GitNotFound\nGo Version: go1.26", true},
		{"etcd", "etcd Version: 3.5.3\nGo Version: go3.7.1", false},
		{"prometheus", "prometheus, version 3.13.5 (branch: HEAD, revision: unknown)\n  go version: go1.26.8", true},
		{"prometheus", "prometheus, version 2.53.1 (branch: HEAD)\n  go version: go3.13", false},
		{"alertmanager", "alertmanager, version 0.31.1 (branch: , revision: unknown)", true},
		{"kwok", "kwok version v0.8.0 (go1.26)", true},
		{"kwok", "", false},
	} {
		p, ok := findProgram(tc.program)
		require.True(t, ok)
		require.Equal(t, tc.want, p.fits(tc.output), "%s: %s", tc.program, tc.output)
	}
}

// The version that a program found on a machine must have is the one that its
// module pins.
func TestFittingVersionsAgreeWithThePins(t *testing.T) {
	root, err := moduleRoot()
	require.NoError(t, err)
	for _, p := range programs {
		data, err := os.ReadFile(filepath.Join(root, "hack", "cluster", p.module, "go.mod"))
		require.NoError(t, err)
		require.Contains(t, string(data), p.pkg, "%s is no tool of its module", p.name)
		version := ""
		for line := range strings.Lines(string(data)) {
			fields := strings.Fields(line)
			if len(fields) >= 2 && !strings.Contains(line, "=>") && strings.HasPrefix(fields[1], "v") && (p.pkg == fields[0] || strings.HasPrefix(p.pkg, fields[0]+"/")) {
				version = fields[1]
			}
		}
		// Prometheus's module is v0.<major><two digits of minor>.
		pinned := strings.TrimPrefix(version, "v")
		if p.module == "prometheus" {
			pinned = strings.Replace(pinned, "0.313.", "3.13.", 1)
		}
		require.True(t, strings.HasPrefix(pinned, p.version+"."), "%s: pinned %s, fits %s", p.name, version, p.version)
		if stamp := stamps[p.module]; stamp != "" {
			require.True(t, strings.HasSuffix(stamp, "="+pinned) || strings.HasSuffix(stamp, "=v"+pinned), "%s: pinned %s, stamped %s", p.name, pinned, stamp)
		}
	}
}

func TestTheCacheKeyFollowsThePins(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "hack", "cluster", "etcd")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	write("go.mod", "module x\n")
	write("go.sum", "")
	b := Binaries{Root: root, Cache: t.TempDir()}
	p, _ := findProgram("etcd")
	first, err := b.cached(p)
	require.NoError(t, err)
	again, err := b.cached(p)
	require.NoError(t, err)
	require.Equal(t, first, again)
	write("go.sum", "changed\n")
	other, err := b.cached(p)
	require.NoError(t, err)
	require.NotEqual(t, first, other)
}

func TestAFailedBuildLeavesNothingAndSaysWhy(t *testing.T) {
	root, cache := t.TempDir(), t.TempDir()
	dir := filepath.Join(root, "hack", "cluster", "etcd")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module x\n\ngo 1.26.0\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.sum"), nil, 0o644))
	var progress strings.Builder
	b := Binaries{Root: root, Cache: cache, Progress: &progress, IgnoreInstalled: true}
	_, err := b.Ensure(t.Context(), "etcd")
	require.ErrorContains(t, err, "build etcd")
	require.Contains(t, progress.String(), "building etcd (1 of 1")
	left, err := filepath.Glob(filepath.Join(cache, "bin", "*", "*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

// What a build makes is what an installed program would have to be.
func TestBuiltProgramsFit(t *testing.T) {
	b := Binaries{IgnoreInstalled: true}
	names := append(append([]string{}, controlPlane...), monitoringPrograms...)
	paths, err := b.Ensure(t.Context(), names...)
	require.NoError(t, err)
	for _, name := range names {
		p, _ := findProgram(name)
		out, err := exec.CommandContext(t.Context(), paths[name], p.flags...).CombinedOutput()
		require.NoError(t, err)
		require.True(t, p.fits(string(out)), "%s: %s", name, out)
	}
}

func TestAnUnknownProgramIsRefused(t *testing.T) {
	_, err := Binaries{}.Ensure(t.Context(), "docker")
	require.ErrorContains(t, err, `unknown program "docker"`)
}

func TestTheBuildLockIsHeldByOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lockFile(t.Context(), path, io.Discard)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	told := make(chan struct{})
	result := make(chan error, 1)
	go func() {
		_, err := lockFile(ctx, path, writerFunc(func(p []byte) (int, error) { close(told); return len(p), nil }))
		result <- err
	}()
	<-told
	cancel()
	require.ErrorIs(t, <-result, context.Canceled)
	unlock()
	unlock, err = lockFile(t.Context(), path, io.Discard)
	require.NoError(t, err)
	unlock()
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
