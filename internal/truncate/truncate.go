// Package truncate shortens texts that come from outside, before they are stored, logged or put into an error.
package truncate

import "strings"

// MaxName is how much of a name or value an error shows, in bytes.
const MaxName = 80

// Text returns valid UTF-8 of at most limit bytes of a text, with an ellipsis behind a text that was longer. Bytes that
// are not UTF-8 become the replacement character.
func Text(text string, limit int) string {
	if len(text) > limit {
		text = text[:limit] + "…"
	}
	return strings.ToValidUTF8(text, "�")
}

// Name returns Text of at most MaxName bytes: for the name or value that an error is about.
func Name(text string) string { return Text(text, MaxName) }
