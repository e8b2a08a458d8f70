package apicheck_test

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/apicheck"
)

var update = flag.Bool("update", false, "write the listings anew")

const root = "../.."

// golden is the file with the listing of a package.
func golden(t *testing.T, dir string) string {
	t.Helper()
	name, err := filepath.Rel(root, dir)
	require.NoError(t, err)
	return filepath.Join("testdata", strings.ReplaceAll(filepath.ToSlash(name), "/", ".")+".txt")
}

// TestAPI compares the exported API of each package with its listing. To accept a change:
//
//	go test ./internal/apicheck -update
func TestAPI(t *testing.T) {
	dirs, err := apicheck.Packages(root)
	require.NoError(t, err)
	require.Greater(t, len(dirs), 20)
	var listed []string
	for _, dir := range dirs {
		api, err := apicheck.Of(dir)
		require.NoError(t, err)
		if api.Text == "" {
			continue
		}
		path := golden(t, dir)
		listed = append(listed, path)
		if *update {
			require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
			require.NoError(t, os.WriteFile(path, []byte(api.Text), 0o644))
		}
		have, err := os.ReadFile(path)
		require.NoError(t, err)
		if string(have) != api.Text {
			t.Errorf("the API of %s differs from %s: if that is wanted, run go test ./internal/apicheck -update, and say it in CHANGELOG\n%s", dir, path, difference(string(have), api.Text))
		}
	}
	all, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	for _, path := range all {
		if slices.Contains(listed, path) {
			continue
		}
		if *update {
			require.NoError(t, os.Remove(path))
		} else {
			t.Errorf("%s is of a package that is gone", path)
		}
	}
}

// difference lists the lines that only one side has.
func difference(before, after string) string {
	var out strings.Builder
	a, b := strings.Split(before, "\n"), strings.Split(after, "\n")
	for _, line := range a {
		if !slices.Contains(b, line) {
			out.WriteString("- " + line + "\n")
		}
	}
	for _, line := range b {
		if !slices.Contains(a, line) {
			out.WriteString("+ " + line + "\n")
		}
	}
	return out.String()
}

// TestSurface bounds how much there is to learn of package opscenter.
func TestSurface(t *testing.T) {
	api, err := apicheck.Of(filepath.Join(root, "opscenter"))
	require.NoError(t, err)
	require.LessOrEqual(t, api.Names, 250, "exported names of package opscenter")
	require.LessOrEqual(t, api.Methods["Registry"], 40, "methods of Registry")
	require.Greater(t, api.Methods["Registry"], 30)
}

// TestOf: bodies, comments and unexported members are no part of an API.
func TestOf(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("package x\n"+text), 0o600))
	}
	write("a.go", "// A is one.\ntype A struct {\n\tB int // b\n\tc int\n}\n\nfunc (a *A) D() int { return a.c }\n\nfunc (a *A) e() {}\n\ntype f struct{}\n\nfunc (f) G() {}\n\nconst H = 1\n\nconst i = 2\n")
	write("a_test.go", "func J() {}\n")
	api, err := apicheck.Of(dir)
	require.NoError(t, err)
	require.Equal(t, "const H = 1\nfunc (a *A) D() int\ntype A struct {\n\tB int\n\t// contains filtered or unexported fields\n}\n", api.Text)
	require.Equal(t, 3, api.Names)
	require.Equal(t, map[string]int{"A": 1}, api.Methods)
}
