package httpapi_test

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The program in README is the Example, which compiles, and has at most 30 lines.
func TestReadmeShowsTheExample(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	example, err := os.ReadFile("example_test.go")
	require.NoError(t, err)
	_, shown, ok := strings.Cut(string(readme), "```go\n")
	require.True(t, ok)
	shown, _, _ = strings.Cut(shown, "\n```")
	lines := strings.Split(shown, "\n")
	require.LessOrEqual(t, len(lines), 30)
	for i, line := range lines {
		if line != "" {
			lines[i] = "\t" + line
		}
	}
	require.Contains(t, string(example), "func Example() {\n"+strings.Join(lines, "\n")+"\n}\n")
}
