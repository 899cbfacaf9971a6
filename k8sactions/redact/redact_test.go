package redact_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/alertmedic/alertmedic/k8sactions/redact"
)

func TestTextHidesSecretsAndKeepsTheRest(t *testing.T) {
	t.Parallel()
	const r = redact.Mark
	for in, want := range map[string]string{
		"DB_PASSWORD=hunter2 MODE=fast":                                                    "DB_PASSWORD=" + r + " MODE=fast",
		"spring.datasource.password: hunter2, pool=5":                                      "spring.datasource.password: " + r + ", pool=5",
		`{"apiKey":"abc","user":"bob"}`:                                                    `{"apiKey":` + r + `,"user":"bob"}`,
		`{"client_secret": "a \"quoted\" one", "n": 1}`:                                    `{"client_secret": ` + r + `, "n": 1}`,
		`password="two words" next`:                                                        `password=` + r + ` next`,
		"token => abcdef":                                                                  "token => " + r,
		"Authorization: Bearer abcdef123456":                                               "Authorization: " + r,
		"sent Bearer abcdef123456 to it":                                                   "sent Bearer " + r + " to it",
		"Cookie: sid=1; other=2":                                                           "Cookie: " + r,
		"got eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjMifQ.c2lnbmF0dXJl":                         "got " + r,
		"key AKIAABCDEFGHIJKLMNOP used":                                                    "key " + r + " used",
		"aws_secret_access_key = wJalrXUtnFEMI/K7MDENG":                                    "aws_secret_access_key = " + r,
		"dial postgres://shop:hunter2@db:5432/shop failed":                                 "dial postgres://" + r + "@db:5432/shop failed",
		"redis://:hunter2@cache:6379":                                                      "redis://" + r + "@cache:6379",
		"mysql --password hunter2 -h db":                                                   "mysql --password " + r + " -h db",
		"--db-token=hunter2 --verbose":                                                     "--db-token=" + r + " --verbose",
		"-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----\nafter": r + "\nafter",
		"-----BEGIN CERTIFICATE-----\nMIIE cut off":                                        r,
		"ghp_abcdefghijklmnopqrstuvwxyz0123456789 pushed":                                  r + " pushed",
		"xoxb-1234567890-abcdefghij":                                                       r,
		"GET /?access_token=abc&page=2":                                                    "GET /?access_token=" + r + "&page=2",
		"secret: 'it''s'":                                                                  "secret: " + r + "'s'",

		// What a person needs to read stays.
		"back-off restarting failed container app in pod web-1": "back-off restarting failed container app in pod web-1",
		"http://db.shop.svc:8080/healthz: 503":                  "http://db.shop.svc:8080/healthz: 503",
		"panic: runtime error: index out of range [3]":          "panic: runtime error: index out of range [3]",
		"image shop/web:1.2.3@sha256:abcdef":                    "image shop/web:1.2.3@sha256:abcdef",
		"auth: the issuer does not answer":                      "auth: the issuer does not answer",
		"mail to ops@example.org":                               "mail to ops@example.org",
		"":                                                      "",
	} {
		got := redact.Text(in)
		if in == "secret: 'it''s'" {
			require.NotContains(t, got, "it'")
			continue
		}
		require.Equal(t, want, got, in)
	}
}

func TestRedactingTwiceChangesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOf(rapid.SampledFrom([]string{"password", "=", ": ", "hunter2", " ", "\n", `"`, "'", "Bearer ", "https://", "user:pw@", "token", "abcdef123456", ",", "}", "x"})).Draw(t, "parts")
		once := redact.Text(strings.Join(parts, ""))
		if twice := redact.Text(once); strings.Contains(once, "hunter2") && !strings.Contains(twice, "hunter2") {
			t.Fatalf("the first pass left %q, the second %q", once, twice)
		}
	})
}

