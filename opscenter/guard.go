package opscenter

import (
	"context"
	"fmt"

	"github.com/opscenter-go/sdk/opscenter/internal/presence"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

// FleetUnreachable reports whether so much of the fleet fails at once that the control plane suspects itself. No server
// becomes offline then, and nothing should be begun that counts on the answers of servers.
func (h Observer) FleetUnreachable() bool {
	verdict, _, _ := h.registry.presence.Guard()
	return verdict.Unreachable
}

// SetSampling tells the Registry whether a poller asks samples, as SampleSize wants them. poller.Run sets it. Without
// samples, the polls of the last window decide whether the fleet counts as unreachable.
func (h Observer) SetSampling(on bool) { h.registry.presence.SetSampling(on) }

// SampleSize returns of how many servers the Registry wants to know at once whether they answer, to tell an outage of
// its own from one of theirs; 0: of none. unbiased: any ready servers are wanted; else any of those that answered last
// time.
func (h Observer) SampleSize() (n int, unbiased bool) { return h.registry.presence.SampleSize() }

// BeginSample says which servers, by their IDs, are asked now, as SampleSize wants it: drawn by chance out of so many, and
// fewer than wanted only where there are no more.
func (h Observer) BeginSample(of int, ids ...string) { h.registry.presence.BeginSample(of, ids...) }

// warnFleet raises or clears the warning of the guard, if it is not as it should be.
func (r *Registry) warnFleet(ctx context.Context) error {
	verdict, asked, failing := r.presence.Guard()
	on := verdict.Unreachable
	if on == r.presence.IsOpen(presence.Subject{Kind: warning.Fleet}) {
		return nil
	}
	at := r.now()
	return r.Write(ctx, func(tx *Tx) error {
		if on {
			return tx.raise("", "", warning.Input{Kind: warning.Fleet, Message: fmt.Sprintf("%d of the %d servers asked last fail together: the fault is taken to be on this side, and no server becomes offline", failing, asked)}, at)
		}
		return tx.clear("", "", warning.Fleet, at, fmt.Sprintf("%d of the %d servers asked since fail", failing, asked))
	})
}
