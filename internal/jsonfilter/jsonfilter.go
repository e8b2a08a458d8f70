// Package jsonfilter copies JSON documents without some of their members. It works in one pass, without a document tree in
// memory, because every poll runs it.
package jsonfilter

import (
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"
)

// ErrSyntax: the input is not one JSON document, or nests deeper than 1000 levels.
var ErrSyntax = errors.New("not a JSON document")

// maxDepth is the maximum nesting of a document. encoding/json has a higher limit.
const maxDepth = 1000

// Append appends the document src to dst without white space between tokens. It drops each member, at any depth, for whose
// decoded key drop returns true. Invalid UTF-8 becomes U+FFFD. removed reports whether a member was dropped. Errors: ErrSyntax,
// with the position; out is then dst.
func Append(dst, src []byte, drop func(key []byte) bool) (out []byte, removed bool, err error) {
	f := filter{src: src, out: dst, drop: drop}
	f.space()
	if f.value(0) {
		f.space()
		if f.at != len(src) {
			f.fail()
		}
	}
	if f.failed {
		return dst, false, fmt.Errorf("%w: byte %d of %d", ErrSyntax, f.at, len(src))
	}
	return f.out, f.removed, nil
}

// Sum is Append. It also returns the xxhash of the output without the members for whose decoded key exclude returns true, at
// any depth. It takes one pass.
func Sum(dst, src []byte, drop, exclude func(key []byte) bool) (out []byte, sum uint64, err error) {
	f := filter{src: src, out: dst, drop: drop, exclude: exclude}
	f.space()
	if f.value(0) {
		f.space()
		if f.at != len(src) {
			f.fail()
		}
	}
	if f.failed {
		return dst, 0, fmt.Errorf("%w: byte %d of %d", ErrSyntax, f.at, len(src))
	}
	return f.out, f.sum(len(dst)), nil
}

// gap is a range of filter.out that is outside of its sum.
type gap struct{ from, to int }

// sum returns the hash of the output from a position on, without the gaps.
func (f *filter) sum(from int) uint64 {
	var digest xxhash.Digest
	digest.Reset()
	for _, g := range f.gaps {
		_, _ = digest.Write(f.out[from:g.from])
		from = g.to
	}
	_, _ = digest.Write(f.out[from:])
	return digest.Sum64()
}

// filter is the state of one pass over a document. Its methods that read a token return false after a syntax error.
type filter struct {
	src, out []byte
	at       int
	drop     func(key []byte) bool
	exclude  func(key []byte) bool // nil: there is no sum
	gaps     []gap                 // in ascending order, apart from each other
	inner    string                // MembersSum copies the member of this name, to start
	start    int
	found    bool // it was there
	deeper   int  // how far a value may nest beyond maxDepth
	removed  bool
	failed   bool
	skip     bool // write nothing
	keyed    int  // length of the last key, with its quotes
	plain    bool // the last key needs no decoding
}

// put writes a byte.
func (f *filter) put(c byte) {
	if !f.skip {
		f.out = append(f.out, c)
	}
}

// puts writes bytes.
func (f *filter) puts(s []byte) {
	if !f.skip {
		f.out = append(f.out, s...)
	}
}

// fail records a syntax error at f.at.
func (f *filter) fail() bool {
	f.failed = true
	return false
}

// space skips white space.
func (f *filter) space() {
	for f.at < len(f.src) {
		switch f.src[f.at] {
		case ' ', '\t', '\n', '\r':
			f.at++
		default:
			return
		}
	}
}

// next returns the next byte without skipping it, or 0 at the end.
func (f *filter) next() byte {
	if f.at < len(f.src) {
		return f.src[f.at]
	}
	return 0
}

