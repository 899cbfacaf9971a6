package journal_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/alertmedic/alertmedic/internal/action"
	"github.com/alertmedic/alertmedic/internal/journal"
)

func full() journal.Entry {
	ref := action.Ref{Group: "apps", Kind: action.KindDeployment, Namespace: "shop", Name: "web", UID: "6f1c"}
	pod := action.Ref{Kind: action.KindPod, Namespace: "shop", Name: "web-1", UID: "77aa"}
	return journal.Entry{
		ID: "01890a5d-ac96-774b-bcce-b302099a8057", At: time.Date(2026, 3, 1, 13, 0, 0, 123456789, time.FixedZone("CET", 3600)), Kind: journal.StepDone,
		Cluster: "c1", Source: "am", Fingerprint: "00ff", AlertName: "KubePodCrashLooping", EpisodeID: "e1", CandidateID: "k1", RunID: "r1",
		Playbook: "pod-crash-looping", Remedy: "restart-pod", Step: "restart", Action: "pod.delete",
		Target:  &action.Target{Cluster: "c1", Ref: ref, Pod: &pod, Container: "app", Top: ref, NodePool: "p", Zone: "z"},
		Outcome: "done", Reason: "because", Message: "a <b> & \"c\" \u2028 é", Actor: "ada",
		Data: json.RawMessage(`{"z": 1.50, "a": [true, null, {"y": "<&>", "x": 12345678901234567890}]}`),
	}
}

// The golden file is the format: if it has to change, every chain that was
// written before breaks.
func TestCanonicalFormIsTheGoldenOne(t *testing.T) {
	t.Parallel()
	var got bytes.Buffer
	prev := ""
	for i, e := range []journal.Entry{full(), {ID: "01890a5d-ac96-774b-bcce-b302099a8058", At: time.Unix(1, 0), Kind: journal.ServiceStarted}} {
		require.NoError(t, journal.Seal(prev, int64(i+1), &e))
		form, err := journal.Canonical(e)
		require.NoError(t, err)
		got.Write(form)
		got.WriteString("\n" + e.Hash + "\n")
		prev = e.Hash
	}
	path := filepath.Join("testdata", "canonical.golden")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		require.NoError(t, os.WriteFile(path, got.Bytes(), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got.String())
}

func TestCanonicalFormSurvivesOtherEncoders(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		e := full()
		e.Message, e.Reason = rapid.String().Draw(t, "message"), rapid.String().Draw(t, "reason")
		if rapid.Bool().Draw(t, "no UTF-8") {
			e.Message += "\xff"
			e.Target.Name = "\xfe"
		}
		e.At = time.UnixMicro(rapid.Int64Range(-1e15, 4e15).Draw(t, "at"))
		data, err := json.Marshal(rapid.MapOf(rapid.String(), rapid.Float64Range(-1e6, 1e6)).Draw(t, "data"))
		require.NoError(t, err)
		e.Data = data
		require.NoError(t, journal.Seal("", 1, &e))
		doc, err := json.MarshalIndent(e, " ", "\t")
		require.NoError(t, err)
		var back journal.Entry
		require.NoError(t, json.Unmarshal(doc, &back))
		_, err = journal.Head{}.Next(back)
		require.NoError(t, err)
	})
}

func TestCanonicalFormRefusesWhatIsNoJSON(t *testing.T) {
	t.Parallel()
	for _, data := range []string{"{", "{} {}", "nope"} {
		e := journal.Entry{ID: "x", Kind: journal.StepDone, Data: json.RawMessage(data)}
		_, err := journal.Canonical(e)
		require.ErrorContains(t, err, "data is no JSON document")
		require.Error(t, journal.Seal("", 1, &e))
		require.Zero(t, e.Seq)
	}
}
