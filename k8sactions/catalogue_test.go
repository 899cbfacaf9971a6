package k8sactions_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/k8sactions"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
)

func describing(t *testing.T, actions ...contract.Action) *k8sactions.Catalogue {
	t.Helper()
	c, err := k8sactions.New(nil, k8sactions.Options{Actions: actions})
	require.NoError(t, err)
	return c
}

func TestEveryShippedActionIsDescribedWhole(t *testing.T) {
	t.Parallel()
	c := describing(t)
	require.Equal(t, []string{"diagnose", "node.cordon", "node.drain", "node.uncordon", "pod.delete", "pod.evict",
		"service.restart", "workload.restart", "workload.rollback", "workload.scale"}, c.Names())
	require.Len(t, c.All(), len(c.Names()))
	require.Len(t, k8sactions.Specs(), len(c.Names()))
	for _, s := range c.All() {
		require.NotEmpty(t, s.Summary, s.Name)
		require.NotContains(t, s.Summary, "\n", s.Name)
		require.NotEmpty(t, s.Description, s.Name)
		require.Contains(t, s.Example, "action: "+s.Name, s.Name)
		if !s.Mutating {
			require.False(t, s.Disruptive || s.Reversible, s.Name)
			for _, r := range s.RBAC {
				require.Subset(t, []string{"get", "list"}, r.Verbs, s.Name)
			}
		}
		for _, r := range s.RBAC {
			require.NotContains(t, append(append(r.Verbs, r.Resources...), r.APIGroups...), "*", s.Name)
		}
		got, ok := c.Lookup(s.Name)
		require.True(t, ok)
		require.Equal(t, s.Name, got.Name)
	}
	_, ok := c.Lookup("pod.explode")
	require.False(t, ok)
}

// scripted is an action that does what a test says.
type scripted struct {
	contract.Action
	spec  action.Spec
	apply func(context.Context) (action.Result, error)
}

func (s scripted) Spec() action.Spec { return s.spec }

func (s scripted) Apply(ctx context.Context, _ contract.Session, _ contract.Call) (action.Result, error) {
	return s.apply(ctx)
}

func scriptedSpec(name string) action.Spec {
	return action.Spec{Name: name, Kinds: []action.Kind{action.KindPod}, NewParams: func() any {
		return &struct {
			Lines int `json:"lines"`
		}{}
	}, Replay: action.Idempotent, DefaultTimeout: time.Minute, RBAC: []action.Rule{{Verbs: []string{"get"}}}}
}

func TestNewRefusesWhatCannotBeTrusted(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*action.Spec){
		`action "": it has no name`:                                       func(s *action.Spec) { s.Name = "" },
		`action "x": it accepts no kind`:                                  func(s *action.Spec) { s.Kinds = nil },
		`action "x": it declares no parameters`:                           func(s *action.Spec) { s.NewParams = nil },
		`action "x": it declares no replay class`:                         func(s *action.Spec) { s.Replay = "" },
		`action "x": it has no default timeout`:                           func(s *action.Spec) { s.DefaultTimeout = 0 },
		`action "x": it declares no RBAC rule`:                            func(s *action.Spec) { s.RBAC = nil },
		`action "x": it must have a Revert exactly if it says Reversible`: func(s *action.Spec) { s.Reversible = true },
	} {
		spec := scriptedSpec("x")
		change(&spec)
		_, err := k8sactions.New(nil, k8sactions.Options{Actions: []contract.Action{scripted{spec: spec}}})
		require.EqualError(t, err, "k8sactions: "+want)
	}
	_, err := k8sactions.New(nil, k8sactions.Options{Actions: []contract.Action{scripted{spec: scriptedSpec("x")}, scripted{spec: scriptedSpec("x")}}})
	require.EqualError(t, err, "k8sactions: two actions are called x")
}

func podRequest(name string) action.Request {
	return action.Request{Action: name, RunID: "run", StepID: "remedy/step",
		Target: action.Target{Ref: action.Ref{Kind: action.KindPod, Namespace: "shop", Name: "web-1", UID: "u1"}}}
}

