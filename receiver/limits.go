package receiver

import (
	"net/http"
	"time"

	"github.com/alertmedic/alertmedic/internal/alert"
)

// Limits are all limits of the webhook, in size and in time. A zero field means
// its default.
//
// Whatever a limit of time or of load refuses is answered 503: Alertmanager
// sends again what was answered 5xx, with back-off, and gives up on 408 and 429.
// Only a body that will be too large the next time too is answered 413.
type Limits struct {
	// MaxBody is the largest body, in bytes. Default 16 MiB: some 10,000 alerts.
	MaxBody int64
	// MaxInFlight is how many bytes of bodies may be held at once, over all
	// requests. A body counts as it arrives, so that a slow sender holds little.
	// Decoding takes about three times as much memory. Default 64 MiB.
	MaxInFlight int64
	// RequestOverhead is what a request counts besides its body, and so bounds
	// the number of requests at once. Default 16 KiB: 4096 requests.
	RequestOverhead int64
	// MaxWaiting is how many webhooks that have arrived may wait for the store at
	// once. Default 1024. Slow senders are not among them: they cannot use it up.
	MaxWaiting int
	// BodyTimeout is how long a body may take to arrive. Default 10 s.
	BodyTimeout time.Duration
	// AcceptTimeout is how long the store may take to commit. It goes on when the
	// sender has gone. Default 10 s.
	AcceptTimeout time.Duration
	// Alert bounds what a webhook and its alerts may hold.
	Alert alert.Limits

	// ReadHeaderTimeout, WriteTimeout, IdleTimeout and MaxHeader are the server's,
	// see Configure. Defaults 5 s, 1 min, 2 min and 64 KiB.
	ReadHeaderTimeout time.Duration
	WriteTimeout      time.Duration
	IdleTimeout       time.Duration
	MaxHeader         int
}

// Configure sets the limits that only the server can hold. WriteTimeout is for
// whole answers; whoever streams moves it along. There is no ReadTimeout, which
// would end streams: whoever reads a body sets its deadline.
func (l Limits) Configure(server *http.Server) {
	l = l.WithDefaults()
	server.ReadHeaderTimeout = l.ReadHeaderTimeout
	server.WriteTimeout = l.WriteTimeout
	server.IdleTimeout = l.IdleTimeout
	server.MaxHeaderBytes = l.MaxHeader
}

// WithDefaults returns the limits with every default filled in.
func (l Limits) WithDefaults() Limits {
	fill(&l.MaxBody, 16<<20)
	fill(&l.MaxInFlight, 64<<20)
	fill(&l.RequestOverhead, 16<<10)
	fill(&l.MaxWaiting, 1024)
	fill(&l.BodyTimeout, 10*time.Second)
	fill(&l.AcceptTimeout, 10*time.Second)
	fill(&l.ReadHeaderTimeout, 5*time.Second)
	fill(&l.WriteTimeout, time.Minute)
	fill(&l.IdleTimeout, 2*time.Minute)
	fill(&l.MaxHeader, 64<<10)
	return l
}

func fill[T int | int64 | time.Duration](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}