// value copies a value.
func (f *filter) value(depth int) bool {
	if depth > maxDepth+f.deeper {
		return f.fail()
	}
	switch c := f.next(); c {
	case '{':
		return f.object(depth)
	case '[':
		return f.array(depth)
	case '"':
		return f.text()
	case 't':
		return f.word("true")
	case 'f':
		return f.word("false")
	case 'n':
		return f.word("null")
	default:
		if c == '-' || c >= '0' && c <= '9' {
			return f.number()
		}
		return f.fail()
	}
}

// word copies a literal word.
func (f *filter) word(word string) bool {
	if len(f.src)-f.at < len(word) || string(f.src[f.at:f.at+len(word)]) != word {
		return f.fail()
	}
	f.puts(f.src[f.at : f.at+len(word)])
	f.at += len(word)
	return true
}

// digits skips digits, and reports whether there was one.
func (f *filter) digits() bool {
	begin := f.at
	for c := f.next(); c >= '0' && c <= '9'; c = f.next() {
		f.at++
	}
	return f.at > begin
}

// number copies a number.
func (f *filter) number() bool {
	begin := f.at
	if f.next() == '-' {
		f.at++
	}
	if f.next() == '0' {
		f.at++
	} else if !f.digits() {
		return f.fail()
	}
	if f.next() == '.' {
		f.at++
		if !f.digits() {
			return f.fail()
		}
	}
	if c := f.next(); c == 'e' || c == 'E' {
		f.at++
		if c := f.next(); c == '+' || c == '-' {
			f.at++
		}
		if !f.digits() {
			return f.fail()
		}
	}
	f.puts(f.src[begin:f.at])
	return true
}

// scan skips a string, and returns it with its quotes. plain: it is ASCII without escapes.
func (f *filter) scan() (text []byte, plain, ok bool) {
	begin := f.at
	plain = true
	for i := f.at + 1; i < len(f.src); i++ {
		switch c := f.src[i]; {
		case c == '"':
			f.at = i + 1
			return f.src[begin:f.at], plain, true
		case c == '\\':
			plain = false
			i++
			if i == len(f.src) {
				f.at = i
				return nil, false, f.fail()
			}
			switch f.src[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				for range 4 {
					i++
					if i == len(f.src) || !hex(f.src[i]) {
						f.at = i
						return nil, false, f.fail()
					}
				}
			default:
				f.at = i
				return nil, false, f.fail()
			}
		case c < ' ':
			f.at = i
			return nil, false, f.fail()
		case c >= utf8.RuneSelf:
			plain = false
		}
	}
	f.at = len(f.src)
	return nil, false, f.fail()
}

// hex reports whether c is a hexadecimal digit.
func hex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

// text copies a string.
func (f *filter) text() bool {
	text, plain, ok := f.scan()
	if ok {
		f.write(text, plain)
	}
	return ok
}

// write writes a string, and replaces its invalid UTF-8.
func (f *filter) write(text []byte, plain bool) {
	if plain || f.skip || utf8.Valid(text) {
		f.puts(text)
		return
	}
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text) // each invalid byte is decoded as U+FFFD
		f.out = utf8.AppendRune(f.out, r)
		text = text[size:]
	}
}

// key skips the key of a member and its colon, and returns the decoded key.
func (f *filter) key() (key []byte, ok bool) {
	if f.next() != '"' {
		return nil, f.fail()
	}
	text, plain, ok := f.scan()
	if !ok {
		return nil, false
	}
	f.keyed, f.plain = len(text), plain
	key = text[1 : len(text)-1]
	if !plain {
		var decoded string
		if json.Unmarshal(text, &decoded) != nil {
			return nil, f.fail()
		}
		key = []byte(decoded)
	}
	f.space()
	if f.next() != ':' {
		return nil, f.fail()
	}
	f.at++
	f.space()
	return key, true
}

