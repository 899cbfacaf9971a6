package guard

import "time"

// Defaults are the limits out of the box. Each is a bound: none is off.
func Defaults() Limits {
	return Limits{
		MaxConcurrentRuns:         1,
		MaxConcurrentGlobal:       5,
		MaxConcurrentPerNamespace: 2,
		CooldownAfterSuccess:      15 * time.Minute,
		CooldownAfterFailure:      time.Hour,
		MaxAttempts:               3,
		AttemptsWindow:            24 * time.Hour,
		MaxUnhealthyNodes:         2,
		MaxUnhealthyNodesPercent:  20,
		Settle:                    time.Minute,
		HumanActivity:             15 * time.Minute,
		GitOps:                    GitOpsDeny,
		WatchdogAge:               10 * time.Minute,
		FailoverDwell:             5 * time.Minute,
		RateGlobal:                Rate{Burst: 10, Every: 2 * time.Minute},
		RateNamespace:             Rate{Burst: 5, Every: 5 * time.Minute},
		RatePlaybook:              Rate{Burst: 5, Every: 5 * time.Minute},
		MaxConcurrentPerPool:      1,
		MaxConcurrentPerZone:      1,
		MaxZones:                  1,
		MaxUnavailablePods:        10,
		MaxUnavailablePodsPercent: 50,
		StormRuns:                 30,
		StormWindow:               10 * time.Minute,
		StormCooldown:             10 * time.Minute,
		ControlPlane:              ControlPlaneProtect,
		MaxNodesPerPool:           3,
		MaxRemovePercent:          25,
		RemoveWindow:              time.Hour,
		MinReplicas:               1,
	}
}
