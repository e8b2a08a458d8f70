package lifecycle

import (
	"fmt"
	"time"
)

// bootSlack is how far the clocks of two machines may disagree about when a boot was.
const bootSlack = 5 * time.Second

// BootDrift is by how much the time of a boot must differ from the one known to be another.
const BootDrift = 15 * time.Second

// noteBoot takes in when the server booted, and says so if that was another boot than the one
// known: seen is when it was last in touch. A boot time that moves because a clock was set is none.
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