// object copies an object without the dropped members.
func (f *filter) object(depth int) bool {
	f.put('{')
	f.at++
	f.space()
	if f.next() == '}' {
		f.at++
		f.put('}')
		return true
	}
	// summed: a member before is part of the sum.
	for first, summed := true, false; ; {
		begin := f.at
		key, ok := f.key()
		if !ok {
			return false
		}
		before, gaps := len(f.out), len(f.gaps)
		dropped := f.drop(key)
		excluded := !dropped && f.exclude != nil && f.exclude(key)
		if !dropped {
			if !first {
				f.put(',')
			}
			if !excluded && f.exclude != nil {
				if !first && !summed {
					f.gaps = append(f.gaps, gap{before, len(f.out)}) // the comma, because only excluded members stand before it
				}
				summed = true
			}
			f.write(f.src[begin:begin+f.keyed], f.plain)
			f.put(':')
			first = false
		}
		if !f.value(depth + 1) {
			return false
		}
		if dropped {
			f.out, f.removed = f.out[:before], true
		}
		if dropped || excluded {
			f.gaps = f.gaps[:gaps]
		}
		if excluded {
			f.gaps = append(f.gaps, gap{before, len(f.out)})
		}
		f.space()
		switch f.next() {
		case ',':
			f.at++
			f.space()
		case '}':
			f.at++
			f.put('}')
			return true
		default:
			return f.fail()
		}
	}
}

// array copies an array.
func (f *filter) array(depth int) bool {
	f.put('[')
	f.at++
	f.space()
	if f.next() == ']' {
		f.at++
		f.put(']')
		return true
	}
	for {
		if !f.value(depth + 1) {
			return false
		}
		f.space()
		switch f.next() {
		case ',':
			f.put(',')
			f.at++
			f.space()
		case ']':
			f.at++
			f.put(']')
			return true
		default:
			return f.fail()
		}
	}
}

// Members calls use for each member of the object src, with its decoded key and its undecoded value. The value is a
// part of src. Errors: ErrSyntax if src is not one JSON object; Members may have called use before.
func Members(src []byte, use func(key, value []byte)) error { return MembersWithin(src, 0, use) }

// MembersWithin is Members for a document that was put together of others: it may nest so many levels deeper.
func MembersWithin(src []byte, levels int, use func(key, value []byte)) error {
	f := filter{src: src, skip: true, deeper: levels, drop: func([]byte) bool { return false }}
	f.space()
	if f.next() == '{' && f.members(use) {
		f.space()
		if f.at == len(src) {
			return nil
		}
	}
	return fmt.Errorf("%w: byte %d of %d", ErrSyntax, f.at, len(src))
}

// members calls use for each member of an object.
func (f *filter) members(use func(key, value []byte)) bool {
	f.at++
	f.space()
	if f.next() == '}' {
		f.at++
		return true
	}
	for {
		key, ok := f.key()
		if !ok {
			return false
		}
		begin := f.at
		if f.exclude != nil && string(key) == f.inner {
			f.out, f.gaps, f.found, f.skip = f.out[:f.start], f.gaps[:0], true, false
			if !f.value(1) {
				return false
			}
			f.skip = true
		} else {
			if !f.value(1) {
				return false
			}
			use(key, f.src[begin:f.at])
		}
		f.space()
		switch f.next() {
		case ',':
			f.at++
			f.space()
		case '}':
			f.at++
			return true
		default:
			return f.fail()
		}
	}
}

// MembersSum is Members, but handles members with the name inner differently. It appends their values to dst as Sum does, and
// does not call use. The last one counts. Without such a member, out is dst and sum is 0.
func MembersSum(dst, src []byte, inner string, drop, exclude func(key []byte) bool, use func(key, value []byte)) (out []byte, sum uint64, err error) {
	f := filter{src: src, out: dst, skip: true, drop: drop, exclude: exclude, inner: inner, start: len(dst)}
	f.space()
	if f.next() == '{' && f.members(use) {
		f.space()
		if f.at == len(src) {
			if !f.found {
				return dst, 0, nil
			}
			return f.out, f.sum(len(dst)), nil
		}
	}
	return dst, 0, fmt.Errorf("%w: byte %d of %d", ErrSyntax, f.at, len(src))
}
