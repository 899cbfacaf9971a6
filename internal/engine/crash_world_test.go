package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/guard"
	"github.com/alertmedic/alertmedic/internal/kube"
	"github.com/alertmedic/alertmedic/internal/notify"
	"github.com/alertmedic/alertmedic/internal/store"
	"github.com/alertmedic/alertmedic/playbooks"
)

// outer is what outlives every process: the clock, a cluster that remembers each
// call, its alerts, and Slack. One goroutine at a time uses it.
type outer struct {
	now     time.Time
	targets map[string]action.Target
	cures   map[string]string // target -> the action that heals it
	firing  map[string]alert.Alert

	there   map[string]bool // the changes that are in the cluster, by target and action
	refused map[string]bool // the nodes whose drain was refused once
	version map[string]int  // of the objects that somebody else changes
	sent    []sent
	reverts []string
	wrong   []string // what must never happen

	posts   []string          // in Slack
	shown   map[string]string // the text of each message that is not in a thread
	events  []string
	emitted map[string]bool
}

// sent is one call of Apply that has reached the cluster.
type sent struct {
	run, step string
	made      bool // the change was there after it
	refused   bool // for the moment
}

// crashSpecs has an action for each class that the engine treats differently.
var crashSpecs = map[string]action.Spec{
	"diagnose":         {Kinds: action.Kinds(), Replay: action.Idempotent},
	"workload.scale":   {Kinds: []action.Kind{action.KindWorkload}, Mutating: true, Reversible: true, Replay: action.Observable},
	"workload.restart": {Kinds: []action.Kind{action.KindWorkload}, Mutating: true, Disruptive: true, Replay: action.Observable},
	"pod.label":        {Kinds: []action.Kind{action.KindWorkload}, Mutating: true, Replay: action.Idempotent},
	"pod.exec":         {Kinds: []action.Kind{action.KindWorkload}, Mutating: true, Replay: action.AtMostOnce},
	"node.drain":       {Kinds: []action.Kind{action.KindNode}, Mutating: true, Disruptive: true, Replay: action.Observable},
}

func newOuter() *outer {
	return &outer{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
		targets: map[string]action.Target{"web": deployment("web"), "api": deployment("api"), "job": deployment("job"), "n1": node("n1")},
		cures:   map[string]string{"web": "workload.restart", "api": "workload.restart", "job": "pod.exec", "n1": "node.drain"},
		firing:  map[string]alert.Alert{}, there: map[string]bool{}, refused: map[string]bool{}, version: map[string]int{}, emitted: map[string]bool{}, shown: map[string]string{}}
}

func (o *outer) healthy(target string) bool { return o.there[target+" "+o.cures[target]] }

// inside is the world as one process sees it: through its gate.
type inside struct {
	*outer
	gate  *gate
	store func() *store.Store
}

func (w inside) api(call string, fn func() error) error {
	return w.gate.do(point{op: "api", call: call, settles: true}, fn)
}

func (w inside) Lookup(name string) (action.Spec, bool) {
	s, ok := crashSpecs[name]
	s.Name, s.NewParams, s.DefaultTimeout = name, func() any { return &noParams{} }, 15*time.Minute
	return s, ok
}

