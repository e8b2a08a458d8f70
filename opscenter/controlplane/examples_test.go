package controlplane_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestExamplesImportNothingInternal: a program outside can begin as a copy of an example, or of one of its tests.
func TestExamplesImportNothingInternal(t *testing.T) {
	files := 0
	require.NoError(t, filepath.WalkDir("../../examples", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".go" {
			return err
		}
		files++
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		require.NoError(t, err)
		for _, one := range parsed.Imports {
			imported, err := strconv.Unquote(one.Path.Value)
			require.NoError(t, err)
			require.NotContains(t, strings.Split(imported, "/"), "internal", path)
		}
		return nil
	}))
	require.Greater(t, files, 10)
}
