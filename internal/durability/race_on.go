//go:build race

package durability

// raceEnabled builds the service with the race detector when the tests are.
const raceEnabled = true
