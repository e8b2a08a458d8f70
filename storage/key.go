package storage

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Key is a sequence of parts in an encoding that keeps their order under
// [bytes.Compare], and in which no part is a prefix of another: "c1" and "c1\x00y"
// stay apart. The zero value is the empty key, the prefix of all.
//
// Building a key never writes into the memory of the key it extends.
type Key []byte

// Part tags. They order the kinds among themselves and make keys readable in errors.
const (
	tagString = 0x02
	tagUint   = 0x03
	tagTime   = 0x04

	escape     = 0x00 // a NUL byte of a string is written as escape, escaped
	escaped    = 0xff
	terminator = 0x01 // the end of a string is written as escape, terminator
)

// StringKey is Key(nil).Str(s).
func StringKey(s string) Key { return Key(nil).Str(s) }

// UintKey is Key(nil).Uint(n).
func UintKey(n uint64) Key { return Key(nil).Uint(n) }

// String returns k, shown as its parts joined by "/", for errors and logs.
// Use [Key.Str] to append a string part.
func (k Key) String() string {
	var parts []string
	rest := []byte(k)
	for len(rest) > 0 {
		part, n := decodePart(rest)
		if n == 0 {
			parts = append(parts, fmt.Sprintf("0x%x", rest))
			break
		}
		parts = append(parts, part)
		rest = rest[n:]
	}
	return strings.Join(parts, "/")
}

// Str returns k extended by a string.
func (k Key) Str(s string) Key {
	out := make(Key, len(k), len(k)+len(s)+3)
	copy(out, k)
	return out.appendString(s)
}

// appendString writes a string part behind k, in place where there is room.
func (k Key) appendString(s string) Key {
	k = append(k, tagString)
	for {
		i := strings.IndexByte(s, escape)
		if i < 0 {
			break
		}
		k = append(k, s[:i]...)
		k = append(k, escape, escaped)
		s = s[i+1:]
	}
	k = append(k, s...)
	return append(k, escape, terminator)
}

// StringsKey is the key of several strings, as StringKey(parts[0]).Str(parts[1]) and so on, in
// one piece of memory.
func StringsKey(parts ...string) Key {
	size := 0
	for _, s := range parts {
		size += len(s) + 3 + strings.Count(s, "\x00")
	}
	out := make(Key, 0, size)
	for _, s := range parts {
		out = out.appendString(s)
	}
	return out
}

// Uint returns k extended by a number; numbers order by value.
func (k Key) Uint(n uint64) Key {
	out := make(Key, len(k), len(k)+9)
	copy(out, k)
	out = append(out, tagUint)
	return binary.BigEndian.AppendUint64(out, n)
}

// Time returns k extended by an instant, with nanosecond precision; the zero time comes first.
func (k Key) Time(t time.Time) Key {
	out := make(Key, len(k), len(k)+13)
	copy(out, k)
	out = append(out, tagTime)
	var sec int64
	var nsec uint32
	if !t.IsZero() {
		sec, nsec = t.Unix(), uint32(t.Nanosecond())
	} else {
		sec = -1 << 63
	}
	out = binary.BigEndian.AppendUint64(out, uint64(sec)^(1<<63))
	return binary.BigEndian.AppendUint32(out, nsec)
}

// StrPrefix returns the prefix of all keys that extend k by a string that starts with s.
func (k Key) StrPrefix(s string) Key {
	full := k.Str(s)
	return full[:len(full)-2]
}

// Join returns k extended by all parts of other.
func (k Key) Join(other Key) Key {
	out := make(Key, 0, len(k)+len(other))
	return append(append(out, k...), other...)
}

// HasPrefix reports whether k begins with p.
func (k Key) HasPrefix(p Key) bool { return bytes.HasPrefix(k, p) }

// Equal reports whether both keys are the same.
func (k Key) Equal(other Key) bool { return bytes.Equal(k, other) }

// Compare orders keys as a store does.
func (k Key) Compare(other Key) int { return bytes.Compare(k, other) }

// Clone returns a copy.
func (k Key) Clone() Key { return append(Key(nil), k...) }

// FirstString returns the first part, if it is a string: the way back from
// the key of a [Change] to the name it was made of.
func (k Key) FirstString() (string, bool) {
	if len(k) == 0 || k[0] != tagString {
		return "", false
	}
	s, n := decodeString(k[1:])
	return s, n > 0
}

// FirstUint returns the first part, if it is a number: the way back from the key of a [Change] to the
// number of a row in a log.
func (k Key) FirstUint() (uint64, bool) {
	if len(k) < 9 || k[0] != tagUint {
		return 0, false
	}
	return binary.BigEndian.Uint64(k[1:9]), true
}

// after returns the smallest key that is greater than every key with prefix k, or nil if there is none.
func (k Key) after() Key {
	out := k.Clone()
	for i := len(out) - 1; i >= 0; i-- {
		if out[i] < 0xff {
			out[i]++
			return out[:i+1]
		}
	}
	return nil
}

// decodePart returns the first part of b for people to read, and its length; 0 if it is none of ours.
func decodePart(b []byte) (string, int) {
	switch {
	case b[0] == tagString:
		s, n := decodeString(b[1:])
		if n == 0 {
			return "", 0
		}
		if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			s = strconv.Quote(s)
		}
		return s, n + 1
	case b[0] == tagUint && len(b) >= 9:
		return strconv.FormatUint(binary.BigEndian.Uint64(b[1:9]), 10), 9
	case b[0] == tagTime && len(b) >= 13:
		sec := int64(binary.BigEndian.Uint64(b[1:9]) ^ (1 << 63))
		if sec == -1<<63 {
			return "zero time", 13
		}
		return time.Unix(sec, int64(binary.BigEndian.Uint32(b[9:13]))).UTC().Format(time.RFC3339Nano), 13
	}
	return "", 0
}

// decodeString reads an escaped string and returns how many bytes it took, 0 if it has no end.
func decodeString(b []byte) (string, int) {
	var out []byte
	for i := 0; i < len(b); i++ {
		if b[i] != escape {
			out = append(out, b[i])
			continue
		}
		if i+1 == len(b) {
			return "", 0
		}
		switch b[i+1] {
		case terminator:
			return string(out), i + 2
		case escaped:
			out = append(out, escape)
			i++
		default:
			return "", 0
		}
	}
	return "", 0
}
