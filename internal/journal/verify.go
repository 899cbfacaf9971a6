package journal

import (
	"encoding/json"
	"fmt"
)

// Pruned is the Data of a JournalPruned entry: every entry up to Seq, which had
// this hash, may be gone. It is written, and sealed, before the first of them is
// removed, so that a journal without its beginning still says where it begins
// and what came before.
type Pruned struct {
	Seq  int64  `json:"seq"`
	Hash string `json:"hash"`
}

// Verifier checks a whole journal entry by entry, in their order. Unlike
// VerifyChain it accepts one whose beginning was removed by retention, when the
// journal itself says so. The zero Verifier is ready. It holds one entry at a
// time.
type Verifier struct {
	head    Head
	from    Head // what came before the first entry
	started bool
	covered bool // a JournalPruned entry vouches for from
	exactly *ChainError
}

// Add checks the next entry; the error is a *ChainError.
func (v *Verifier) Add(e Entry) error {
	if !v.started {
		v.started = true
		if e.Seq > 1 && e.PrevHash != "" {
			v.from = Head{Seq: e.Seq - 1, Hash: e.PrevHash}
			v.head = v.from
		}
	}
	next, err := v.head.Next(e)
	if err != nil {
		return err
	}
	v.head = next
	if v.from.Seq == 0 || e.Kind != JournalPruned {
		return nil
	}
	var p Pruned
	if err := json.Unmarshal(e.Data, &p); err != nil {
		return &ChainError{Seq: e.Seq, Break: BreakUnhashed, Detail: "it does not say what was removed: " + err.Error(), Err: err}
	}
	switch {
	case p.Seq >= e.Seq: // it cannot vouch for what came after it
	case p.Seq > v.from.Seq:
		v.covered = true // the removal was not finished
	case p.Seq == v.from.Seq:
		if p.Hash == v.from.Hash {
			v.covered = true
		} else {
			v.exactly = &ChainError{Seq: v.from.Seq + 1, Break: BreakPrevHash,
				Detail: fmt.Sprintf("it names %q as the hash before it, and entry %d says that the last removed one had %q", v.from.Hash, e.Seq, p.Hash)}
		}
	}
	return nil
}

// Head is the last good entry.
func (v *Verifier) Head() Head { return v.head }

// Removed is the seq up to which entries were removed by retention, 0 for none.
func (v *Verifier) Removed() int64 { return v.from.Seq }

// End says whether the journal begins where it may, once all entries were added;
// the error is a *ChainError.
func (v *Verifier) End() error {
	switch {
	case v.from.Seq == 0 || v.covered:
		return nil
	case v.exactly != nil:
		return v.exactly
	}
	return &ChainError{Seq: 1, Break: BreakGap,
		Detail: fmt.Sprintf("the journal begins at seq %d, and no entry %s says that what came before was removed by retention", v.from.Seq+1, JournalPruned)}
}