func TestAnAssignedPasswordNeverSurvives(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		secret := "S3cr3t" + rapid.StringMatching(`[A-Za-z0-9+/_.-]{4,30}`).Draw(t, "secret")
		name := rapid.SampledFrom([]string{"PASSWORD", "db_password", "apiKey", "API_KEY", "clientSecret", "auth-token", "MY_TOKEN_V2", "smtp.passwd", "AWS_SECRET_ACCESS_KEY", "private_key", "credentials"}).Draw(t, "name")
		sep := rapid.SampledFrom([]string{"=", ": ", ":", " = ", " => "}).Draw(t, "separator")
		quote := rapid.SampledFrom([]string{"", `"`, `'`}).Draw(t, "quote")
		before := rapid.SampledFrom([]string{"", "level=info ", "{", "env: [", "export "}).Draw(t, "before")
		in := before + name + sep + quote + secret + quote + " tail"
		if got := redact.Text(in); strings.Contains(got, secret) {
			t.Fatalf("%q kept its secret: %q", in, got)
		}
	})
}

func TestObjectHidesValuesByTheirNames(t *testing.T) {
	t.Parallel()
	in := map[string]any{
		"containers": []any{map[string]any{
			"name": "app",
			"args": []any{"--token=abc", "--verbose"},
			"env": []any{
				map[string]any{"name": "DB_PASSWORD", "value": "hunter2"},
				map[string]any{"name": "MODE", "value": "fast"},
				map[string]any{"name": "URL", "value": "https://u:p@h/x"},
				map[string]any{"name": "TOKEN", "valueFrom": map[string]any{"secretKeyRef": map[string]any{"name": "shop", "key": "token"}}},
			},
		}},
		"metadata":           map[string]any{"annotations": map[string]any{"vault/token": "abc", "team": "shop"}},
		"serviceAccountName": "web", "replicas": int64(3), "terminationGracePeriodSeconds": int64(30),
		"volumes": []any{map[string]any{"name": "s", "secret": map[string]any{"secretName": "shop-tls"}}},
	}
	got := redact.Object(in)
	require.Equal(t, map[string]any{
		"containers": []any{map[string]any{
			"name": "app",
			"args": []any{"--token=" + redact.Mark, "--verbose"},
			"env": []any{
				map[string]any{"name": "DB_PASSWORD", "value": redact.Mark},
				map[string]any{"name": "MODE", "value": "fast"},
				map[string]any{"name": "URL", "value": "https://" + redact.Mark + "@h/x"},
				map[string]any{"name": "TOKEN", "valueFrom": map[string]any{"secretKeyRef": map[string]any{"name": "shop", "key": "token"}}},
			},
		}},
		"metadata":           map[string]any{"annotations": map[string]any{"vault/token": redact.Mark, "team": "shop"}},
		"serviceAccountName": "web", "replicas": int64(3), "terminationGracePeriodSeconds": int64(30),
		"volumes": []any{map[string]any{"name": "s", "secret": map[string]any{"secretName": "shop-tls"}}},
	}, got)
	require.Equal(t, "hunter2", in["containers"].([]any)[0].(map[string]any)["env"].([]any)[0].(map[string]any)["value"], "the input is left alone")
}

func TestSecretName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"PASSWORD", "DB_PASSWORD", "dbPassword", "API_KEY", "apiKey", "clientSecret", "AUTH_TOKEN", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "DATABASE_DSN", "credentials", "GITHUB_TOKEN"} {
		require.True(t, redact.SecretName(name), name)
	}
	for _, name := range []string{"MODE", "TIMEOUT", "AUTHOR", "TOKENIZER_PATH", "LOG_LEVEL", "HOST", "compass", "SESSION_TIMEOUT", "AUTH_MODE"} {
		require.False(t, redact.SecretName(name), name)
	}
}

func FuzzText(f *testing.F) {
	f.Add("password=hunter2")
	f.Add("-----BEGIN X-----")
	f.Fuzz(func(t *testing.T, s string) { _ = redact.Text(s) })
}
