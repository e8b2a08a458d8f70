package smime

import "fmt"

// maxDepth is the maximum nesting of the parts of a signature. A usual signature has eleven levels.
const maxDepth = 16

// maxParts is the maximum number of parts of a signature. A content of 8 MiB has 2,000 parts, and the certificates about a
// hundred. For each part of indefinite length, the library searches for its end again at every part inside it.
const maxParts = 10_000

// openPart is a constructed part whose end was not reached yet.
type openPart struct {
	end        int // end of the part, or of the enclosing part if the length is indefinite
	indefinite bool
	empty      bool
}

// checkDepth walks through a BER encoding and rejects parts that are nested deeper than maxDepth. The library recurses at each
// level: a message of 8 MiB could nest 4 million levels, and end the process by a stack overflow. checkDepth also rejects
// encodings that the library may read differently: a part that is longer than the enclosing one, and an empty part of
// indefinite length.
func checkDepth(ber []byte) error {
	malformed := func(reason string) error { return fmt.Errorf("the signature: %s: %w", reason, ErrMalformed) }
	var parts []openPart
	count := 0
	for at := 0; at < len(ber); {
		end := len(ber)
		if n := len(parts); n > 0 {
			last := &parts[n-1]
			end = last.end
			switch {
			case at > end:
				return malformed("a part is longer than the enclosing part")
			case !last.indefinite && at == end:
				parts = parts[:n-1]
				continue
			case last.indefinite && at+2 <= len(ber) && ber[at] == 0 && ber[at+1] == 0:
				if last.empty {
					return malformed("an empty part has no length")
				}
				parts, at = parts[:n-1], at+2
				continue
			}
			last.empty = false
		}
		if count++; count > maxParts {
			return malformed(fmt.Sprintf("it has more than %d parts", maxParts))
		}
		first := ber[at]
		if at++; first&0x1f == 0x1f {
			for at < len(ber) && ber[at] >= 0x80 {
				at++
			}
			at++
		}
		if at >= len(ber) {
			return malformed("it is cut short")
		}
		length, indefinite := int(ber[at]), ber[at] == 0x80
		if at++; length > 0x80 {
			n := length & 0x7f
			if n > 3 || at+n > len(ber) { // more than 16 MiB
				return malformed("a part has an impossible length")
			}
			length = 0
			for _, b := range ber[at : at+n] {
				length = length<<8 | int(b)
			}
			at += n
		}
		constructed := first&0x20 != 0
		switch {
		case indefinite && !constructed:
			return malformed("a primitive part has no length")
		case indefinite:
			parts = append(parts, openPart{end: end, indefinite: true, empty: true})
		case length > end-at:
			return malformed("it is cut short")
		case constructed:
			parts = append(parts, openPart{end: at + length})
		default:
			at += length
		}
		if len(parts) > maxDepth {
			return malformed(fmt.Sprintf("its parts are nested deeper than %d levels", maxDepth))
		}
	}
	return nil
}
