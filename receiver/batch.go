package receiver

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/alertmedic/alertmedic/internal/alert"
	"github.com/alertmedic/alertmedic/internal/journal"
	"github.com/alertmedic/alertmedic/internal/store"
)

// RejectWrongCluster is why an alert of another cluster than its source's is
// rejected.
const RejectWrongCluster alert.Reason = "wrong-cluster"

// batch turns a webhook into what is stored. The second result are the alerts
// that are good in themselves but not this source's to send.
func (r *Receiver) batch(webhook alert.Webhook, rejected []alert.Rejected, src Source, now time.Time) (store.Batch, []alert.Rejected) {
	var (
		out     store.Batch
		foreign []alert.Rejected
		current = r.opts.Current()
	)
	for i, a := range webhook.Alerts {
		if claimed := a.Labels["cluster"]; claimed != "" && claimed != src.Cluster {
			foreign = append(foreign, alert.Rejected{
				Index: webhook.Index[i], Reason: RejectWrongCluster, AlertName: a.Name(), Fingerprint: a.Fingerprint,
				Message: fmt.Sprintf("the alert says cluster %q, but source %s is for cluster %q; give each cluster's Alertmanager its own token", claimed, src.Name, src.Cluster),
			})
			continue
		}
		out.Observations = append(out.Observations, store.Observation{
			Source: src.Name, Cluster: src.Cluster, Alert: a, Playbooks: r.matched(current.Match(a.Labels)),
		})
	}
	for _, rej := range rejected {
		out.Rejected = append(out.Rejected, entry(rej, src, now))
	}
	for _, rej := range foreign {
		out.Rejected = append(out.Rejected, entry(rej, src, now))
	}
	return out, foreign
}

func entry(rej alert.Rejected, src Source, now time.Time) journal.Entry {
	data, err := json.Marshal(struct {
		Index int    `json:"index"`
		Raw   string `json:"raw,omitempty"`
	}{rej.Index, rej.Raw})
	if err != nil {
		data = nil // cannot be: an int and a string
	}
	return journal.Entry{
		ID: uuid.Must(uuid.NewV7()).String(), At: now.UTC().Truncate(time.Microsecond), Kind: journal.AlertRejected,
		Cluster: src.Cluster, Source: src.Name, Fingerprint: rej.Fingerprint, AlertName: rej.AlertName,
		Reason: string(rej.Reason), Message: rej.Message, Data: data,
	}
}