func TestCallsAreCheckedBeforeTheActionIsReached(t *testing.T) {
	t.Parallel()
	clock := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	reached := false
	act := scripted{spec: scriptedSpec("x"), apply: func(context.Context) (action.Result, error) {
		reached = true
		return action.Result{Done: true}, nil
	}}
	c, err := k8sactions.New(contract.ClientsFunc(func(string) (contract.Session, error) { return nil, nil }),
		k8sactions.Options{Actions: []contract.Action{act}, Now: func() time.Time { return clock }})
	require.NoError(t, err)
	for name, row := range map[string]struct {
		change func(*action.Request)
		reason action.Reason
		text   string
	}{
		"unknown action": {func(r *action.Request) { r.Action = "y" }, action.ReasonUnsupported, `there is no action "y"`},
		"empty target":   {func(r *action.Request) { r.Target = action.Target{} }, action.ReasonRefused, "never stands for anything"},
		"no UID":         {func(r *action.Request) { r.Target.UID = "" }, action.ReasonRefused, "never stands for anything"},
		"other kind":     {func(r *action.Request) { r.Target.Kind = action.KindNode }, action.ReasonRefused, "x does not act on a Node"},
		"no run":         {func(r *action.Request) { r.RunID = "" }, action.ReasonInternal, "without a run or step"},
		"unknown field":  {func(r *action.Request) { r.Params = json.RawMessage(`{"line":1}`) }, action.ReasonRefused, `unknown field "line"`},
		"wrong type":     {func(r *action.Request) { r.Params = json.RawMessage(`{"lines":"1"}`) }, action.ReasonRefused, "parameters: "},
		"two values":     {func(r *action.Request) { r.Params = json.RawMessage(`{} {}`) }, action.ReasonRefused, "more than one JSON value"},
		"too late":       {func(r *action.Request) { r.Deadline = clock }, action.ReasonTimeout, "the time of the step was over"},
	} {
		req := podRequest("x")
		row.change(&req)
		_, err := c.Apply(t.Context(), action.Plan{Request: req}, nil)
		require.Error(t, err, name)
		require.Equal(t, row.reason, action.ReasonOf(err), name)
		require.ErrorContains(t, err, row.text, name)
		require.False(t, reached, name)
	}
	_, err = c.Apply(t.Context(), action.Plan{Request: podRequest("x")}, nil)
	require.NoError(t, err)
	require.True(t, reached)

	reached = false
	res, err := c.Apply(t.Context(), action.Plan{Request: podRequest("x"), Noop: true}, nil)
	require.NoError(t, err)
	require.True(t, res.Done)
	require.False(t, reached, "a Noop sends nothing")
}

func TestOnlyTypedErrorsComeOut(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		apply  func(context.Context) (action.Result, error)
		reason action.Reason
		text   string
	}{
		"panic": {func(context.Context) (action.Result, error) { panic("boom") }, action.ReasonInternal, "x panicked: boom"},
		"plain": {func(context.Context) (action.Result, error) { return action.Result{}, context.Canceled }, action.ReasonInternal, "x: context canceled"},
		"typed": {func(context.Context) (action.Result, error) {
			return action.Result{}, action.Errorf(action.ReasonBlocked, "not now")
		}, action.ReasonBlocked, "not now"},
	} {
		c, err := k8sactions.New(contract.ClientsFunc(func(string) (contract.Session, error) { return nil, nil }),
			k8sactions.Options{Actions: []contract.Action{scripted{spec: scriptedSpec("x"), apply: row.apply}}})
		require.NoError(t, err)
		_, err = c.Apply(t.Context(), action.Plan{Request: podRequest("x")}, nil)
		var typed *action.Error
		require.ErrorAs(t, err, &typed, name)
		require.Equal(t, row.reason, typed.Reason, name)
		require.Contains(t, typed.Message, row.text, name)
	}
}

func TestAnActionSeesTheDeadlineOfItsStep(t *testing.T) {
	t.Parallel()
	act := scripted{spec: scriptedSpec("x"), apply: func(ctx context.Context) (action.Result, error) {
		deadline, ok := ctx.Deadline()
		require.True(t, ok)
		require.LessOrEqual(t, time.Until(deadline), time.Minute)
		return action.Result{Done: true}, nil
	}}
	c, err := k8sactions.New(contract.ClientsFunc(func(string) (contract.Session, error) { return nil, nil }), k8sactions.Options{Actions: []contract.Action{act}})
	require.NoError(t, err)
	req := podRequest("x")
	req.Deadline = time.Now().Add(time.Minute)
	_, err = c.Apply(t.Context(), action.Plan{Request: req}, nil)
	require.NoError(t, err)
}

func TestDescribingNeedsNoClients(t *testing.T) {
	t.Parallel()
	_, err := describing(t).Plan(t.Context(), podRequest("pod.delete"))
	require.Equal(t, action.ReasonInternal, action.ReasonOf(err))
	require.ErrorContains(t, err, "without clients")
}
