package opscenter

import (
	"context"
	"fmt"

	"github.com/opscenter-go/sdk/opscenter/warning"
)

// FleetUnreachable reports whether so many servers fail at once that the control plane suspects itself. Meanwhile no
// server becomes offline. A program should begin no operation that depends on the answers of servers.
func (h Observer) FleetUnreachable() bool {
	return h.registry.presence.Guard.Verdict().Unreachable
}

// SetSampling tells the Registry whether a poller polls samples, as SampleSize asks. poller.Run calls it. Without
// samples, the polls of the last window decide whether the fleet counts as unreachable.
func (h Observer) SetSampling(on bool) { h.registry.presence.Guard.SetSampling(on) }

// SampleSize returns how many servers the Registry wants polled at once. Their answers tell an outage of the control
// plane from one of the servers. 0: no sample is wanted. unbiased: any ready servers will do. Otherwise the sample is of
// ready servers that answered last time.
func (h Observer) SampleSize() (n int, unbiased bool) { return h.registry.presence.Guard.SampleSize() }

// BeginSample tells the Registry that a sample is polled now. ids are the IDs of its servers, drawn at random. of is how
// many servers there were to draw from. The sample is smaller than wanted only if of is.
func (h Observer) BeginSample(of int, ids ...string) {
	h.registry.presence.Guard.BeginSample(of, ids...)
}

// warnFleet raises or clears the guard's warning when the guard's verdict has changed.
func (r *Registry) warnFleet(ctx context.Context) error {
	verdict := r.presence.Guard.Verdict()
	on := verdict.Unreachable
	if on == r.presence.Warnings.IsOpen(r.subject(warning.Fleet, "")) {
		return nil
	}
	at := r.now()
	return r.Write(ctx, func(tx *Tx) error {
		if on {
			return tx.raise("", "", warning.Input{Kind: warning.Fleet, Message: fmt.Sprintf("%d of the %d servers asked last fail together: the fault is probably on this side, and no server becomes offline", verdict.Failing, verdict.Asked)}, at)
		}
		return tx.clear("", "", warning.Fleet, at, fmt.Sprintf("%d of the %d servers asked since fail", verdict.Failing, verdict.Asked))
	})
}
