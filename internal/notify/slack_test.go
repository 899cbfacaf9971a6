package notify_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"context"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/time/rate"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/notify"
	"github.com/alertmedic/alertmedic/internal/store"
)

var golden = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type memoryKV struct {
	mu sync.Mutex
	m  map[string]string
}

func (kv *memoryKV) GetKV(_ context.Context, key string) (string, bool, error) {
	kv.mu.Lock()
	defer kv.mu.Unlock()
	v, ok := kv.m[key]
	return v, ok, nil
}

func (kv *memoryKV) SetKV(_ context.Context, key, value string) error {
	kv.mu.Lock()
	defer kv.mu.Unlock()
	kv.m[key] = value
	return nil
}

func secretFile(t *testing.T, secret string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(file, []byte(secret+"\n"), 0o600))
	return file
}

func newBot(t *testing.T, api *slackServer) (*notify.SlackSender, *memoryKV) {
	t.Helper()
	kv := &memoryKV{m: map[string]string{}}
	s, err := notify.NewSlackSender(notify.SlackOptions{TokenFile: secretFile(t, botToken), APIURL: api.URL + "/api", KV: kv, Limit: rate.Inf})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s, kv
}

func newWebhook(t *testing.T, target string) *notify.SlackSender {
	t.Helper()
	s, err := notify.NewSlackSender(notify.SlackOptions{WebhookURLFile: secretFile(t, target), Limit: rate.Inf})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

var at = time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)

func step(status store.StepStatus) store.Step {
	plan, _ := json.Marshal(action.Plan{Summary: "roll back Deployment/shop/web from revision 7 to 6", Diff: "--- live\n+++ planned\n-image: web:2\n+image: web:1"})
	return store.Step{RunID: "0197-run", RemedyName: "roll-back", Name: "undo", Action: "workload.rollback", Status: status, Plan: plan}
}

func update(kind journal.Kind, message string) notify.Update {
	return notify.Update{
		Run: store.Run{ID: "0197-run", Playbook: "pod-crash-looping", AlertName: "KubePodCrashLooping", Phase: store.Active,
			Target: action.Target{Cluster: "prod-eu1", Ref: action.Ref{Kind: action.KindDeployment, Namespace: "shop", Name: "web", UID: "u1"}}, FiredAt: at.Add(-time.Minute)},
		Alerts: []alert.Alert{{Labels: map[string]string{"alertname": "KubePodCrashLooping", "severity": "critical"}}},
		Event:  kind, Message: message, At: at,
	}
}

func requested() notify.Update {
	u := update(journal.ApprovalRequested, "roll-back waits for a person until 11:00")
	u.Run.Wait, u.PlanHash, u.Steps = store.WaitApproval, "9f3c2a", []store.Step{step(store.StepPlanned)}
	u.Rungs = []string{"restart-pod: not-healed (alert still firing)"}
	return u
}

func ended(outcome store.Outcome) notify.Update {
	u := update(journal.RunEnded, "healthy for 3m and the alert resolved")
	u.Run.Phase, u.Run.Outcome, u.Run.EndedAt = store.Done, outcome, at.Add(5*time.Minute)
	u.Steps = []store.Step{step(store.StepDone)}
	return u
}

func hostile() notify.Update {
	evil := "<!channel> `rm -rf` <https://evil.example|ok> & \u202Etxt *bold*\nx"
	u := update(journal.StepIntent, evil)
	u.Run.AlertName, u.Run.Playbook, u.Run.Reason, u.Run.ID = evil, evil, evil, evil
	u.Run.Target.Name = evil
	u.Alerts[0].Labels["severity"] = evil + strings.Repeat("x", 9000)
	u.Rungs, u.PlanHash = []string{evil, strings.Repeat("&", 9000)}, evil
	s := step(store.StepIntended)
	s.Message = evil + strings.Repeat("<", 9000)
	u.Steps = []store.Step{s}
	return u
}

func slackMessage(t *testing.T, r notify.Reporter, u notify.Update) store.Message {
	t.Helper()
	for _, m := range r.Messages(u) {
		if m.Channel == notify.ChannelSlack {
			return m
		}
	}
	t.Fatal("no Slack message")
	return store.Message{}
}

var reporter = notify.Reporter{SlackChannel: "#alerts", Events: true, ExternalURL: "https://medic.example.org/"}

