// Package page holds the sizes of pages and the form of cursors that all lists share.
package page

import (
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/opscenter-go/sdk/internal/truncate"
)

// Sizes of pages, in rows.
const (
	DefaultSize = 100
	MaxSize     = 1000
)

// Size returns the size of a page that is asked for with a limit: DefaultSize for 0 and below, and at most MaxSize.
func Size(limit int) int {
	if limit <= 0 {
		return DefaultSize
	}
	return min(limit, MaxSize)
}

// ErrInvalidCursor: Encode has not made the cursor.
var ErrInvalidCursor = errors.New("invalid cursor")

// version is the first byte of each cursor's content. Another content would have another version.
const version = '1'

// Encode makes a cursor of the key of the last row of a page. A cursor is opaque: its content may change with any release.
func Encode(last string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(string(version) + last))
}

// Decode returns the key that a cursor was made of. It refuses a cursor that Encode has not made, and a key of more than
// maxKey bytes. Its error is ErrInvalidCursor with the cursor.
func Decode(cursor string, maxKey int) (string, error) {
	content, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || len(content) == 0 || content[0] != version || len(content)-1 > maxKey {
		return "", Invalid(cursor)
	}
	return string(content[1:]), nil
}

// Invalid returns ErrInvalidCursor with the cursor, for a caller that finds no key of its own in it.
func Invalid(cursor string) error {
	return fmt.Errorf("cursor %q: %w", truncate.Name(cursor), ErrInvalidCursor)
}
