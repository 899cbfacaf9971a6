package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/store"
)

// helperEnv makes this test binary a second process that works on the database
// of helperDSN.
const (
	helperEnv = "ALERTMEDIC_STORE_TEST_HELPER"
	helperDSN = "ALERTMEDIC_STORE_TEST_DSN"
)

// helper opens the database, accepts one alert, then leaves a transaction open
// until it is killed.
func helper(string) int {
	s, err := store.Open(context.Background(), store.Options{DSN: os.Getenv(helperDSN)})
	if errors.Is(err, store.ErrBusy) {
		fmt.Println("busy:", err)
		return 3
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if _, err := s.Accept(context.Background(), store.Batch{Observations: []store.Observation{firing("acknowledged", playbook("a", 0))}}); err != nil {
		fmt.Println(err)
		return 1
	}
	err = s.InTx(context.Background(), func(exec func(string, ...any) error) error {
		if err := exec("INSERT INTO kv (k, v, updated_at) VALUES ('half', 'done', 1)"); err != nil {
			return err
		}
		fmt.Println("ready")
		_, err := bufio.NewReader(os.Stdin).ReadString('\n')
		return err
	})
	fmt.Println(err)
	return 1
}

func helperCommand(t *testing.T, dsn string) *exec.Cmd {
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), helperEnv+"=1", helperDSN+"="+dsn)
	return cmd
}

func TestASecondProcessIsTurnedAway(t *testing.T) {
	t.Parallel()
	f := openSQLite(t, t)
	out, err := helperCommand(t, f.dsn).CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit, "%s", out)
	require.Equal(t, 3, exit.ExitCode(), "%s", out)
	require.Contains(t, string(out), "stop the other process")

	_, err = store.Open(t.Context(), store.Options{DSN: f.dsn})
	require.ErrorIs(t, err, store.ErrBusy, "nor is the same process let in twice")
	require.NoError(t, f.Close())
	f.open(t, t)
}

func TestACrashKeepsWhatWasAcknowledgedAndNothingElse(t *testing.T) {
	t.Parallel()
	dsns := map[string]string{"sqlite": filepath.Join(t.TempDir(), "crash.db")}
	if server != "" {
		dsns["postgres"] = openPostgres(t, t).dsn
	}
	for name, dsn := range dsns {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := helperCommand(t, dsn)
			stdin, err := cmd.StdinPipe() // open, so that the helper waits
			require.NoError(t, err)
			stdout, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			line, err := bufio.NewReader(stdout).ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "ready\n", line)
			require.NoError(t, cmd.Process.Kill())
			require.Error(t, cmd.Wait())
			require.ErrorIs(t, stdin.Close(), os.ErrClosed)

			s, err := store.Open(t.Context(), store.Options{DSN: dsn})
			require.NoError(t, err)
			defer func() { require.NoError(t, s.Close()) }()
			open, err := s.OpenEpisodes(t.Context(), "am")
			require.NoError(t, err)
			require.Len(t, open, 1)
			_, err = s.GetValue(t.Context(), "half")
			require.ErrorIs(t, err, store.ErrNotFound)
		})
	}
}
