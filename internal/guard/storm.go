package guard

import "time"

// RunsScope is the scope of a storm of alerts in a cluster.
func RunsScope(cluster string) string { return "runs/" + cluster }

// storm stops everything when very much breaks at once, and for a while after:
// the cause is elsewhere then, and objects recover unevenly. It holds remedies
// that follow as well as those that begin, on pods as well as on nodes: what a
// lost zone does to a workload is not healed by restarting it. A relapse starts the time anew,
// because the last sign of a storm is recorded whoever sees it.
func storm(in Input) Decision {
	s, l := in.Subject, in.Subject.Limits
	if !s.Mutating {
		return admit()
	}
	if l.StormCooldown <= 0 || l.StormRuns == 0 || l.StormRuns > 0 && l.StormWindow <= 0 {
		return deny(ReasonStorm, "safety.storm is not set: no breaker means no run")
	}
	if l.StormRuns > 0 && in.Ledger.NewRuns > l.StormRuns {
		d := in.delay(ReasonStorm, in.Ledger.Now.Add(l.StormCooldown),
			"a storm: more than %d runs began within %s (safety.storm): the cause is likely elsewhere, a person must look", l.StormRuns, l.StormWindow)
		d.Storm = RunsScope(s.Target.Cluster)
		return d
	}
	if n := in.Evidence.Nodes; n != nil && s.Disruptive && len(n.Unhealthy) > nodeBudget(l, n.Total) {
		d := in.delay(ReasonStorm, in.Ledger.Now.Add(l.StormCooldown),
			"a storm: %d of %d nodes are unhealthy, %d are allowed (safety.nodes): the cause is likely elsewhere, a person must look",
			len(n.Unhealthy), n.Total, nodeBudget(l, n.Total))
		d.Storm = NodesScope(s.Target.Cluster)
		return d
	}
	for _, scope := range []string{NodesScope(s.Target.Cluster), RunsScope(s.Target.Cluster)} {
		for _, st := range in.Ledger.Storms {
			if st.Scope != scope {
				continue
			}
			if until := st.LastSeen.Add(l.StormCooldown); until.After(in.Ledger.Now) {
				return in.delay(ReasonStorm, until, "the storm since %s was last seen at %s: nothing new before %s of calm (safety.storm.cooldown)",
					st.Since.UTC().Format(time.RFC3339), st.LastSeen.UTC().Format(time.RFC3339), l.StormCooldown)
			}
		}
	}
	return admit()
}

// Signs are the storms that the decisions saw going on, to be recorded whatever
// was decided.
func Signs(all []Decision) []string {
	var out []string
	for _, d := range all {
		if d.Storm != "" {
			out = append(out, d.Storm)
		}
	}
	return out
}
