package presence

import "time"

// localTrouble counts the polls that failed for a reason of the control plane itself.
type localTrouble struct {
	at      time.Duration // of the last one, since the Presence began
	any     bool
	message string
	count   int // since the warning was raised
}

// localCalm is how long no such poll must fail for the trouble to be over.
const localCalm = time.Minute

// LocalFailure counts a poll that failed for a reason of the control plane itself.
func (p *Presence) LocalFailure(message string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.local.at, p.local.any, p.local.message = p.elapsed(), true, message
	p.local.count++
}

// LocalTrouble reports whether such a poll failed within the last minute. It returns how many have failed since the
// trouble began, and the last message.
func (p *Presence) LocalTrouble() (on bool, count int, message string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	on, count, message = p.local.any && p.elapsed()-p.local.at < localCalm, p.local.count, p.local.message
	if !on {
		p.local.count = 0
	}
	return on, count, message
}
