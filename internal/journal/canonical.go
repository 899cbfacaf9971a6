package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/alertmedic/alertmedic/internal/action"
)

// timeLayout writes a time in UTC with exactly six decimals: the precision that
// both databases keep, so that an entry hashes the same before and after it was
// stored.
const timeLayout = "2006-01-02T15:04:05.000000Z"

// canonical is the hashed form of an entry. Its field order is part of the
// format: a field may be added at its end with omitempty, none may move, be
// renamed or be removed, or every chain written before would break.
type canonical struct {
	Seq         int64           `json:"seq"`
	ID          string          `json:"id"`
	At          string          `json:"at"`
	Kind        Kind            `json:"kind"`
	Cluster     string          `json:"cluster,omitempty"`
	Source      string          `json:"source,omitempty"`
	Fingerprint string          `json:"fingerprint,omitempty"`
	AlertName   string          `json:"alertname,omitempty"`
	EpisodeID   string          `json:"episodeID,omitempty"`
	CandidateID string          `json:"candidateID,omitempty"`
	RunID       string          `json:"runID,omitempty"`
	Playbook    string          `json:"playbook,omitempty"`
	Remedy      string          `json:"remedy,omitempty"`
	Step        string          `json:"step,omitempty"`
	Action      string          `json:"action,omitempty"`
	Target      *action.Target  `json:"target,omitempty"`
	Outcome     string          `json:"outcome,omitempty"`
	Reason      string          `json:"reason,omitempty"`
	Message     string          `json:"message,omitempty"`
	Actor       string          `json:"actor,omitempty"`
	Data        json.RawMessage `json:"data,omitempty"`
}

// Canonical returns the form of e that is hashed: JSON on one line with a fixed
// order of fields, sorted keys inside Data, times in UTC with microseconds, no
// HTML escapes, and neither Hash nor PrevHash. Two entries that say the same
// have the same form, whichever JSON encoder has written them in between.
//
// The error says that Data is no JSON document.
func Canonical(e Entry) ([]byte, error) {
	data, err := sortedJSON(e.Data)
	if err != nil {
		return nil, fmt.Errorf("entry %s (%s): data is no JSON document: %w", e.ID, e.Kind, err)
	}
	form := canonical{
		Seq: e.Seq, ID: e.ID, At: Microseconds(e.At).Format(timeLayout), Kind: e.Kind,
		Cluster: e.Cluster, Source: e.Source, Fingerprint: e.Fingerprint, AlertName: e.AlertName,
		EpisodeID: e.EpisodeID, CandidateID: e.CandidateID, RunID: e.RunID, Playbook: e.Playbook,
		Remedy: e.Remedy, Step: e.Step, Action: e.Action, Target: e.Target, Outcome: e.Outcome,
		Reason: e.Reason, Message: e.Message, Actor: e.Actor, Data: data,
	}
	out, err := encode(form)
	if err == nil && bytes.Contains(out, []byte(`\ufffd`)) {
		// Text that is no UTF-8 is written as this escape, and as plain U+FFFD once
		// it was read back: hash what is read back.
		form = canonical{}
		if err = json.Unmarshal(out, &form); err == nil {
			out, err = encode(form)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("entry %s (%s): encode its canonical form: %w", e.ID, e.Kind, err)
	}
	return out, nil
}

func encode(v any) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// sortedJSON writes a document anew with sorted keys. Numbers keep their digits.
func sortedJSON(doc json.RawMessage) (json.RawMessage, error) {
	if len(bytes.TrimSpace(doc)) == 0 {
		return nil, nil
	}
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("there is more after the document")
	}
	return encode(v)
}

// Microseconds returns t in UTC, cut to the precision of the journal.
func Microseconds(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// HashOf returns the hex SHA-256 over the hash of the entry before, a line
// feed, and the canonical form of e, which holds its seq.
func HashOf(prevHash string, e Entry) (string, error) {
	form, err := Canonical(e)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(slices.Concat([]byte(prevHash), []byte("\n"), form))
	return hex.EncodeToString(sum[:]), nil
}

// Seal gives e its place in the chain: seq, prevHash and its own hash. prevHash
// is "" for the first entry, whose seq is 1. On an error e is unchanged.
func Seal(prevHash string, seq int64, e *Entry) error {
	if seq < 1 || (seq == 1) != (prevHash == "") {
		return fmt.Errorf("seal entry %s: seq %d does not go with the previous hash %q: only the first entry, seq 1, has none", e.ID, seq, prevHash)
	}
	sealed := *e
	sealed.Seq, sealed.At = seq, Microseconds(e.At)
	hash, err := HashOf(prevHash, sealed)
	if err != nil {
		return err
	}
	sealed.PrevHash, sealed.Hash = prevHash, hash
	*e = sealed
	return nil
}
