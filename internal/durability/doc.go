// Package durability proves what alertmedic promises about crashes and faults,
// with real processes against the real control plane. It is a harness for tests
// alone: nothing of the product imports it.
//
//   - [Process] is the built binary, to kill, pause and restart;
//   - [APIProxy] stands between it and the API server, injects faults and
//     remembers what became of every change;
//   - [TCPProxy] cuts, stalls and heals any other connection;
//   - [Monitoring] is a real Prometheus and Alertmanager whose alerts the test
//     switches on and off, and [Relay] hands their webhooks on and remembers
//     every acknowledgement;
//   - [Account] compares all of that with the journal and the API server's audit
//     log and names every contradiction.
//
// ALERTMEDIC_SOAK=1 asks for the long forms; ALERTMEDIC_SOAK_REPORT is the path
// that the accounts are written to, as text and, with .json appended, as JSON.
package durability