// What Slack is sent, word for word.
func TestSlackSender_golden(t *testing.T) {
	t.Parallel()
	for name, u := range map[string]notify.Update{
		"started": update(journal.StepIntent, "delete pod shop/web-1"), "approval": requested(), "healed": ended(store.Healed),
		"escalated": ended(store.Escalated), "simulated": ended(store.Simulated), "hostile": hostile(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := newSlack(t)
			s, _ := newBot(t, api)
			_, err := s.Send(t.Context(), slackMessage(t, reporter, u))
			require.NoError(t, err)
			calls := api.got()
			var got bytes.Buffer
			enc := json.NewEncoder(&got)
			enc.SetEscapeHTML(false)
			enc.SetIndent("", "  ")
			require.NoError(t, enc.Encode(calls))
			file := filepath.Join("testdata", name+".json")
			if *golden {
				require.NoError(t, os.WriteFile(file, got.Bytes(), 0o644))
			}
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Equal(t, string(want), got.String())
			for _, c := range calls {
				var blocks []struct {
					Text struct {
						Text     string
						Verbatim bool
					}
				}
				require.NoError(t, json.Unmarshal(c.Blocks, &blocks))
				require.NotEmpty(t, blocks)
				require.LessOrEqual(t, len(c.Text), 3000)
				for _, b := range blocks {
					require.LessOrEqual(t, len(b.Text.Text), 3000)
				}
				require.NotContains(t, c.Text+string(c.Blocks), "<!channel>")
				require.NotContains(t, c.Text+string(c.Blocks), "<https://evil")
			}
		})
	}
}

// One message a run: posted once, updated after, each event in its thread.
func TestSlackSender_oneMessagePerRun(t *testing.T) {
	t.Parallel()
	api := newSlack(t)
	s, _ := newBot(t, api)
	first := slackMessage(t, reporter, update(journal.StepIntent, "a"))
	for _, m := range []store.Message{first, slackMessage(t, reporter, requested()), slackMessage(t, reporter, ended(store.Healed))} {
		_, err := s.Send(t.Context(), m)
		require.NoError(t, err)
	}
	requireMethods(t, api.got(), "chat.postMessage", "chat.postMessage in thread",
		"chat.update", "chat.postMessage in thread", "chat.update", "chat.postMessage in thread")
	require.Equal(t, "Calerts", api.got()[2].To, "an update needs the channel's id")

	last := slackMessage(t, reporter, ended(store.Healed))
	for range 2 { // delivered again after a crash
		_, err := s.Send(t.Context(), last)
		require.NoError(t, err)
	}
	require.Len(t, api.got(), 8)
}

// A message that someone deleted is posted anew.
func TestSlackSender_messageDeleted(t *testing.T) {
	t.Parallel()
	api := newSlack(t)
	s, _ := newBot(t, api)
	_, err := s.Send(t.Context(), slackMessage(t, reporter, update(journal.StepIntent, "a")))
	require.NoError(t, err)
	api.forget("Calerts", "1700000000.000001")
	_, err = s.Send(t.Context(), slackMessage(t, reporter, ended(store.Healed)))
	require.NoError(t, err)
	requireMethods(t, api.got(), "chat.postMessage", "chat.postMessage in thread", "chat.postMessage", "chat.postMessage in thread")
}

// The thread failed after the message was posted: the retry updates it.
func TestSlackSender_resumesAfterHalf(t *testing.T) {
	t.Parallel()
	api := newSlack(t)
	s, kv := newBot(t, api)
	m := slackMessage(t, reporter, update(journal.StepIntent, "a"))
	api.answerFirst(func(w http.ResponseWriter) { reply(w, map[string]any{"ok": true, "channel": "Calerts", "ts": "1"}) }, status(503, 0))
	_, err := s.Send(t.Context(), m)
	require.ErrorContains(t, err, "503")
	require.Len(t, kv.m, 1)
	api.mu.Lock()
	api.messages["Calerts/1"] = true
	api.mu.Unlock()
	_, err = s.Send(t.Context(), m)
	require.NoError(t, err)
	requireMethods(t, api.got(), "chat.update", "chat.postMessage in thread")
}

func TestSlackSender_webhook(t *testing.T) {
	t.Parallel()
	api := newSlack(t)
	s := newWebhook(t, api.URL+webhookPath)
	for _, u := range []notify.Update{update(journal.StepIntent, "a"), update(journal.RemedyFailed, "b")} {
		result, err := s.Send(t.Context(), slackMessage(t, reporter, u))
		require.NoError(t, err)
		require.True(t, result.Skipped, "a webhook cannot update, so it tells of what a person must know")
	}
	for _, u := range []notify.Update{requested(), ended(store.Escalated)} {
		result, err := s.Send(t.Context(), slackMessage(t, reporter, u))
		require.NoError(t, err)
		require.False(t, result.Skipped)
	}
	requireMethods(t, api.got(), "webhook", "webhook")
}

