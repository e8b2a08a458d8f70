// Package truncate shortens texts that come from outside, before they are stored, logged or put into an error.
package truncate

import "strings"

// MaxName is how much of a name or value an error shows, in bytes.
const MaxName = 80

// Text returns a text as valid UTF-8. Bytes that are not UTF-8 become the replacement character. Of a text that is longer
// than limit bytes then, the whole characters within limit remain, with an ellipsis behind them.
func Text(text string, limit int) string {
	whole := len(text) <= limit
	if !whole {
		text = text[:limit] // before all of a long text is read
	}
	text = strings.ToValidUTF8(text, "�")
	if len(text) > limit { // the replacement character has three bytes
		text, whole = strings.ToValidUTF8(text[:limit], ""), false
	}
	if !whole {
		text += "…"
	}
	return text
}

// Name returns Text of at most MaxName bytes: for the name or value that an error is about.
func Name(text string) string { return Text(text, MaxName) }
