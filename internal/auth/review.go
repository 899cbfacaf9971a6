package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authenticationclient "k8s.io/client-go/kubernetes/typed/authentication/v1"
)

// User is an identity of the cluster.
type User struct {
	Name   string
	Groups []string
}

// Reviewer asks the cluster who owns a token. It returns ErrBadCredential,
// possibly wrapped, for a token that the cluster does not know, and any other
// error when it could not be found out.
type Reviewer interface {
	Review(ctx context.Context, token string) (User, error)
}

// Mapping gives identities of the cluster their roles; what is not named has
// none. The role ingest cannot be given: it belongs to a source.
type Mapping struct {
	Groups map[string][]Role
	Users  map[string][]Role
}

func (m Mapping) roles(u User) []Role {
	roles := slices.Clone(m.Users[u.Name])
	for _, group := range u.Groups {
		roles = append(roles, m.Groups[group]...)
	}
	slices.Sort(roles)
	return slices.Compact(roles)
}

func (m Mapping) check() error {
	for _, table := range []map[string][]Role{m.Groups, m.Users} {
		for name, roles := range table {
			for _, role := range roles {
				if role == Ingest || !slices.Contains(Roles(), role) {
					return fmt.Errorf("token review: %q cannot be given the role %q: choose among %v", name, role, []Role{View, Approve, Admin})
				}
			}
		}
	}
	return nil
}

// WithReviewer lets in identities of the cluster, as m gives them roles.
func WithReviewer(r Reviewer, m Mapping) Option {
	return func(a *Authenticator) error {
		if err := m.check(); err != nil {
			return err
		}
		a.review = &reviewCache{reviewer: r, mapping: m, slots: make(chan struct{}, reviewsAtOnce), known: map[[sha256.Size]byte]reviewed{}}
		return nil
	}
}

// KubernetesReviewer reviews tokens with the TokenReview API.
type KubernetesReviewer struct {
	client    authenticationclient.TokenReviewInterface
	audiences []string
}

// NewKubernetesReviewer returns a Reviewer; no audiences means the API server's.
func NewKubernetesReviewer(client authenticationclient.TokenReviewInterface, audiences ...string) *KubernetesReviewer {
	return &KubernetesReviewer{client: client, audiences: audiences}
}

// Review implements Reviewer.
func (k *KubernetesReviewer) Review(ctx context.Context, credential string) (User, error) {
	answer, err := k.client.Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: credential, Audiences: k.audiences},
	}, metav1.CreateOptions{})
	if err != nil {
		return User{}, fmt.Errorf("create a TokenReview: %w", err)
	}
	// The reasons in Status.Error are the API server's and may quote the token.
	if !answer.Status.Authenticated || answer.Status.User.Username == "" {
		return User{}, ErrBadCredential
	}
	if len(k.audiences) > 0 && !slices.ContainsFunc(answer.Status.Audiences, func(a string) bool { return slices.Contains(k.audiences, a) }) {
		return User{}, ErrBadCredential
	}
	return User{Name: answer.Status.User.Username, Groups: answer.Status.User.Groups}, nil
}

const (
	reviewsAtOnce = 8
	reviewTimeout = 5 * time.Second
	reviewTTL     = 10 * time.Second // how long a revoked token may still work
	reviewEntries = 1024
)

// reviewCache keeps strangers from making this service hammer the API server.
type reviewCache struct {
	reviewer Reviewer
	mapping  Mapping
	slots    chan struct{}

	mu    sync.Mutex
	known map[[sha256.Size]byte]reviewed
}

type reviewed struct {
	who   Identity
	ok    bool
	until time.Time
}

func (c *reviewCache) identify(ctx context.Context, credential string) (Identity, error) {
	key := sha256.Sum256([]byte(credential))
	if r, ok := c.get(key); ok {
		return r.identity()
	}
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	default:
		return Identity{}, fmt.Errorf("%w: too many at once, try again", ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	user, err := c.reviewer.Review(ctx, credential)
	switch {
	case errors.Is(err, ErrBadCredential):
		return c.put(key, reviewed{}).identity()
	case err != nil:
		// The cause may quote the request, and with it the token.
		return Identity{}, fmt.Errorf("%w: the API server did not review it, try again", ErrUnavailable)
	}
	who := Identity{Name: user.Name, Roles: c.mapping.roles(user)}
	return c.put(key, reviewed{who: who, ok: true}).identity()
}

func (r reviewed) identity() (Identity, error) {
	if !r.ok {
		return Identity{}, ErrBadCredential
	}
	return r.who, nil
}

func (c *reviewCache) get(key [sha256.Size]byte) (reviewed, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.known[key]
	return r, ok && time.Now().Before(r.until)
}

func (c *reviewCache) put(key [sha256.Size]byte, r reviewed) reviewed {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if len(c.known) >= reviewEntries {
		for k, old := range c.known {
			if !now.Before(old.until) {
				delete(c.known, k)
			}
		}
		if len(c.known) >= reviewEntries {
			clear(c.known)
		}
	}
	r.until = now.Add(reviewTTL)
	c.known[key] = r
	return r
}
