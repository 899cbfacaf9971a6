// Package alert holds what Alertmanager tells: the version 4 webhook payload,
// and the words derived from it, signal and observation.
//
// It is a leaf: it imports nothing of this module.
package alert

import (
	"maps"
	"time"
)

// Status is the state of one alert as a sender reported it.
type Status string

// The two states that Alertmanager reports.
const (
	Firing   Status = "firing"
	Resolved Status = "resolved"
)

// Alert is one alert of a webhook. Label and annotation values are untrusted
// input: they are never interpreted by a shell and links are never fetched.
type Alert struct {
	Status       Status            `json:"status"`
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	StartsAt     time.Time         `json:"startsAt"`
	EndsAt       time.Time         `json:"endsAt,omitzero"`
	GeneratorURL string            `json:"generatorURL,omitempty"`
	Fingerprint  string            `json:"fingerprint"`
}

// Name returns the alertname label, or "" when the alert has none.
func (a Alert) Name() string { return a.Labels["alertname"] }

// Clone returns a copy that shares no map with a.
func (a Alert) Clone() Alert {
	a.Labels = maps.Clone(a.Labels)
	a.Annotations = maps.Clone(a.Annotations)
	return a
}

// Signal identifies an alert across notifications: the authenticated source
// that sends it and Alertmanager's fingerprint of its labels. startsAt is no
// part of it, since Alertmanager moves startsAt and HA peers disagree on it.
type Signal struct {
	Source      string `json:"source"`
	Fingerprint string `json:"fingerprint"`
}
