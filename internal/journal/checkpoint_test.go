package journal_test

import (
	"crypto/ed25519"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/journal"
)

func TestCheckpointProvesItsHead(t *testing.T) {
	t.Parallel()
	key, err := journal.GenerateKey()
	require.NoError(t, err)
	doc, err := journal.PublicPEM(key.Public().(ed25519.PublicKey))
	require.NoError(t, err)
	pub, err := journal.ParsePublicPEM(doc)
	require.NoError(t, err)

	entries := chain(t, 3)
	cp := journal.Sign(key, journal.Head{Seq: 3, Hash: entries[2].Hash}, time.Now())
	require.NoError(t, cp.Verify(pub))
	require.NoError(t, cp.Matches(entries[2]))

	for name, tamper := range map[string]func(*journal.Checkpoint){
		"seq":       func(c *journal.Checkpoint) { c.Seq++ },
		"hash":      func(c *journal.Checkpoint) { c.Hash = entries[1].Hash },
		"time":      func(c *journal.Checkpoint) { c.At = c.At.Add(time.Microsecond) },
		"key":       func(c *journal.Checkpoint) { c.KeyID = "0011223344556677" },
		"signature": func(c *journal.Checkpoint) { c.Signature = "AAAA" },
		"no base64": func(c *journal.Checkpoint) { c.Signature = "!" },
	} {
		bad := cp
		tamper(&bad)
		require.ErrorIs(t, bad.Verify(pub), journal.ErrSignature, name)
	}
	other, err := journal.GenerateKey()
	require.NoError(t, err)
	require.ErrorIs(t, cp.Verify(other.Public().(ed25519.PublicKey)), journal.ErrSignature)

	var ce *journal.ChainError
	require.ErrorAs(t, cp.Matches(entries[1]), &ce)
	require.Equal(t, journal.BreakTruncated, ce.Break)
	rewritten := entries[2]
	rewritten.Hash = entries[1].Hash
	require.ErrorAs(t, cp.Matches(rewritten), &ce)
	require.Equal(t, journal.BreakHash, ce.Break)
}

func TestKeyFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key.pem")
	keys := make([]ed25519.PrivateKey, 8)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			var err error
			if keys[i], err = journal.LoadOrCreateKey(path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, k := range keys {
		require.True(t, keys[0].Equal(k), "all who start at once have one key")
	}
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	require.ErrorIs(t, journal.WriteKey(path, keys[0]), os.ErrExist)

	bad := filepath.Join(t.TempDir(), "bad.pem")
	require.NoError(t, os.WriteFile(bad, []byte("top secret"), 0o600))
	_, err = journal.LoadKey(bad)
	require.ErrorIs(t, err, journal.ErrKey)
	require.NotContains(t, err.Error(), "top secret")
	_, err = journal.LoadKey(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = journal.ParsePublicPEM([]byte("x"))
	require.ErrorIs(t, err, journal.ErrKey)
}
