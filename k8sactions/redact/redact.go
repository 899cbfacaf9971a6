// Package redact takes secrets out of text and objects before they reach the
// remediation log, where they would stay for ever. It errs on the side of
// hiding too much.
package redact

import (
	"regexp"
	"strings"
)

// Mark stands where a secret was.
const Mark = "[redacted]"

// secretName matches names of keys whose values are secrets.
const secretName = `(?:pass(?:word|wd|phrase)?|pwd|secret|token|api[_.-]?key|access[_.-]?key|private[_.-]?key|signing[_.-]?key|encryption[_.-]?key|client[_.-]?key|credentials?|authorization|session[_.-]?(?:id|key)|cookie|dsn|connection[_.-]?string|sas)`

var (
	nameOfSecret = regexp.MustCompile(`(?i)(?:^|[^a-z])` + secretName + `s?(?:$|[^a-z])|(?:password|passwd|secret|token|apikey|api_key|credential)s?$`)

	pem    = regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]+-----.*?(?:-----END [A-Z0-9 ]+-----|\z)`)
	header = regexp.MustCompile(`(?i)\b((?:proxy-)?authorization|(?:set-)?cookie|x-(?:api-key|auth-token|vault-token))(["']?\s*[:=]\s*)["']?[^\r\n"']+`)
	bearer = regexp.MustCompile(`(?i)\b(bearer|basic|digest|negotiate)\s+[A-Za-z0-9+/_.~=-]{6,}`)
	jwt    = regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*)?`)
	// awsKey matches identifiers; the secret that goes with one is caught by
	// the name of its key.
	awsKey = regexp.MustCompile(`\b(?:AKIA|ASIA|ABIA|ACCA|AGPA|AIDA|AROA|ANPA)[A-Z0-9]{16}\b`)
	// prefixed matches tokens that say whose they are.
	prefixed = regexp.MustCompile(`\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}|xox[abeprs]-[A-Za-z0-9-]{10,}|sk-[A-Za-z0-9_-]{16,}|sk_live_[A-Za-z0-9]{10,}|rk_live_[A-Za-z0-9]{10,}|AIza[A-Za-z0-9_-]{30,}|hvs\.[A-Za-z0-9_-]{20,}|npm_[A-Za-z0-9]{30,}|dop_v1_[a-f0-9]{40,})`)
	userinfo = regexp.MustCompile(`\b([A-Za-z][A-Za-z0-9+.-]*://)[^\s/@"'<>]+@`)
	// pair matches key=value, key: value and "key": "value" with a secret's name
	// anywhere in the key, so that DB_PASSWORD and spring.datasource.password do.
	pair = regexp.MustCompile(`(?i)(["']?[A-Za-z0-9_.-]*` + secretName + `s?(?:[_.-][A-Za-z0-9_.-]*)?["']?\s*(?:=>|:=|=|:)\s*)(\[redacted\]|"(?:[^"\\\r\n]|\\.)*"?|'(?:[^'\\\r\n]|\\.)*'?|[^\s,;&}\])"']+)`)
	flag = regexp.MustCompile(`(?i)(--?[a-z0-9-]*` + secretName + `s?\s+)(\[redacted\]|"[^"\r\n]*"|'[^'\r\n]*'|[^\s-]\S*)`)
)

// Text returns s without the secrets that can be told by their shape or by the
// name in front of them.
func Text(s string) string {
	s = pem.ReplaceAllString(s, Mark)
	s = header.ReplaceAllString(s, "${1}${2}"+Mark)
	s = bearer.ReplaceAllString(s, "${1} "+Mark)
	s = jwt.ReplaceAllString(s, Mark)
	s = awsKey.ReplaceAllString(s, Mark)
	s = prefixed.ReplaceAllString(s, Mark)
	s = userinfo.ReplaceAllString(s, "${1}"+Mark+"@")
	s = pair.ReplaceAllString(s, "${1}"+Mark)
	s = flag.ReplaceAllString(s, "${1}"+Mark)
	return s
}

// SecretName reports whether a variable or key of this name holds a secret.
func SecretName(name string) bool {
	return nameOfSecret.MatchString(split.ReplaceAllString(name, "${1}_${2}"))
}

// split separates the words of camelCase names.
var split = regexp.MustCompile(`([a-z0-9])([A-Z])`)

// Object returns a copy of a JSON value with every text redacted and with the
// values of secret-looking keys and environment variables hidden.
func Object(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		name, isEnv := v["name"].(string)
		for key, child := range v {
			text, isText := child.(string)
			switch {
			case isText && text != "" && (isEnv && key == "value" && SecretName(name) || secretKey(key)):
				out[key] = Mark
			default:
				out[key] = Object(child)
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, child := range v {
			out[i] = Object(child)
		}
		return out
	case string:
		return Text(v)
	default:
		return v
	}
}

// secretKey is SecretName without the fields of Kubernetes' own API that only
// name a Secret or switch a mount on.
func secretKey(key string) bool {
	switch key {
	case "secretName", "serviceAccountToken", "automountServiceAccountToken", "sessionAffinity":
		return false
	}
	return SecretName(key) && !strings.HasSuffix(key, "Ref") && !strings.HasSuffix(key, "Name") && !strings.HasSuffix(key, "Seconds")
}
