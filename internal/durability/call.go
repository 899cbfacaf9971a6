package durability

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

// Call is one change that a process asked the API server for, as the proxy saw
// it.
type Call struct {
	ID        string    `json:"id"` // the audit log's id of the request
	At        time.Time `json:"at"` // when it arrived
	Replica   string    `json:"replica"`
	UserAgent string    `json:"userAgent"`
	Method    string    `json:"method"`
	Path      string    `json:"path"`
	// Change is false for what leaves the cluster as it was: reads, access
	// reviews and dry runs, which are not kept, and true also for Events.
	Change bool `json:"-"`
	// Run and Step are what a patch is signed with, UID what a patch tests or a
	// deletion requires.
	Run  string `json:"run,omitempty"`
	Step string `json:"step,omitempty"`
	UID  string `json:"uid,omitempty"`
	// BodyHash is the SHA-256 of the body, hex.
	BodyHash string `json:"bodyHash"`
	Fault    Fault  `json:"fault,omitzero"`
	// Late says that it was cut off because it could not go on in time.
	Late bool `json:"late,omitempty"`
	// Forwarded is when it went on to the API server, zero when it never did;
	// Status is the API server's answer then, 0 when there was none, and Ended the
	// time of that.
	Forwarded time.Time `json:"forwarded,omitzero"`
	Status    int       `json:"status,omitempty"`
	Ended     time.Time `json:"ended,omitzero"`
	// Answered is the status that the process was given, 0 when it cannot have
	// heard any.
	Answered int `json:"answered,omitempty"`
}

// Applied reports whether the API server made the change.
func (c Call) Applied() bool { return c.Status >= 200 && c.Status < 300 }

// Event reports a Kubernetes Event, which is a report and not a remedy.
func (c Call) Event() bool { return strings.HasSuffix(c.Path, "/events") }

// Unclear reports whether the process that made the call could not know from
// its answer whether the change was made.
func (c Call) Unclear() bool { return c.Answered == 0 || c.Answered >= 500 }

func (c *Call) describe(r *http.Request, body []byte) {
	c.Change = !strings.Contains(r.URL.Path, "accessreviews") && !strings.Contains(r.URL.Path, "tokenreviews") && r.URL.Query().Get("dryRun") == ""
	sum := sha256.Sum256(body)
	c.BodyHash = hex.EncodeToString(sum[:])
	c.Run, c.Step, c.UID = signature(body)
}

// patchOp is one operation of a JSON Patch.
type patchOp struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// signature reads what a change says of itself: run and step, which a patch
// writes into annotations, and the UID that a patch tests or that a deletion or
// eviction requires.
func signature(body []byte) (run, step, uid string) {
	var ops []patchOp
	if json.Unmarshal(body, &ops) == nil {
		for _, op := range ops {
			value, _ := op.Value.(string)
			switch {
			case op.Op == "test" && op.Path == "/metadata/uid":
				uid = value
			case op.Op == "add" && op.Path == "/metadata/annotations/alertmedic.io~1run":
				run = value
			case op.Op == "add" && op.Path == "/metadata/annotations/alertmedic.io~1step":
				step = value
			}
		}
		return run, step, uid
	}
	type preconditions struct {
		UID string `json:"uid"`
	}
	var object struct {
		Preconditions preconditions `json:"preconditions"`
		DeleteOptions struct {
			Preconditions preconditions `json:"preconditions"`
		} `json:"deleteOptions"`
		Metadata struct {
			Annotations map[string]string `json:"annotations"`
		} `json:"metadata"`
	}
	if json.Unmarshal(body, &object) != nil {
		return "", "", ""
	}
	uid = object.Preconditions.UID
	if uid == "" {
		uid = object.DeleteOptions.Preconditions.UID
	}
	return object.Metadata.Annotations["alertmedic.io/run"], object.Metadata.Annotations["alertmedic.io/step"], uid
}
