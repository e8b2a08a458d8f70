package lifecycle

import "time"

// Policy is what Apply needs to know beyond the server. See Options for the defaults.
type Policy struct {
	OfflineThreshold int
	RebootTimeout    time.Duration
	// FlapThreshold outages within FlapWindow make a server flapping, until it is steady for
	// FlapSteady; 0: nothing does.
	FlapThreshold          int
	FlapWindow, FlapSteady time.Duration
	// FleetUnreachable tells that so much of the fleet fails at once that the fault is taken to
	// be the control plane's own: no failure makes a server offline.
	FleetUnreachable bool
	// FleetInDoubt tells that this may be so. A sample decides; no server becomes offline meanwhile.
	FleetInDoubt bool
}

// frozen reports whether failures make no server offline.
func (p Policy) frozen() bool { return p.FleetUnreachable || p.FleetInDoubt }
