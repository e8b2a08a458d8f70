package opscenter_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCosts requires each budget and each test that doc.go names.
func TestCosts(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	sources := map[string]string{} // by package
	tests := ""
	require.NoError(t, filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".go" {
			return err
		}
		data, err := os.ReadFile(path)
		if strings.HasSuffix(path, "_test.go") {
			tests += string(data)
		} else {
			sources[filepath.Base(filepath.Dir(path))] += string(data)
		}
		return err
	}))
	names := regexp.MustCompile(`\bTest[A-Z]\w+`).FindAllString(string(doc), -1)
	require.Greater(t, len(names), 25)
	for _, name := range names {
		require.Contains(t, tests, "\nfunc "+name+"(t *testing.T)", name)
	}
	budgets := regexp.MustCompile(`\b(opscenter|incusos|inventory|poller|httpapi|badgerstore)\.((?:Default|Max|Err)\w+|Options\.\w+)`).FindAllStringSubmatch(string(doc), -1)
	require.Greater(t, len(budgets), 25)
	for _, budget := range budgets {
		name := strings.TrimPrefix(budget[2], "Options.")
		require.Regexp(t, `(?m)^\s*(const |var )?`+name+`\b`, sources[budget[1]], budget[0])
	}
}
