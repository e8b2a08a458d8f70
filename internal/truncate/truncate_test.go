package truncate_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/truncate"
)

func TestText(t *testing.T) {
	require.Equal(t, "short", truncate.Text("short", 5))
	require.Equal(t, "long…", truncate.Text("longer", 4))
	require.Equal(t, "a�b", truncate.Text("a\xffb", 10))
	require.True(t, utf8.ValidString(truncate.Text("ääää", 3)), "a character that is cut")
	require.Equal(t, "a…", truncate.Text("a\xffb\xff", 3), "replacement characters count")
	require.Len(t, truncate.Name(strings.Repeat("x", 1000)), truncate.MaxName+len("…"))
}
