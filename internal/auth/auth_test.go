package auth_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authenticationclient "k8s.io/client-go/kubernetes/typed/authentication/v1"

	"github.com/alertmedic/alertmedic/internal/auth"
	"github.com/alertmedic/alertmedic/internal/testcluster"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(testcluster.Main(m), testcluster.Ignored()...) }

const (
	senderToken = "sender-secret-0123456789"
	peopleToken = "people-secret-0123456789"
)

func file(t *testing.T, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(name, []byte(content), 0o600))
	return name
}

func specs(t *testing.T) []auth.TokenSpec {
	t.Helper()
	return []auth.TokenSpec{
		{Name: "main", File: file(t, senderToken+"\n"), Roles: []auth.Role{auth.Ingest}, Source: "main"},
		{Name: "sre", File: file(t, peopleToken), Roles: []auth.Role{auth.View, auth.Approve}},
	}
}

func request(headers ...string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	for _, h := range headers {
		r.Header.Add("Authorization", h)
	}
	return r
}

func TestAuthenticate(t *testing.T) {
	t.Parallel()
	a, err := auth.Load(specs(t))
	require.NoError(t, err)
	require.True(t, a.Authenticated())
	for name, tc := range map[string]struct {
		headers []string
		who     string
		err     error
	}{
		"sender":        {[]string{"Bearer " + senderToken}, "main", nil},
		"people":        {[]string{"bearer  " + peopleToken}, "sre", nil},
		"none":          {nil, "", auth.ErrNoCredential},
		"empty":         {[]string{"Bearer "}, "", auth.ErrBadCredential},
		"prefix":        {[]string{"Bearer " + senderToken[:len(senderToken)-1]}, "", auth.ErrBadCredential},
		"longer":        {[]string{"Bearer " + senderToken + "0"}, "", auth.ErrBadCredential},
		"basic":         {[]string{"Basic " + senderToken}, "", auth.ErrBadCredential},
		"two headers":   {[]string{"Bearer " + senderToken, "Bearer " + peopleToken}, "", auth.ErrBadCredential},
		"far too large": {[]string{"Bearer " + strings.Repeat("x", 9<<10)}, "", auth.ErrBadCredential},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			who, err := a.Authenticate(request(tc.headers...))
			require.ErrorIs(t, err, tc.err)
			require.Equal(t, tc.who, who.Name)
			if tc.err != nil {
				require.Empty(t, who.Roles)
			}
		})
	}
}

func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	writable := file(t, senderToken)
	require.NoError(t, os.Chmod(writable, 0o666))
	dir := t.TempDir()
	for name, tc := range map[string]struct {
		specs []auth.TokenSpec
		want  string
	}{
		"no name":   {[]auth.TokenSpec{{File: "f", Roles: []auth.Role{auth.View}}}, `load tokens: the token in file "f" has no name`},
		"no file":   {[]auth.TokenSpec{{Name: "a", Roles: []auth.Role{auth.View}}}, `load tokens: token "a" has no file`},
		"no roles":  {[]auth.TokenSpec{{Name: "a", File: "f"}}, `load tokens: token "a" has no roles: give it some of [ingest view approve admin]`},
		"bad role":  {[]auth.TokenSpec{{Name: "a", File: "f", Roles: []auth.Role{"root"}}}, `load tokens: token "a" has the unknown role "root": the roles are [ingest view approve admin]`},
		"two roles": {[]auth.TokenSpec{{Name: "a", File: "f", Roles: []auth.Role{auth.Ingest, auth.View}, Source: "s"}}, `load tokens: token "a" may ingest webhooks and so must have no other role: it lies in Alertmanager's configuration; make another token for people`},
		"no source": {[]auth.TokenSpec{{Name: "a", File: "f", Roles: []auth.Role{auth.Ingest}}}, `load tokens: token "a" may ingest webhooks but names no source`},
		"source":    {[]auth.TokenSpec{{Name: "a", File: "f", Roles: []auth.Role{auth.View}, Source: "s"}}, `load tokens: token "a" names source "s" but may not ingest webhooks`},
		"missing":   {[]auth.TokenSpec{{Name: "a", File: dir + "/none", Roles: []auth.Role{auth.View}}}, `load tokens: token "a": read the token file: open ` + dir + `/none: no such file or directory`},
		"directory": {[]auth.TokenSpec{{Name: "a", File: dir, Roles: []auth.Role{auth.View}}}, `load tokens: token "a": token file ` + dir + ` is not a regular file`},
		"writable":  {[]auth.TokenSpec{{Name: "a", File: writable, Roles: []auth.Role{auth.View}}}, `load tokens: token "a": token file ` + writable + ` can be written by everyone (mode 0666): chmod o-w`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := auth.Load(tc.specs)
			require.EqualError(t, err, tc.want)
		})
	}
}

