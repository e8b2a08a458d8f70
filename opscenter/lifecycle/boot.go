package lifecycle

import (
	"fmt"
	"time"
)

// bootSlack is by how much the clocks of a server and of the control plane may differ.
const bootSlack = 5 * time.Second

// BootDrift is by how much the time of a boot must differ from the known one to be that of another boot.
const BootDrift = 15 * time.Second

// noteBoot stores when the server booted. If that was another boot than the known one, it returns a text about it, else an
// empty one. seen is when the server last answered. A boot time that moves because a clock was set is no other boot.
func (t *Transition) noteBoot(o Observation, seen time.Time) string {
	known := t.State.BootedAt
	if o.BootedAt.IsZero() || !known.IsZero() && o.BootedAt.Sub(known).Abs() <= BootDrift {
		return ""
	}
	t.State.BootedAt = o.BootedAt.Truncate(time.Second)
	uptime, up := o.At.Sub(o.BootedAt), seen.Sub(known)
	if known.IsZero() || o.BootedAt.Before(known) || uptime >= up && !o.BootedAt.After(seen.Add(bootSlack)) {
		return ""
	}
	return fmt.Sprintf("booted at %s, was up since %s", t.State.BootedAt.Format(time.RFC3339), known.Format(time.RFC3339))
}
