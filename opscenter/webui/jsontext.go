package webui

import (
	"encoding/json"
	"strings"
)

// maxShown bounds JSON that a page shows as text, in bytes. A server decides on its depth, and each level costs its indentation in each line.
const maxShown = 128 << 10

// indented returns JSON for people, and its beginning if it is long. Text that is no JSON is returned as it is.
func indented(raw json.RawMessage) string {
	var b strings.Builder
	depth, quoted, escaped := 0, false, false
	line := func() {
		b.WriteByte('\n')
		b.WriteString(strings.Repeat("  ", depth))
	}
	for i, c := range raw {
		if b.Len() > maxShown {
			b.WriteString("\n… the rest is left out here; the API has it")
			break
		}
		switch {
		case quoted:
			b.WriteByte(c)
			quoted = escaped || c != '"'
			escaped = c == '\\' && !escaped
		case c == '"':
			b.WriteByte(c)
			quoted = true
		case c == '{' || c == '[':
			b.WriteByte(c)
			depth++
			if i+1 < len(raw) && raw[i+1] != c+2 { // } and ] come two behind { and [
				line()
			}
		case c == '}' || c == ']':
			depth = max(depth-1, 0)
			if i > 0 && raw[i-1] != c-2 {
				line()
			}
			b.WriteByte(c)
		case c == ',':
			b.WriteByte(c)
			line()
		case c == ':':
			b.WriteString(": ")
		case c == ' ' || c == '\n' || c == '\r' || c == '\t':
		default:
			b.WriteByte(c)
		}
	}
	return strings.ToValidUTF8(b.String(), "\ufffd")
}

// text returns a value of JSON for people.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(raw)
}
