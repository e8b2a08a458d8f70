package presence

import "time"

// localTrouble is when the control plane could not ask a server for a reason of its own.
type localTrouble struct {
	at      time.Duration // the last time, since the Presence began
	any     bool
	message string
	count   int // since the warning was raised
}

// localCalm is how long there must be no such trouble for it to be over.
const localCalm = time.Minute

// LocalFailure notes that the control plane could not ask a server for a reason of its own.
func (p *Presence) LocalFailure(message string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.local.at, p.local.any, p.local.message = p.elapsed(), true, message
	p.local.count++
}

// LocalTrouble reports whether the control plane could not ask servers for a reason of its own within the last minute. It
// tells how often that was, and the last message.
func (p *Presence) LocalTrouble() (on bool, count int, message string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	on, count, message = p.local.any && p.elapsed()-p.local.at < localCalm, p.local.count, p.local.message
	if !on {
		p.local.count = 0
	}
	return on, count, message
}
