package opscenter

import (
	"context"
	"fmt"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

// withoutLocal removes the observations that failed for a reason of the control plane's own, and counts them.
func (r *Registry) withoutLocal(observations []lifecycle.Observation) []lifecycle.Observation {
	var out []lifecycle.Observation
	for i, o := range observations {
		local := o.Failure != nil && o.Failure.Kind == lifecycle.FailureLocal
		switch {
		case local && out == nil:
			out = append(make([]lifecycle.Observation, 0, len(observations)), observations[:i]...)
		case !local && out != nil:
			out = append(out, o)
		}
		if local {
			r.presence.Local.Failed(fmt.Sprintf("server %s: %s", o.Server, o.Failure.Message))
		}
	}
	if out == nil {
		return observations
	}
	return out
}

// warnLocal raises or clears the warning of local trouble when that has begun or ended.
func (r *Registry) warnLocal(ctx context.Context) error {
	on, count, message := r.presence.Local.Trouble()
	if on == r.presence.Warnings.IsOpen(r.subject(warning.Local, "")) {
		return nil
	}
	if !on {
		return r.Warnings().Clear(ctx, "", warning.Local)
	}
	return r.Warnings().Raise(ctx, "", warning.Input{Kind: warning.Local, Message: fmt.Sprintf("%d polls failed for a reason on this side, the last: %s", count, message)})
}
