package terminal_test

import (
	"bytes"
	"fmt"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/terminal"
)

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"web-01\tläuft\n":           "web-01\tläuft\n",
		"\x1b]0;owned\x07":          "\uFFFD]0;owned\uFFFD",
		"a\x1b[2Jb":                 "a\uFFFD[2Jb",
		"\r\b\x00\x7f":              "\uFFFD\uFFFD\uFFFD\uFFFD",
		"\u009b31m":                 "\uFFFD31m",
		"\x9b31m":                   "\uFFFD31m",
		"\u202egnp.exe\u2066\u200b": "\uFFFDgnp.exe\uFFFD\uFFFD",
		"\u2028":                    "\uFFFD",
	} {
		require.Equal(t, want, terminal.Text(in))
	}
	var out bytes.Buffer
	n, err := fmt.Fprintf(terminal.Safe(&out), "name %s\n", "\x1b[31mred")
	require.NoError(t, err)
	require.Equal(t, len("name \x1b[31mred\n"), n)
	require.Equal(t, "name \uFFFD[31mred\n", out.String())
}

func FuzzText(f *testing.F) {
	f.Add("\x1b[31m\u202e\x9b")
	f.Fuzz(func(t *testing.T, in string) {
		out := terminal.Text(in)
		require.Equal(t, out, terminal.Text(out))
		for _, r := range out {
			if r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)) {
				t.Fatalf("%q has %U", out, r)
			}
		}
	})
}
