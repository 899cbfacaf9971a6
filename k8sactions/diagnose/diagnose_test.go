package diagnose_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/k8sactions/contract"
	"github.com/alertmedic/alertmedic/k8sactions/diagnose"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type session struct {
	typed   kubernetes.Interface
	dynamic dynamic.Interface
}

func (s session) Typed() kubernetes.Interface { return s.typed }
func (s session) Dynamic() dynamic.Interface  { return s.dynamic }

// server stands for an API server with kubelets behind it: the test control
// plane has no containers and so no logs. Answers are by path and query.
func server(t *testing.T, answers map[string]string) (session, *[]string) {
	t.Helper()
	var asked []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Path)
		key := r.URL.Path
		if r.URL.Query().Get("previous") == "true" {
			key += "?previous"
		}
		body, ok := answers[key]
		if !ok {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403,"message":"%s is forbidden, Bearer abcdefgh12345"}`, r.URL.Path)
			return
		}
		if strings.HasPrefix(body, "{") {
			w.Header().Set("Content-Type", "application/json")
		}
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(srv.Close)
	config := &rest.Config{Host: srv.URL, QPS: -1, Transport: &http.Transport{DisableKeepAlives: true}}
	typed, err := kubernetes.NewForConfig(config)
	require.NoError(t, err)
	dyn, err := dynamic.NewForConfig(config)
	require.NoError(t, err)
	return session{typed, dyn}, &asked
}

func encode(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	require.NoError(t, err)
	return string(data)
}

func crashing() *corev1.Pod {
	return &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", UID: "u1"},
		Status: corev1.PodStatus{Phase: corev1.PodRunning,
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, Reason: "ContainersNotReady", Message: "password=hunter2"}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "app", Image: "shop/web:1", RestartCount: 7,
				State:                corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "token: hunter2"}},
				LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Error", ExitCode: 1, Message: "DSN=hunter2"}}}}},
	}
}

func call(params string) contract.Call {
	return contract.Call{Now: time.Now(), Plan: action.Plan{Request: action.Request{Action: "diagnose", Params: json.RawMessage(params), RunID: "r", StepID: "a/b",
		Target: action.Target{Ref: action.Ref{Kind: action.KindPod, Namespace: "shop", Name: "web-1", UID: "u1"}}}}}
}

func apply(t *testing.T, s session, params string) (diagnose.Evidence, action.Result) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	res, err := diagnose.Diagnose{}.Apply(ctx, s, call(params))
	require.NoError(t, err)
	require.True(t, res.Done)
	var ev diagnose.Evidence
	require.NoError(t, json.Unmarshal(res.Evidence, &ev))
	return ev, res
}

func answers(t *testing.T, log, previous string) map[string]string {
	t.Helper()
	event := func(minute int, message string) corev1.Event {
		return corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: message}, Type: "Warning", Reason: "BackOff", Message: message, Count: 3,
			InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "web-1"}, LastTimestamp: metav1.Date(2026, 1, 2, 3, minute, 0, 0, time.UTC)}
	}
	older, newer := event(1, "older secret=hunter2"), event(2, "newer")
	older.UID, newer.UID = "e1", "e2"
	pod := crashing()
	pod.Status.ContainerStatuses[0].State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	return map[string]string{
		"/api/v1/namespaces/shop/pods/web-1":              encode(t, pod),
		"/api/v1/namespaces/shop/events":                  encode(t, corev1.EventList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "EventList"}, Items: []corev1.Event{older, newer}}),
		"/api/v1/namespaces/shop/pods/web-1/log":          log,
		"/api/v1/namespaces/shop/pods/web-1/log?previous": previous,
	}
}

func TestDiagnoseCollectsAndRedacts(t *testing.T) {
	t.Parallel()
	s, _ := server(t, answers(t, "starting\nDB_PASSWORD=hunter2\n\x1b[31mred\x00\n", "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\npanic: boom\n"))
	ev, res := apply(t, s, `{"logLines":3}`)
	require.NotContains(t, string(res.Evidence), "hunter2")
	require.Equal(t, "Pod/shop/web-1", ev.Target)
	require.Equal(t, "ContainersNotReady", ev.Conditions[0].Reason)
	require.Equal(t, "web-1", ev.Pods[0].Name)
	require.EqualValues(t, 7, ev.Pods[0].Containers[0].Restarts)
	require.Contains(t, ev.Pods[0].Containers[0].Last, "exit code 1")
	require.Equal(t, []string{"newer", "older secret=[redacted]"}, []string{ev.Events[0].Message, ev.Events[1].Message})
	require.Equal(t, []diagnose.Log{
		{Pod: "web-1", Container: "app", Lines: []string{"starting", "DB_PASSWORD=[redacted]", "[31mred"}},
		{Pod: "web-1", Container: "app", Previous: true, Lines: []string{"[redacted]", "panic: boom"}},
	}, ev.Logs)
	require.Empty(t, ev.Missing)
	require.Contains(t, res.Message, "1 pods, 2 events, 2 logs")
}

func TestWhatCannotBeReadIsNotedAndFailsNothing(t *testing.T) {
	t.Parallel()
	all := answers(t, "fine", "")
	delete(all, "/api/v1/namespaces/shop/events")
	delete(all, "/api/v1/namespaces/shop/pods/web-1/log?previous")
	s, _ := server(t, all)
	ev, res := apply(t, s, ``)
	require.Len(t, ev.Missing, 2)
	require.Contains(t, ev.Missing[0], "events of Pod web-1: forbidden")
	require.Contains(t, ev.Missing[1], "previous log of web-1/app: forbidden")
	require.NotContains(t, string(res.Evidence), "abcdefgh12345", "an error may carry a secret as well")
	require.Equal(t, "fine", ev.Logs[0].Lines[0])
	require.Contains(t, res.Message, "2 things could not be read")

	s, _ = server(t, nil)
	ev, _ = apply(t, s, ``)
	require.Len(t, ev.Missing, 3, "%v", ev.Missing)
}

func TestEvidenceIsBoundedAndKeepsTheEndOfLogs(t *testing.T) {
	t.Parallel()
	var long strings.Builder
	for i := range 500 {
		fmt.Fprintf(&long, "line %d %s\n", i, strings.Repeat("x", 200))
	}
	s, _ := server(t, answers(t, long.String(), long.String()))
	for _, limit := range []int{1024, 4096, 32768, 65536} {
		ev, res := apply(t, s, fmt.Sprintf(`{"logLines":500,"maxBytes":%d}`, limit))
		require.LessOrEqual(t, len(res.Evidence), limit)
		require.Contains(t, ev.Cut, "log lines")
		if limit >= 4096 {
			for _, l := range ev.Logs {
				require.Equal(t, "[cut]", l.Lines[0])
				require.Contains(t, l.Lines[len(l.Lines)-1], "line 499 ")
			}
			require.NotEmpty(t, ev.Events)
		}
	}
	ev, _ := apply(t, s, `{"logLines":0}`)
	require.Empty(t, ev.Logs)
}

func TestLinesAreBounded(t *testing.T) {
	t.Parallel()
	s, _ := server(t, answers(t, strings.Repeat("y", 100<<10)+"\nend", ""))
	ev, _ := apply(t, s, ``)
	require.LessOrEqual(t, len(ev.Logs[0].Lines[0]), 2100)
	require.Equal(t, "end", ev.Logs[0].Lines[1])
}

func TestParamsAreBounded(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`{"logLines":501}`:   "logLines is 501: it must be between 0 and 500",
		`{"maxBytes":1023}`:  "maxBytes is 1023: it must be between 1024 and 65536",
		`{"maxBytes":65537}`: "maxBytes is 65537: it must be between 1024 and 65536",
	} {
		_, err := diagnose.Diagnose{}.Apply(t.Context(), session{}, call(in))
		require.EqualError(t, err, "refused: parameters: "+want)
	}
}

func TestNothingButReadsIsSent(t *testing.T) {
	t.Parallel()
	s, asked := server(t, answers(t, "", ""))
	_, err := diagnose.Diagnose{}.Plan(t.Context(), s, call(``).Plan.Request)
	require.NoError(t, err)
	require.Equal(t, []string{"/api/v1/namespaces/shop/pods/web-1"}, *asked)
}