func (w inside) Names() []string {
	var out []string
	for n := range crashSpecs {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

func (w inside) Plan(_ context.Context, req action.Request) (p action.Plan, err error) {
	err = w.api("plan", func() error {
		p = action.Plan{Request: req, Summary: req.Action + " " + req.Target.String(), Changes: []action.FieldChange{{Object: req.Target.Ref, Path: "/x"}},
			Before: encode(w.version[req.Target.Name])}
		return nil
	})
	return p, err
}

func (w inside) Apply(ctx context.Context, plan action.Plan, state []byte) (res action.Result, err error) {
	req := plan.Request
	if req.DryRun {
		err = w.api("dry run of "+req.Action, func() error { res.Done = true; return nil })
		return res, err
	}
	err = w.api("apply "+req.Action, func() (err error) {
		call := sent{run: req.RunID, step: req.StepID}
		w.checkIntent(req)
		res, err = w.change(plan, state)
		call.made, call.refused = err == nil && res.Done, action.ReasonOf(err).Retryable()
		w.sent, w.gate.call = append(w.sent, call), &call
		return err
	})
	return res, err
}

// checkIntent says what is wrong when no intent is recorded for a call: nothing
// is sent before its intent is durable, nor after its outcome is.
func (w inside) checkIntent(req action.Request) {
	steps, err := w.store().Steps(outside{}, req.RunID)
	if err != nil {
		w.wrong = append(w.wrong, fmt.Sprintf("read the steps: %v", err))
	}
	status := store.StepStatus("not at all")
	for _, s := range steps {
		if s.RemedyName+"/"+s.Name == req.StepID {
			status = s.Status
		}
	}
	if status != store.StepIntended {
		w.wrong = append(w.wrong, fmt.Sprintf("%s was sent while its step is recorded as: %s", req.Action, status))
	}
}

// change is what the API server does.
func (w inside) change(plan action.Plan, state []byte) (action.Result, error) {
	req := plan.Request
	target := req.Target.Name
	key := target + " " + req.Action
	switch {
	case req.Action == "diagnose":
		return action.Result{Done: true, Message: "looked"}, nil
	case req.Action == "node.drain":
		if !w.refused[target] {
			w.refused[target] = true
			return action.Result{}, action.Errorf(action.ReasonUnavailable, "connection refused")
		}
		var done int
		if len(state) > 0 && json.Unmarshal(state, &done) != nil {
			w.wrong = append(w.wrong, "the state of a tick was not kept: "+string(state))
		}
		if done++; done < 3 {
			return action.Result{Again: 10 * time.Second, State: encode(done), Message: fmt.Sprintf("%d of 3 evicted", done)}, nil
		}
	case target == "api":
		if w.version[target] == 0 {
			w.version[target] = 1 // somebody else was faster, once
		}
		if string(plan.Before) != fmt.Sprint(w.version[target]) {
			return action.Result{}, action.Errorf(action.ReasonDrift, "spec.template changed")
		}
	}
	if w.there[key] && crashSpecs[req.Action].Replay != action.Idempotent {
		w.wrong = append(w.wrong, key+" was sent although it is there")
	}
	w.there[key] = true
	return action.Result{Done: true, Message: "ok"}, nil
}

func (w inside) Observe(_ context.Context, plan action.Plan, _ []byte) (seen action.Observation, err error) {
	err = w.api("observe "+plan.Request.Action, func() error {
		seen = action.NotApplied
		if w.there[plan.Request.Target.Name+" "+plan.Request.Action] {
			seen = action.Applied
		}
		return nil
	})
	return seen, err
}

func (w inside) Revert(_ context.Context, plan action.Plan, _ []byte) (res action.Result, err error) {
	err = w.api("revert "+plan.Request.Action, func() error {
		key := plan.Request.Target.Name + " " + plan.Request.Action
		w.reverts = append(w.reverts, key)
		delete(w.there, key)
		res = action.Result{Done: true, Message: "restored"}
		return nil
	})
	return res, err
}

func (w inside) Resolve(_ context.Context, req kube.Request) (r kube.Resolved, err error) {
	err = w.api("resolve the target", func() error { r.Target = w.targets[req.Labels["target"]]; return nil })
	return r, err
}

func (w inside) Health(_ context.Context, t action.Target) (h kube.Health, err error) {
	err = w.api("health", func() error {
		h = kube.Health{State: kube.Unhealthy, Message: "0 of 3 replicas"}
		if w.healthy(t.Name) {
			h = healthy()
		}
		return nil
	})
	return h, err
}

func (w inside) Evidence(_ context.Context, req kube.EvidenceRequest) (ev guard.Evidence) {
	if err := w.api("evidence", func() error {
		ev = guard.Evidence{ObservedAt: w.now, Target: guard.TargetEvidence{Exists: true, UID: req.Target.UID},
			Nodes: &guard.NodeEvidence{Total: 10, Unhealthy: []string{w.targets["n1"].LockKey()}}}
		return nil
	}); err != nil {
		ev.Errors = []string{err.Error()}
	}
	return ev
}

func (w inside) Facts(context.Context, action.Target) (f playbooks.Facts, object map[string]any, err error) {
	err = w.api("facts", func() error { object = map[string]any{"spec": map[string]any{"replicas": int64(3)}}; return nil })
	return f, object, err
}

func (w inside) CheckRules(context.Context, string, string, []action.Rule) ([]string, error) {
	return nil, w.api("rights", func() error { return nil })
}

func (w inside) State(_ context.Context, a alert.Alert, _ time.Time) (ev guard.AlertEvidence) {
	ev.State = guard.AlertUnknown
	_ = w.api("state of the alert", func() error {
		ev.State = guard.AlertFiring
		if w.healthy(a.Labels["target"]) {
			ev.State = guard.AlertResolved
		}
		return nil
	})
	return ev
}

// Watchdog is heard of all the time.
func (w inside) Watchdog(context.Context) (heard time.Time, err error) {
	err = w.api("look for the watchdog", func() error { heard = w.now; return nil })
	return heard, err
}

// Snapshot lists what has been sent and still fires.
func (w inside) Snapshot(context.Context) (out []alert.Alert, err error) {
	err = w.api("list the alerts", func() error {
		for _, a := range w.firing {
			if !w.healthy(a.Labels["target"]) {
				out = append(out, a)
			}
		}
		slices.SortFunc(out, func(a, b alert.Alert) int { return strings.Compare(a.Fingerprint, b.Fingerprint) })
		return nil
	})
	return out, err
}

func (w inside) StormMessages(Storm) []store.Message { return nil }

// Messages implements Reporter, with the notifier's own texts.
func (w inside) Messages(r Report) []store.Message {
	n := notify.Reporter{SlackChannel: "#oncall", Events: true}
	return n.Messages(notify.Update{Run: r.Run, Alerts: r.Alerts, Steps: r.Steps, Rungs: r.Rungs, Event: r.Event, Message: r.Message,
		PlanHash: r.PlanHash, SlackChannel: r.SlackChannel, At: r.At})
}

// EmitEvent writes an Event once, as the API server does: its name is made of id.
func (w inside) EmitEvent(_ context.Context, id string, e notify.EventReport) error {
	return w.gate.do(point{op: "notify", call: "event", settles: true}, func() error {
		if !w.emitted[id] {
			w.emitted[id] = true
			w.events = append(w.events, e.Reason+" "+e.Target.String())
		}
		return nil
	})
}

// RoundTrip is Slack.
func (w inside) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, err
	}
	what := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	if form.Get("thread_ts") != "" {
		what += " in the thread"
	}
	answer := ""
	err = w.gate.do(point{op: "notify", call: what, settles: true}, func() error {
		ts := form.Get("ts")
		first, _, _ := strings.Cut(form.Get("text"), "\n")
		line := what + ": " + first
		if what != "chat.update" {
			w.posts, w.gate.unrecorded = append(w.posts, line), append(w.gate.unrecorded, line)
			ts = fmt.Sprintf("1700000000.%06d", len(w.posts))
		}
		if form.Get("thread_ts") == "" {
			w.shown[ts] = first
		}
		answer = fmt.Sprintf(`{"ok":true,"channel":"C1","ts":%q}`, ts)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Request: r,
		Body: io.NopCloser(strings.NewReader(answer))}, nil
}
