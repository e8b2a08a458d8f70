package presence

import "time"

// Local is the handle that counts the polls that failed for a reason of the control plane itself.
type Local struct {
	p       *Presence
	at      time.Duration // of the last one, since the Presence began
	any     bool
	message string
	count   int // since the warning was raised
}

// localCalm is how long no such poll must fail for the trouble to be over.
const localCalm = time.Minute

// Failed counts a poll that failed for a reason of the control plane itself.
func (l *Local) Failed(message string) {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	l.at, l.any, l.message = l.p.Elapsed(), true, message
	l.count++
}

// Trouble reports whether such a poll failed within the last minute. It returns how many have failed since the
// trouble began, and the last message.
func (l *Local) Trouble() (on bool, count int, message string) {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	on, count, message = l.any && l.p.Elapsed()-l.at < localCalm, l.count, l.message
	if !on {
		l.count = 0
	}
	return on, count, message
}