// What a token file holds is never part of an error, whatever is wrong with it.
func TestErrorsNeverHoldATokenAndNameAllProblems(t *testing.T) {
	t.Parallel()
	view := []auth.Role{auth.View}
	_, err := auth.Load([]auth.TokenSpec{
		{Name: "empty", File: file(t, " \n"), Roles: view},
		{Name: "short", File: file(t, "hunter2"), Roles: view},
		{Name: "words", File: file(t, "hunter2 and some more of it"), Roles: view},
		{Name: "large", File: file(t, strings.Repeat("hunter2", 2000)), Roles: view},
		{Name: "first", File: file(t, "hunter2-hunter2-hunter2"), Roles: view},
		{Name: "second", File: file(t, "hunter2-hunter2-hunter2\n"), Roles: view},
		{Name: "first", File: file(t, "another-hunter2-another"), Roles: view},
	})
	require.Error(t, err)
	require.NotContains(t, err.Error(), "hunter2")
	for _, want := range []string{
		" is empty", "has 7 characters, want at least 16: make one with openssl rand -hex 32",
		"holds white space or characters that are not ASCII: it must be one word",
		"is larger than 8192 bytes: it must hold one token and nothing else",
		`tokens "first" and "second" are the same: give each its own, or nobody can tell who acted`,
		`token "first" is configured twice: names must differ`,
	} {
		require.ErrorContains(t, err, want)
	}

	a, err := auth.Load(specs(t))
	require.NoError(t, err)
	_, err = a.Authenticate(request("Bearer hunter2-hunter2-hunter2"))
	require.NotContains(t, err.Error(), "hunter2")
	require.NotContains(t, fmt.Sprintf("%v %+v", a, a), senderToken)
}

func TestReload(t *testing.T) {
	t.Parallel()
	all := specs(t)
	a, err := auth.Load(all)
	require.NoError(t, err)
	const next = "rotated-secret-0123456789"
	require.NoError(t, os.WriteFile(all[0].File, []byte(next), 0o600))
	_, err = a.Sender(request("Bearer " + senderToken))
	require.NoError(t, err, "nothing changes before the reload")
	require.NoError(t, a.Reload())
	_, err = a.Sender(request("Bearer " + senderToken))
	require.ErrorIs(t, err, auth.ErrBadCredential)
	who, err := a.Sender(request("Bearer " + next))
	require.NoError(t, err)
	require.Equal(t, "main", who.Source)

	require.NoError(t, os.WriteFile(all[0].File, nil, 0o600))
	require.Error(t, a.Reload())
	_, err = a.Sender(request("Bearer " + next))
	require.NoError(t, err, "a failed reload leaves everything as it was")
}

// A token that was rotated without a reload is known from its first webhook on:
// Alertmanager would not repeat one that was refused.
func TestRotatedTokensNeedNoReload(t *testing.T) {
	t.Parallel()
	all := specs(t)
	a, err := auth.Load(all)
	require.NoError(t, err)
	const next = "rotated-secret-0123456789"
	_, err = a.Sender(request("Bearer " + next))
	require.ErrorIs(t, err, auth.ErrBadCredential)
	require.NoError(t, os.WriteFile(all[0].File, nil, 0o600)) // in the middle of a rotation
	_, err = a.Sender(request("Bearer " + next))
	require.ErrorIs(t, err, auth.ErrBadCredential)
	_, err = a.Sender(request("Bearer " + senderToken))
	require.NoError(t, err, "files that are bad leave everything as it was")
	require.NoError(t, os.WriteFile(all[0].File, []byte(next), 0o600))
	who, err := a.Sender(request("Bearer " + next))
	require.NoError(t, err)
	require.Equal(t, "main", who.Source)
	_, err = a.Sender(request("Bearer " + senderToken))
	require.ErrorIs(t, err, auth.ErrBadCredential, "the old one is over")
}

