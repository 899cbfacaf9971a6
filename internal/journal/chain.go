package journal

import (
	"fmt"
	"iter"
)

// Head is the last entry of a chain, or the point from which one goes on. The
// zero Head is the beginning.
type Head struct {
	Seq  int64  `json:"seq"`
	Hash string `json:"hash"`
}

// Break says how a chain is broken.
type Break string

// The ways in which a chain breaks.
const (
	BreakGap       Break = "gap"       // an entry is missing, doubled or out of order
	BreakPrevHash  Break = "prev-hash" // it does not follow the entry before
	BreakHash      Break = "hash"      // it was changed after it was sealed
	BreakUnsealed  Break = "unsealed"  // it has no seq or no hash
	BreakUnhashed  Break = "invalid"   // it has no canonical form
	BreakTruncated Break = "truncated" // a checkpoint names an entry that is not there
)

// ChainError says at which seq a chain breaks and why.
type ChainError struct {
	Seq    int64 // of the entry that breaks it; for a gap the seq that was expected
	Break  Break
	Detail string
	Err    error
}

func (e *ChainError) Error() string {
	return fmt.Sprintf("the chain breaks at seq %d (%s): %s", e.Seq, e.Break, e.Detail)
}

// Unwrap returns the cause, if any.
func (e *ChainError) Unwrap() error { return e.Err }

// Next checks that e follows h and returns the new head.
func (h Head) Next(e Entry) (Head, error) {
	want := h.Seq + 1
	if e.Seq == 0 || e.Hash == "" {
		return h, &ChainError{Seq: want, Break: BreakUnsealed, Detail: fmt.Sprintf("entry %s is not sealed", e.ID)}
	}
	if e.Seq != want {
		return h, &ChainError{Seq: want, Break: BreakGap, Detail: fmt.Sprintf("entry %s has seq %d", e.ID, e.Seq)}
	}
	if e.PrevHash != h.Hash {
		return h, &ChainError{Seq: e.Seq, Break: BreakPrevHash,
			Detail: fmt.Sprintf("it names %q as the hash before it, which is %q", e.PrevHash, h.Hash)}
	}
	hash, err := HashOf(h.Hash, e)
	if err != nil {
		return h, &ChainError{Seq: e.Seq, Break: BreakUnhashed, Detail: err.Error(), Err: err}
	}
	if hash != e.Hash {
		return h, &ChainError{Seq: e.Seq, Break: BreakHash,
			Detail: fmt.Sprintf("its content hashes to %s and it carries %s: it was changed after it was sealed", hash, e.Hash)}
	}
	return Head{Seq: e.Seq, Hash: e.Hash}, nil
}

// VerifyChain checks entries in their order, going on from a trusted head (the
// zero Head for a whole journal), and returns the last good head. The error is
// a *ChainError, or the error of the sequence itself, wrapped. It holds one
// entry at a time.
func VerifyChain(from Head, entries iter.Seq2[Entry, error]) (Head, error) {
	head := from
	for e, err := range entries {
		if err != nil {
			return head, fmt.Errorf("read the entry after seq %d: %w", head.Seq, err)
		}
		if head, err = head.Next(e); err != nil {
			return head, err
		}
	}
	return head, nil
}
