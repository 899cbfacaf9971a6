package notify

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// escape makes untrusted text (labels, names, messages of other systems) safe
// inside Slack's mrkdwn: the three control characters become entities, so that
// neither <!channel> nor <@user> nor a disguised link survives; backticks would
// end a code span; invisible and direction-changing characters could make a
// reader approve something else than what is written. Line breaks are kept.
func escape(s string) string {
	var b strings.Builder
	b.Grow(len(s))
	for _, r := range strings.ToValidUTF8(s, "\uFFFD") {
		switch {
		case r == '&':
			b.WriteString("&amp;")
		case r == '<':
			b.WriteString("&lt;")
		case r == '>':
			b.WriteString("&gt;")
		case r == '`':
			b.WriteByte('\'')
		case r == '\n' || r == '\t':
			b.WriteRune(r)
		case unicode.IsControl(r) || unicode.Is(unicode.Cf, r):
			b.WriteRune('\uFFFD')
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// line is escape for text that must stay on one line, without the marks that
// would change the style of what follows.
func line(s string) string {
	s = strings.NewReplacer("\n", " ", "\r", " ", "\t", " ", "*", "∗", "~", "∼").Replace(s)
	return escape(s)
}

// truncate shortens s to at most limit bytes, at a rune boundary, and says so.
func truncate(s string, limit int) string {
	const mark = " … (shortened)"
	if len(s) <= limit {
		return s
	}
	cut := max(0, limit-len(mark))
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	// Half an entity would read as text.
	if i := strings.LastIndexByte(s[:cut], '&'); i >= 0 && cut-i < len("&amp;") && !strings.Contains(s[i:cut], ";") {
		cut = i
	}
	return s[:cut] + mark
}
