package diagnose

import (
	"bytes"
	"context"
	"io"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/alertmedic/alertmedic/k8sactions/redact"
)

// maxLine bounds a line of a log.
const maxLine = 2048

// logs reads the end of each container's log, of the life before too when the
// container was restarted: that is where the reason for the restart is.
func (g *gatherer) logs(ctx context.Context, pods []corev1.Pod) {
	if g.params.LogLines == 0 {
		return
	}
	for i := range pods {
		if i == maxLogPods {
			return
		}
		p := &pods[i]
		for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
			for _, c := range list {
				if ran(c.State) {
					g.log(ctx, p, c.Name, false)
				}
				if c.RestartCount > 0 {
					g.log(ctx, p, c.Name, true)
				}
			}
		}
	}
}

// ran reports whether a container has had the chance to write.
func ran(s corev1.ContainerState) bool { return s.Running != nil || s.Terminated != nil }

func (g *gatherer) log(ctx context.Context, p *corev1.Pod, container string, previous bool) {
	what := "log of " + p.Name + "/" + container
	if previous {
		what = "previous " + what
	}
	lines, limit := g.params.LogLines, int64(maxLogBytes)
	stream, err := g.session.Typed().CoreV1().Pods(p.Namespace).GetLogs(p.Name, &corev1.PodLogOptions{
		Container: container, Previous: previous, TailLines: &lines, LimitBytes: &limit,
	}).Stream(ctx)
	if err != nil {
		g.missing(what, err)
		return
	}
	defer stream.Close()
	// Not every kubelet keeps to limitBytes.
	data, err := io.ReadAll(io.LimitReader(stream, maxLogBytes))
	if err != nil {
		g.missing(what, err)
	}
	if tail := tailOf(data, int(lines)); len(tail) > 0 {
		g.out.Logs = append(g.out.Logs, Log{Pod: p.Name, Container: container, Previous: previous, Lines: tail})
	}
}

// tailOf returns the last n lines of a log, fit to be kept. Secrets are taken
// out of the whole text first, since one may span lines.
func tailOf(data []byte, n int) []string {
	text := strings.ToValidUTF8(string(bytes.TrimRight(data, "\r\n")), "\uFFFD")
	if text == "" {
		return nil
	}
	lines := strings.Split(redact.Text(printable(text)), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	for i, line := range lines {
		lines[i] = shortened(line, maxLine)
	}
	return lines
}

// printable drops what would play tricks on a terminal, or hide a secret from
// the patterns.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' && r != '\n' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return -1
		}
		return r
	}, s)
}
