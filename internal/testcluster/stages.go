package testcluster

import (
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

//go:embed stages/*.yaml
var stageFiles embed.FS

//go:embed audit-policy.yaml
var auditPolicy []byte

// Annotations that steer the simulation. A fault may also be a label.
const (
	FaultAnnotation            = "medic-test/fault"
	FaultContainerAnnotation   = "medic-test/fault-container"   // the one container that crashes; all without it
	StartDelayAnnotation       = "medic-test/start-delay"       // before a pod becomes ready
	TerminationDelayAnnotation = "medic-test/termination-delay" // from deletion to gone
	CrashIntervalAnnotation    = "medic-test/crash-interval"    // between two restarts
	RunTimeAnnotation          = "medic-test/run-time"          // of a Job's pod, before it ends

	// nodeFaultAnnotation is put on the pods of a faulty node by the node
	// agent: their kubelet no longer starts, probes or ends anything.
	nodeFaultAnnotation = "medic-test/node-fault"
)

// The states that the stages are written in, as jq over the object. They are
// kept here so that the stages that share one cannot drift apart.
const (
	faultJQ = `(.metadata.annotations["medic-test/fault"] // .metadata.labels["medic-test/fault"] // "")`

	nodeConditionsJQ = `(. as $o | [("Ready", "MemoryPressure", "DiskPressure", "PIDPressure") as $t` +
		` | ([$o.status.conditions[]? | select(.type == $t) | .status] | .[0] // "")] | join("/"))`

	nodePressedJQ = `(` + faultJQ + ` as $f | ` + nodeConditionsJQ + ` == {"memory-pressure": "True/True/False/False",` +
		` "disk-pressure": "True/False/True/False", "pid-pressure": "True/False/False/True"}[$f])`

	podWantJQ = faultJQ + ` as $f | if .metadata.annotations["medic-test/node-fault"] then "frozen"` +
		` elif .metadata.deletionTimestamp then` +
		// With a grace period of 0 the pod has been deleted and waits for its finalizers.
		` (if $f == "stuck-terminating" or .metadata.deletionGracePeriodSeconds == 0 then "frozen" else "gone" end)` +
		` elif .status.phase == "Succeeded" or .status.phase == "Failed" then "final"` +
		` elif ([.spec.containers[].image | select(test("broken"))] | length) > 0 then "image"` +
		` elif $f == "crashloop" or $f == "oomkill" then "crash"` +
		` elif $f == "notready" then "notready"` +
		` elif $f == "pending" then "pending"` +
		` elif $f == "fail" or $f == "evicted" then "fail"` +
		` elif $f != "hang" and ([.metadata.ownerReferences[]? | select(.kind == "Job")] | length) > 0 then "complete"` +
		` else "ready" end`

	podHaveJQ = `[.status.containerStatuses[]?] as $s | [$s[] | .state.waiting.reason // ""] as $w` +
		` | if ($s | length) == 0 then "new"` +
		` elif $w | index("ImagePullBackOff") then "image"` +
		` elif $w | index("CrashLoopBackOff") then "crash"` +
		` elif $w | index("ContainerCreating") then "creating"` +
		` elif [.status.conditions[]? | select(.type == "ContainersReady") | .status] == ["True"] then "ready"` +
		` else "notready" end`
)

// Blocks of templates that several stages share. A stage names one alone on a
// line, and the block takes that line's indentation.
var stageBlocks = map[string]string{
	"@OLD@": `
{{ $old := dict }}
{{ range $s := $status.containerStatuses }}{{ if eq $s.name $c.name }}{{ $old = $s }}{{ end }}{{ end }}
{{ $count := int (or $old.restartCount 0) }}`,

	"@ADDRESSES@": `
{{ $host := NodeIPWith .spec.nodeName }}
{{ $ip := $status.podIP }}
{{ if not $ip }}{{ $ip = PodIPWith .spec.nodeName (or .spec.hostNetwork false) (or .metadata.uid "") .metadata.name .metadata.namespace }}{{ end }}
hostIP: {{ $host | Quote }}
hostIPs: [{ip: {{ $host | Quote }}}]
podIP: {{ $ip | Quote }}
podIPs: [{ip: {{ $ip | Quote }}}]`,

	"@NOT_READY_CONDITIONS@": `
- {type: PodReadyToStartContainers, status: "True", lastTransitionTime: {{ or $status.startTime $now | Quote }}}
- {type: Initialized, status: "True", lastTransitionTime: {{ or $status.startTime $now | Quote }}}
{{ range $type := list "ContainersReady" "Ready" }}
{{ $since := $now }}
{{ range $o := $status.conditions }}{{ if and (eq $o.type $type) (eq $o.status "False") }}{{ $since = $o.lastTransitionTime }}{{ end }}{{ end }}
- {type: {{ $type }}, status: "False", reason: ContainersNotReady, message: containers with unready status, lastTransitionTime: {{ $since | Quote }}}
{{ end }}`,

	"@INIT_CONTAINERS@": `
{{ with .spec.initContainers }}
initContainerStatuses:
{{ range $c := . }}
- name: {{ $c.name | Quote }}
  image: {{ $c.image | Quote }}
  imageID: {{ $c.image | Quote }}
  restartCount: 0
  ready: true
  {{ if eq (or $c.restartPolicy "") "Always" }}
  started: true
  state: {running: {startedAt: {{ $now | Quote }}}}
  {{ else }}
  started: false
  state: {terminated: {exitCode: 0, reason: Completed, startedAt: {{ $now | Quote }}, finishedAt: {{ $now | Quote }}}}
  {{ end }}
{{ end }}
{{ end }}`,
}

// What a container's log says; the same for every pod, in the format of the
// container runtime interface.
const (
	containerLog = `2026-01-01T00:00:00.000000001Z stdout F listening on :8080
2026-01-01T00:00:01.000000001Z stdout F level=info msg="connected to the database"
2026-01-01T00:00:02.000000001Z stderr F level=error msg="request failed" status=500
`
	previousContainerLog = `2026-01-01T00:00:00.000000001Z stdout F starting
2026-01-01T00:00:00.500000001Z stderr F panic: dial tcp 10.96.0.20:5432: connect: connection refused
2026-01-01T00:00:00.600000001Z stderr F goroutine 1 [running]:
`
)

// writeStages writes kwok's configuration into dir and returns its path.
func writeStages(dir string) (string, error) {
	inline := strings.NewReplacer(
		"@NODE_FAULT@", faultJQ,
		"@NODE_CONDITIONS@", nodeConditionsJQ,
		"@NODE_PRESSED@", nodePressedJQ,
		"@POD_WANT@", podWantJQ,
		"@POD_HAVE@", podHaveJQ,
	)
	var out strings.Builder
	for _, name := range []string{"stages/node.yaml", "stages/pod.yaml"} {
		data, err := stageFiles.ReadFile(name)
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(string(data)) {
			text := strings.TrimLeft(line, " ")
			if block, ok := stageBlocks[strings.TrimSpace(text)]; ok {
				indent := line[:len(line)-len(text)]
				for _, l := range strings.Split(strings.TrimSpace(block), "\n") {
					out.WriteString(indent + l + "\n")
				}
				continue
			}
			out.WriteString(inline.Replace(line))
		}
		out.WriteString("---\n")
	}
	logs, previous := filepath.Join(dir, "container.log"), filepath.Join(dir, "container-previous.log")
	if err := os.WriteFile(logs, []byte(containerLog), 0o644); err != nil {
		return "", err
	}
	if err := os.WriteFile(previous, []byte(previousContainerLog), 0o644); err != nil {
		return "", err
	}
	fmt.Fprintf(&out, `apiVersion: kwok.x-k8s.io/v1alpha1
kind: ClusterLogs
metadata: {name: all}
spec:
  logs:
  - {logsFile: %q, previousLogsFile: %q}
---
apiVersion: config.kwok.x-k8s.io/v1alpha1
kind: KwokConfiguration
options:
  enableDebuggingHandlers: true
  podPlayStageParallelism: 16
  nodePlayStageParallelism: 16
`, logs, previous)
	path := filepath.Join(dir, "kwok.yaml")
	return path, os.WriteFile(path, []byte(out.String()), 0o644)
}
