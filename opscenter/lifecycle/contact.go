package lifecycle

import "time"

// Contact tells how the last polls of a server went. It is kept in memory only.
type Contact struct {
	// LastSeen is when the server last answered.
	LastSeen time.Time
	// Failures is how many polls in a row have failed; FirstFailure is the time of the first of these, LastFailure tells
	// of the last one.
	Failures     int
	FirstFailure time.Time
	LastFailure  *Failure
	// AnsweringSince is when the server began to answer. Fewer failures in a row than Policy.OfflineThreshold do not
	// change it.
	AnsweringSince time.Time
	// Good is how many polls in a row found the server ready, and could read its type, its versions and its maintenance
	// state. It begins at 0 again when an action on the server begins or ends.
	Good int
	// Whole is how many polls in a row could read everything. Light polls do not count. It does not grow beyond the number
	// that Apply needs.
	Whole int
	// Acting is how many actions this process carries out on the server. While it is above 0, polls do not end the
	// operation of the state before its deadline: the action does.
	Acting int
}
