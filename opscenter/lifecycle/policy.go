package lifecycle

import "time"

// Policy is the input of Apply that is the same for all servers. The Registry takes it from opscenter.Options, where the
// defaults are.
type Policy struct {
	// OfflineThreshold is how many polls in a row must fail to make a server offline.
	OfflineThreshold int
	// RebootTimeout is how long a server may take to go down, or to be back, if no deadline says otherwise.
	RebootTimeout time.Duration
	// FlapThreshold is how many times a server must become unresponsive within FlapWindow to count as flapping. It then
	// does until it is steady for FlapSteady. At 0 no server counts as flapping.
	FlapThreshold          int
	FlapWindow, FlapSteady time.Duration
	// FleetUnreachable: so many servers fail at once that the fault is probably the control plane's own. No failure makes a
	// server offline.
	FleetUnreachable bool
	// FleetInDoubt: the fleet may be unreachable, and a sample of it is being asked. No failure makes a server offline
	// meanwhile.
	FleetInDoubt bool
}

// frozen reports whether failures make no server offline.
func (p Policy) frozen() bool { return p.FleetUnreachable || p.FleetInDoubt }
