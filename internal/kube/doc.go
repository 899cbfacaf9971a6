// Package kube is alertmedic's view of a Kubernetes cluster: clients that
// impersonate a playbook's ServiceAccount, resolution of an alert's labels to a
// live object, the built-in health check of each target kind, the evidence that
// the guards decide by, and Events on the target.
//
// It only reads, apart from Events and access reviews: changes are made by the
// actions, through a Session. Everything here is safe for concurrent use, and
// every call ends within a bound of its own when its context has none.
package kube
