package journal

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Checkpoint is a signed statement that the chain had this head at this time.
// Kept outside of the database it proves that nothing up to Seq was changed.
type Checkpoint struct {
	Seq       int64     `json:"seq"`
	Hash      string    `json:"hash"`
	At        time.Time `json:"at"`
	KeyID     string    `json:"keyID"`
	Signature string    `json:"signature"` // base64 of the Ed25519 signature
}

// Errors of keys and signatures, for errors.Is.
var (
	ErrSignature = errors.New("the signature does not fit the checkpoint")
	ErrKey       = errors.New("the signing key cannot be used")
)

// message is what is signed. The prefix keeps the signature from standing for
// anything else that the key may sign one day.
func (c Checkpoint) message() []byte {
	return fmt.Appendf(nil, "alertmedic checkpoint v1\n%d\n%s\n%s\n%s\n", c.Seq, c.Hash, Microseconds(c.At).Format(timeLayout), c.KeyID)
}

// KeyID returns the short name of a public key: the first 16 hex digits of its
// SHA-256.
func KeyID(pub ed25519.PublicKey) string {
	sum := sha256.Sum256(pub)
	return hex.EncodeToString(sum[:8])
}

// Sign makes the checkpoint of head h.
func Sign(key ed25519.PrivateKey, h Head, at time.Time) Checkpoint {
	c := Checkpoint{Seq: h.Seq, Hash: h.Hash, At: Microseconds(at), KeyID: KeyID(key.Public().(ed25519.PublicKey))}
	c.Signature = base64.StdEncoding.EncodeToString(ed25519.Sign(key, c.message()))
	return c
}

// Verify checks the signature with the public key; the error wraps ErrSignature.
func (c Checkpoint) Verify(pub ed25519.PublicKey) error {
	if id := KeyID(pub); id != c.KeyID {
		return fmt.Errorf("%w: it was signed with key %s and checked with %s; use the key that was in service then", ErrSignature, c.KeyID, id)
	}
	sig, err := base64.StdEncoding.DecodeString(c.Signature)
	if err != nil {
		return fmt.Errorf("%w: the signature of the checkpoint at seq %d is no base64: %w", ErrSignature, c.Seq, err)
	}
	if !ed25519.Verify(pub, c.message(), sig) {
		return fmt.Errorf("%w: the checkpoint at seq %d was altered or forged", ErrSignature, c.Seq)
	}
	return nil
}

// Matches checks that the entry at the checkpoint's seq is the one that was
// signed; the error is a *ChainError.
func (c Checkpoint) Matches(e Entry) error {
	if e.Seq != c.Seq {
		return &ChainError{Seq: c.Seq, Break: BreakTruncated, Detail: fmt.Sprintf("a checkpoint of %s names it and it is not there", c.At.Format(time.RFC3339))}
	}
	if e.Hash != c.Hash {
		return &ChainError{Seq: c.Seq, Break: BreakHash, Detail: fmt.Sprintf("its hash is %s and the checkpoint of %s signed %s: the chain was rewritten", e.Hash, c.At.Format(time.RFC3339), c.Hash)}
	}
	return nil
}

// GenerateKey makes a new signing key.
func GenerateKey() (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate a signing key: %w", err)
	}
	return key, nil
}

// WriteKey stores the key as PKCS #8 PEM, readable by its owner only. It never
// overwrites: losing a signing key makes old checkpoints unprovable.
func WriteKey(path string, key ed25519.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode the signing key: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write the signing key; choose a path that does not exist yet in a writable directory: %w", err)
	}
	_, err = f.Write(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write the signing key %s: %w", path, err), os.Remove(path))
	}
	return nil
}

// LoadKey reads a PEM file with an Ed25519 private key in PKCS #8, as
// `openssl genpkey -algorithm ed25519` writes it. The error wraps ErrKey and
// never shows the content.
func LoadKey(path string) (ed25519.PrivateKey, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("%w: %s holds no PEM block PRIVATE KEY; make one with `openssl genpkey -algorithm ed25519`", ErrKey, path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %s is no PKCS #8 key: %w", ErrKey, path, err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%w: %s holds a key of type %T, Ed25519 is needed", ErrKey, path, parsed)
	}
	return key, nil
}

// LoadOrCreateKey loads the key of path, or makes one there when the file does
// not exist. Two processes that start at once end up with the same key.
func LoadOrCreateKey(path string) (ed25519.PrivateKey, error) {
	key, err := LoadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	fresh, err := GenerateKey()
	if err != nil {
		return nil, err
	}
	// A finished file is linked into place, so that nobody reads half of one and
	// the slower of two processes takes the other's.
	dir, err := os.MkdirTemp(filepath.Dir(path), ".key-")
	if err != nil {
		return nil, fmt.Errorf("make the signing key: its directory must be writable: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	tmp := filepath.Join(dir, "key.pem")
	if err := WriteKey(tmp, fresh); err != nil {
		return nil, err
	}
	if err := os.Link(tmp, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make the signing key %s: %w", path, err)
	}
	return LoadKey(path)
}

// PublicPEM returns the public key as PEM, to be handed to those who verify.
func PublicPEM(pub ed25519.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("encode the public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// ParsePublicPEM reads what PublicPEM wrote; the error wraps ErrKey.
func ParsePublicPEM(doc []byte) (ed25519.PublicKey, error) {
	block, _ := pem.Decode(doc)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, fmt.Errorf("%w: no PEM block PUBLIC KEY", ErrKey)
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: no public key: %w", ErrKey, err)
	}
	pub, ok := parsed.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: a key of type %T, Ed25519 is needed", ErrKey, parsed)
	}
	return pub, nil
}
