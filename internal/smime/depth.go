package smime

import "fmt"

// maxDepth is how deep the parts of a signature may lie in one another; eleven are usual.
const maxDepth = 16

// maxParts is how many parts a signature may have; a content of 8 MiB has 2,000, and the certificates some hundred. The
// library looks for the end of a part without one anew at each part in it.
const maxParts = 10_000

// open is a part that holds parts, and has not ended.
type open struct {
	end        int // of the part, or if it tells none, of the one around it
	indefinite bool
	empty      bool
}

// checkDepth walks through a BER encoding, and refuses parts that lie deeper than maxDepth. The library follows each
// depth by a call of its own: a message of 8 MiB could hold 4 million, and end the process. What the library may
// read otherwise than it is walked through here is refused, too: parts that are longer than the one around them,
// and empty ones that tell no end.
func checkDepth(ber []byte) error {
	malformed := func(what string) error { return fmt.Errorf("the signature: %s: %w", what, ErrMalformed) }
	var parts []open
	count := 0
	for at := 0; at < len(ber); {
		end := len(ber)
		if n := len(parts); n > 0 {
			last := &parts[n-1]
			end = last.end
			switch {
			case at > end:
				return malformed("a part is longer than the one around it")
			case !last.indefinite && at == end:
				parts = parts[:n-1]
				continue
			case last.indefinite && at+2 <= len(ber) && ber[at] == 0 && ber[at+1] == 0:
				if last.empty {
					return malformed("an empty part without an end")
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
			return malformed("it is cut")
		}
		length, indefinite := int(ber[at]), ber[at] == 0x80
		if at++; length > 0x80 {
			n := length & 0x7f
			if n > 3 || at+n > len(ber) { // more than 16 MiB
				return malformed("a length that can't be")
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
			return malformed("a part without an end")
		case indefinite:
			parts = append(parts, open{end: end, indefinite: true, empty: true})
		case length > end-at:
			return malformed("it is cut")
		case constructed:
			parts = append(parts, open{end: at + length})
		default:
			at += length
		}
		if len(parts) > maxDepth {
			return malformed(fmt.Sprintf("its parts lie more than %d deep in one another", maxDepth))
		}
	}
	return nil
}