func TestSlackSender_errors(t *testing.T) {
	t.Parallel()
	var limited *notify.RateLimitError
	var permanent *notify.PermanentError
	for name, c := range map[string]struct {
		answer func(http.ResponseWriter)
		check  func(t *testing.T, err error)
	}{
		"rate limit": {status(429, 7*time.Second), func(t *testing.T, err error) {
			require.ErrorAs(t, err, &limited)
			require.Equal(t, 7*time.Second, limited.RetryAfter)
		}},
		"rate limit without end": {status(429, 0), func(t *testing.T, err error) { require.ErrorAs(t, err, new(*notify.RateLimitError)) }},
		"server":                 {status(500, 0), func(t *testing.T, err error) { require.ErrorContains(t, err, "500") }},
		"bad blocks":             {refuse("invalid_blocks"), func(t *testing.T, err error) { require.ErrorAs(t, err, &permanent) }},
		"not invited":            {refuse("not_in_channel"), func(t *testing.T, err error) { require.ErrorContains(t, err, "invite the bot") }},
		"auth":                   {refuse("token_revoked"), func(t *testing.T, err error) { require.ErrorContains(t, err, "chat:write") }},
	} {
		t.Run(name, func(t *testing.T) {
			api := newSlack(t)
			s, _ := newBot(t, api)
			api.answerFirst(c.answer)
			_, err := s.Send(t.Context(), slackMessage(t, reporter, update(journal.StepIntent, "a")))
			require.Error(t, err)
			c.check(t, err)
			require.NotContains(t, err.Error(), "SECRET")
		})
	}
}

// No secret may reach an error, which is logged and stored: not when the
// server cannot be reached, redirects, or the file holds something odd.
func TestSlackSender_secretsStay(t *testing.T) {
	t.Parallel()
	api := newSlack(t)
	api.answerFirst(func(w http.ResponseWriter) {
		w.Header().Set("Location", "http://127.0.0.1:1/"+webhookPath)
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	for name, target := range map[string]string{
		"redirect":    api.URL + webhookPath,
		"unreachable": "http://127.0.0.1:1" + webhookPath,
		"no scheme":   "127.0.0.1" + webhookPath,
		"odd":         "http://[::1" + webhookPath,
		"control":     "http://a\x7f" + webhookPath,
		"not found":   api.URL + webhookPath + "-SECRET",
	} {
		s := newWebhook(t, target)
		_, err := s.Send(t.Context(), slackMessage(t, reporter, requested()))
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), "SECRET", name)
	}
	bot, err := notify.NewSlackSender(notify.SlackOptions{TokenFile: secretFile(t, botToken), APIURL: "http://127.0.0.1:1/api/", KV: &memoryKV{m: map[string]string{}}, Limit: rate.Inf})
	require.NoError(t, err)
	t.Cleanup(bot.Close)
	_, err = bot.Send(t.Context(), slackMessage(t, reporter, requested()))
	require.Error(t, err)
	require.NotContains(t, err.Error(), "SECRET")
	require.Empty(t, api.got())
}

// A redirect is not followed: the other host would get the token.
func TestSlackSender_redirect(t *testing.T) {
	t.Parallel()
	other, api := newSlack(t), newSlack(t)
	redirect := func(w http.ResponseWriter) {
		w.Header().Set("Location", other.URL+webhookPath)
		w.WriteHeader(http.StatusTemporaryRedirect)
	}
	api.answerFirst(redirect, redirect)
	bot, _ := newBot(t, api)
	for _, s := range []*notify.SlackSender{newWebhook(t, api.URL+webhookPath), bot} {
		_, err := s.Send(t.Context(), slackMessage(t, reporter, requested()))
		require.ErrorContains(t, err, "307")
	}
	require.Empty(t, other.got())
}

func TestSlackSender_badInput(t *testing.T) {
	t.Parallel()
	_, err := notify.NewSlackSender(notify.SlackOptions{})
	require.ErrorContains(t, err, "exactly one")
	_, err = notify.NewSlackSender(notify.SlackOptions{TokenFile: "a"})
	require.ErrorContains(t, err, "KV is missing")
	api := newSlack(t)
	s, _ := newBot(t, api)
	var permanent *notify.PermanentError
	for _, payload := range []string{"", "{", "{}", "[]"} {
		_, err := s.Send(t.Context(), store.Message{Payload: json.RawMessage(payload)})
		require.ErrorAs(t, err, &permanent, payload)
	}
	missing, err := notify.NewSlackSender(notify.SlackOptions{TokenFile: filepath.Join(t.TempDir(), "none"), KV: &memoryKV{}})
	require.NoError(t, err)
	_, err = missing.Send(t.Context(), slackMessage(t, reporter, requested()))
	require.ErrorIs(t, err, os.ErrNotExist)
	require.False(t, errors.As(err, &permanent), "a secret can be mounted late")
}
