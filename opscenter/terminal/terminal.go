// Package terminal makes text that comes from servers safe to print. A registered server may be hostile, and chooses
// its name, its facts and its errors: a program that prints them to a terminal prints to Safe(os.Stdout).
package terminal

import (
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Safe returns a writer that passes text on without what a terminal acts on: control characters but line feeds
// and tabs, and characters that change the direction or hide what follows. Each becomes U+FFFD; so does what is not UTF-8.
// A character must not be split over two calls of Write.
func Safe(w io.Writer) io.Writer { return writer{w} }

type writer struct{ w io.Writer }

func (s writer) Write(p []byte) (int, error) {
	if _, err := io.WriteString(s.w, Text(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Text returns the text without what a terminal acts on, as Safe does.
func Text(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case unicode.IsControl(r), unicode.Is(unicode.Cf, r), unicode.Is(unicode.Zl, r), unicode.Is(unicode.Zp, r):
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))
}
