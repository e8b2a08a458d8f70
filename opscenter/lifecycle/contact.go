package lifecycle

import "time"

// Contact is what is known of the polls of a server, in memory only.
type Contact struct {
	LastSeen     time.Time
	Failures     int // consecutive ones
	FirstFailure time.Time
	LastFailure  *Failure
	// AnsweringSince is when the first of the answers since the last failure came.
	AnsweringSince time.Time
	// Good is how many polls in a row found it ready, and could read its type, its versions and
	// its membership, since the last action on it began or ended.
	Good int
	// Whole is how many polls in a row read everything, as far as it matters: light ones don't count.
	Whole int
	// Acting counts the actions this process carries out on the server: while there are any,
	// they, and no poll before the deadline, say when the state's Operation ends.
	Acting int
}
