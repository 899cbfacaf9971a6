package guard

import (
	"math"
	"time"
)

// bucketOf is one token bucket that a run draws from.
type bucketOf struct {
	scope, what string
	rate        Rate
}

// Fills is how long an empty bucket of the rate takes to be full: 0 for no limit.
func (r Rate) Fills() time.Duration {
	if r.Burst < 1 || r.Every <= 0 {
		return 0
	}
	if most := math.MaxInt64 / int64(r.Every); int64(r.Burst) > most {
		return math.MaxInt64
	}
	return time.Duration(r.Burst) * r.Every
}

func buckets(s Subject) []bucketOf {
	out := []bucketOf{
		{"rate/" + s.Target.Cluster, "safety.rate.global", s.Limits.RateGlobal},
		{"rate/" + s.Target.Cluster + "/playbook/" + s.Playbook, "safety.rate.perPlaybook", s.Limits.RatePlaybook},
	}
	if s.Target.Namespace != "" {
		out = append(out, bucketOf{"rate/" + s.Target.Cluster + "/namespace/" + s.Target.Namespace, "safety.rate.perNamespace", s.Limits.RateNamespace})
	}
	return out
}

// tokens is what a bucket holds at now. One that was never drawn from is full. A
// clock that went back adds nothing.
func (b bucketOf) tokens(l Ledger) float64 {
	for _, k := range l.Buckets {
		if k.Scope == b.scope {
			grown := max(0, float64(l.Now.Sub(k.At))) / float64(b.rate.Every)
			return min(float64(b.rate.Burst), k.Tokens+grown)
		}
	}
	return float64(b.rate.Burst)
}

// rate bounds how many runs begin to change something in a time: of the
// playbook, in the namespace and in all.
func rate(in Input) Decision {
	s := in.Subject
	if !s.Mutating || !s.First {
		return admit()
	}
	for _, b := range buckets(s) {
		switch {
		case b.rate.Burst == Off:
			continue
		case b.rate.Burst < 1 || b.rate.Every <= 0:
			return deny(ReasonRate, "%s is not set: no rate means no run", b.what)
		}
		if held := b.tokens(in.Ledger); held < 1 {
			until := in.Ledger.Now.Add(time.Duration((1 - held) * float64(b.rate.Every)).Round(time.Millisecond))
			return in.delay(ReasonRate, until, "%s is used up: %d runs at once and one more every %s", b.what, b.rate.Burst, b.rate.Every)
		}
	}
	return admit()
}

// Draw takes one token for an admitted run out of each of its buckets, and
// returns them as the store must keep them. It is nothing for a run that has
// begun to change something already.
func Draw(s Subject, l Ledger) []Bucket {
	if !s.Mutating || !s.First {
		return nil
	}
	var out []Bucket
	for _, b := range buckets(s) {
		if b.rate.Burst > 0 && b.rate.Every > 0 {
			out = append(out, Bucket{Scope: b.scope, Tokens: max(0, b.tokens(l)-1), At: l.Now})
		}
	}
	return out
}
