package alert

import "time"

// Limits bound what one webhook may hold. A zero field means its default.
type Limits struct {
	// MaxAlerts is how many alerts of one webhook are looked at; the others
	// count as truncated. Default 10,000.
	MaxAlerts int
	// MaxLabels is how many labels an alert may have. Default 128; Prometheus
	// itself seldom sees 40.
	MaxLabels int
	// MaxLabelName is the longest label name, in bytes. Default 1 KiB.
	MaxLabelName int
	// MaxLabelValue is the longest label value, in bytes. Default 16 KiB.
	MaxLabelValue int
	// MaxAnnotations is how many annotations are kept. Default 128.
	MaxAnnotations int
	// MaxAnnotationValue is where an annotation is cut, in bytes. Default 16 KiB.
	MaxAnnotationValue int
	// MaxDepth is how deep the JSON of an alert may nest. Default 32; a real one
	// nests two.
	MaxDepth int
	// MaxSkew is how far ahead a sender's clock may be before startsAt is set to
	// the time of receipt. Default 5 min.
	MaxSkew time.Duration
}

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		field *int
		value int
	}{
		{&l.MaxAlerts, 10_000},
		{&l.MaxLabels, 128},
		{&l.MaxLabelName, 1 << 10},
		{&l.MaxLabelValue, 16 << 10},
		{&l.MaxAnnotations, 128},
		{&l.MaxAnnotationValue, 16 << 10},
		{&l.MaxDepth, 32},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if l.MaxSkew <= 0 {
		l.MaxSkew = 5 * time.Minute
	}
	return l
}