func TestAnonymousIsNoExcuseForAWrongToken(t *testing.T) {
	t.Parallel()
	a, err := auth.Load(nil, auth.WithAnonymous(auth.Identity{Name: "anonymous", Roles: []auth.Role{auth.View}}))
	require.NoError(t, err)
	require.False(t, a.Authenticated())
	who, err := a.Authenticate(request())
	require.NoError(t, err)
	require.Equal(t, "anonymous", who.Name)
	_, err = a.Authenticate(request("Bearer " + senderToken))
	require.ErrorIs(t, err, auth.ErrBadCredential)
}

func TestRequire(t *testing.T) {
	t.Parallel()
	a, err := auth.Load(specs(t), auth.WithReviewer(reviewer(func(context.Context, string) (auth.User, error) {
		return auth.User{}, errors.New("no route to host")
	}), auth.Mapping{}))
	require.NoError(t, err)
	for name, tc := range map[string]struct {
		role   auth.Role
		header string
		status int
		body   string
	}{
		"allowed":            {auth.Approve, "Bearer " + peopleToken, 200, "sre"},
		"not that role":      {auth.Admin, "Bearer " + peopleToken, 403, `{"error":"sre does not have the role admin"}`},
		"people do not send": {auth.Ingest, "Bearer " + peopleToken, 403, `{"error":"sre does not have the role ingest"}`},
		"a sender may not":   {auth.View, "Bearer " + senderToken, 403, `{"error":"main does not have the role view"}`},
		"nobody":             {auth.View, "", 401, `{"error":"no bearer token: send Authorization: Bearer \u003ctoken\u003e"}`},
		"dead API server":    {auth.View, "Bearer some-token-of-the-cluster", 503, `{"error":"the token could not be checked: the API server did not review it, try again"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := a.Require(tc.role)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				who, ok := auth.FromContext(r.Context())
				if !ok {
					w.WriteHeader(http.StatusTeapot)
				}
				_, _ = w.Write([]byte(who.Name))
			}))
			w, r := httptest.NewRecorder(), request()
			if tc.header != "" {
				r = request(tc.header)
			}
			h.ServeHTTP(w, r)
			require.Equal(t, tc.status, w.Code)
			require.Equal(t, tc.body, strings.TrimSpace(w.Body.String()))
			require.Equal(t, tc.status == 401, w.Header().Get("WWW-Authenticate") != "")
		})
	}
}

func TestCheckListen(t *testing.T) {
	t.Parallel()
	for addr, safe := range map[string]bool{
		"127.0.0.1:9095": true, "127.9.9.9:1": true, "localhost:9095": true, "[::1]:9095": true,
		":9095": false, "0.0.0.0:9095": false, "[::]:9095": false, "10.0.0.1:9095": false, "medic:9095": false, "9095": false,
	} {
		require.Equal(t, safe, auth.CheckListen(addr, false) == nil, addr)
		require.NoError(t, auth.CheckListen(addr, true), addr)
	}
	require.EqualError(t, auth.CheckListen(":9095", false), `listen address ":9095" can be reached by others, but requests need no token: configure a token for every source and for the API, or listen on 127.0.0.1`)
}

type reviewer func(ctx context.Context, token string) (auth.User, error)

func (f reviewer) Review(ctx context.Context, token string) (auth.User, error) { return f(ctx, token) }

func TestReviewedIdentities(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		a, err := auth.Load(specs(t), auth.WithReviewer(reviewer(func(_ context.Context, token string) (auth.User, error) {
			asked.Add(1)
			if token != "token-of-jane" {
				return auth.User{}, fmt.Errorf("%w: expired", auth.ErrBadCredential)
			}
			return auth.User{Name: "jane", Groups: []string{"sre", "all"}}, nil
		}), auth.Mapping{Groups: map[string][]auth.Role{"sre": {auth.View, auth.Approve}}, Users: map[string][]auth.Role{"jane": {auth.View, auth.Admin}}}))
		require.NoError(t, err)
		for range 3 {
			who, err := a.Authenticate(request("Bearer token-of-jane"))
			require.NoError(t, err)
			require.Equal(t, auth.Identity{Name: "jane", Roles: []auth.Role{auth.Admin, auth.Approve, auth.View}}, who)
			_, err = a.Authenticate(request("Bearer token-of-nobody"))
			require.ErrorIs(t, err, auth.ErrBadCredential)
		}
		require.EqualValues(t, 2, asked.Load(), "answers are kept, bad ones too")
		_, err = a.Sender(request("Bearer token-of-jane"))
		require.ErrorIs(t, err, auth.ErrBadCredential, "the way of an alert does not ask the API server")
		require.EqualValues(t, 2, asked.Load())
		<-time.After(11 * time.Second) // of the bubble's clock
		_, err = a.Authenticate(request("Bearer token-of-jane"))
		require.NoError(t, err)
		require.EqualValues(t, 3, asked.Load(), "a revoked token does not work for long")
	})
}

func TestReviewsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, err := auth.Load(nil, auth.WithReviewer(reviewer(func(ctx context.Context, _ string) (auth.User, error) {
			<-ctx.Done()
			return auth.User{}, ctx.Err()
		}), auth.Mapping{}))
		require.NoError(t, err)
		done := make(chan error, 8)
		for i := range 8 {
			go func() {
				_, err := a.Authenticate(request(fmt.Sprintf("Bearer slow-%d", i)))
				done <- err
			}()
		}
		synctest.Wait()
		_, err = a.Authenticate(request("Bearer one-more"))
		require.EqualError(t, err, "the token could not be checked: too many at once, try again")
		for range 8 {
			require.ErrorIs(t, <-done, auth.ErrUnavailable)
		}
	})
}

func TestMappingGivesNoIngest(t *testing.T) {
	t.Parallel()
	for _, role := range []auth.Role{auth.Ingest, "root"} {
		_, err := auth.Load(nil, auth.WithReviewer(reviewer(nil), auth.Mapping{Groups: map[string][]auth.Role{"sre": {role}}}))
		require.EqualError(t, err, fmt.Sprintf("token review: %q cannot be given the role %q: choose among [view approve admin]", "sre", role))
	}
}

// reviews answers as the API server does.
type reviews struct {
	authenticationclient.TokenReviewInterface
	answer authenticationv1.TokenReviewStatus
	err    error
	asked  authenticationv1.TokenReviewSpec
}

func (r *reviews) Create(_ context.Context, in *authenticationv1.TokenReview, _ metav1.CreateOptions) (*authenticationv1.TokenReview, error) {
	r.asked = in.Spec
	return &authenticationv1.TokenReview{Status: r.answer}, r.err
}

func TestKubernetesReviewer(t *testing.T) {
	t.Parallel()
	jane := authenticationv1.UserInfo{Username: "jane", Groups: []string{"sre"}}
	for name, tc := range map[string]struct {
		api  *reviews
		want error
	}{
		"known":          {&reviews{answer: authenticationv1.TokenReviewStatus{Authenticated: true, User: jane, Audiences: []string{"alertmedic"}}}, nil},
		"other audience": {&reviews{answer: authenticationv1.TokenReviewStatus{Authenticated: true, User: jane, Audiences: []string{"vault"}}}, auth.ErrBadCredential},
		"no audience":    {&reviews{answer: authenticationv1.TokenReviewStatus{Authenticated: true, User: jane}}, auth.ErrBadCredential},
		"unknown":        {&reviews{answer: authenticationv1.TokenReviewStatus{Error: "secret-token is not known"}}, auth.ErrBadCredential},
		"no name":        {&reviews{answer: authenticationv1.TokenReviewStatus{Authenticated: true}}, auth.ErrBadCredential},
		"unreachable":    {&reviews{err: context.DeadlineExceeded}, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			user, err := auth.NewKubernetesReviewer(tc.api, "alertmedic").Review(t.Context(), "secret-token")
			require.ErrorIs(t, err, tc.want)
			require.Equal(t, authenticationv1.TokenReviewSpec{Token: "secret-token", Audiences: []string{"alertmedic"}}, tc.api.asked)
			if tc.want == nil {
				require.Equal(t, auth.User{Name: "jane", Groups: []string{"sre"}}, user)
				return
			}
			require.NotContains(t, err.Error(), "secret-token")
			require.Empty(t, user)
		})
	}
}
