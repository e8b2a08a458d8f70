package opscenter

import (
	"context"
	"fmt"
	"time"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

// localTrouble is when the control plane could not ask a server for a reason of its own.
type localTrouble struct {
	at      time.Duration // the last time, since the Registry began
	any     bool
	message string
	count   int // since the warning was raised
}

// localCalm is how long there must be no such trouble for its warning to be cleared.
const localCalm = time.Minute

// withoutLocal returns the observations that say something of a server, and takes note of the others.
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
			m := &r.memory
			m.mu.Lock()
			m.local.at, m.local.any, m.local.message = m.elapsed(), true, fmt.Sprintf("server %s: %s", o.Server, o.Failure.Message)
			m.local.count++
			m.mu.Unlock()
		}
	}
	if out == nil {
		return observations
	}
	return out
}

// warnLocal raises or clears the warning of local trouble, if it is not as it should be.
func (r *Registry) warnLocal(ctx context.Context) error {
	m := &r.memory
	m.mu.Lock()
	trouble := m.local
	on := trouble.any && m.elapsed()-trouble.at < localCalm
	warned := m.open[warningSubject{warning.Local, ""}] != nil
	if !on {
		m.local.count = 0
	}
	m.mu.Unlock()
	if on == warned {
		return nil
	}
	if !on {
		return r.ClearWarning(ctx, "", warning.Local)
	}
	return r.Warn(ctx, "", warning.Input{Kind: warning.Local, Message: fmt.Sprintf("%d polls failed for a reason on this side, the last: %s", trouble.count, trouble.message)})
}
