package page_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/page"
)

func TestSize(t *testing.T) {
	for limit, size := range map[int]int{-1: 100, 0: 100, 1: 1, 1000: 1000, 1001: 1000} {
		require.Equal(t, size, page.Size(limit), limit)
	}
}

func TestCursor(t *testing.T) {
	for _, key := range []string{"", "server01", "\x00\xff\n", strings.Repeat("x", 63)} {
		back, err := page.Decode(page.Encode(key), 63)
		require.NoError(t, err)
		require.Equal(t, key, back)
	}
	require.Equal(t, "MXNlcnZlcjAx", page.Encode("server01"), "clients keep cursors over a restart")
}

func TestCursorRefused(t *testing.T) {
	for name, cursor := range map[string]string{"empty": "", "no base64": "!!", "of another version": "MnNlcnZlcjAx", "padded": "MQ==", "too long": page.Encode(strings.Repeat("x", 64))} {
		_, err := page.Decode(cursor, 63)
		require.ErrorIs(t, err, page.ErrInvalidCursor, name)
	}
	_, err := page.Decode(strings.Repeat("!", 1000), 63)
	require.Less(t, len(err.Error()), 120)
	_, err = page.Decode("!!", 63)
	require.EqualError(t, err, `cursor "!!": invalid cursor`)
}
