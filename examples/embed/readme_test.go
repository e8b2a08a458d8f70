package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const root = "../.."

// documents are the Markdown files of the repository, relative to root.
var documents = []string{"README.md", ".github/CHANGELOG.md", ".github/CONTRIBUTING.md"}

var (
	block   = regexp.MustCompile("(?ms)^ *```.*?^ *```")
	link    = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.+)$`)
	other   = regexp.MustCompile(`[^\w\- ]`) // what GitHub leaves out of anchors
	row     = regexp.MustCompile(`(?m)^\| \[([\w/]+)\]\(([\w/]+)\) \| .+ \|$`)
	command = regexp.MustCompile(`\bgo (?:run|doc) (\./[\w/]+)`)
)

func read(t *testing.T, document string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, document))
	require.NoError(t, err)
	return string(text)
}

// TestReadmeShowsTheProgram: README begins with a program that package controlplane tests. All other Go code in it is part
// of main.go, so it compiles.
func TestReadmeShowsTheProgram(t *testing.T) {
	program, err := os.ReadFile("main.go")
	require.NoError(t, err)
	lines := strings.ReplaceAll(string(program), "\n\t", "\n")
	blocks := regexp.MustCompile("(?ms)^```go\n(.*?)^```").FindAllStringSubmatch(read(t, "README.md"), -1)
	require.Greater(t, len(blocks), 1)
	for _, shown := range blocks[1:] {
		require.Contains(t, lines, "\n"+shown[1])
	}
}

// TestLinks: each relative link in a document leads to a file or a folder, and each anchor to a heading.
func TestLinks(t *testing.T) {
	for _, document := range documents {
		links := link.FindAllStringSubmatch(block.ReplaceAllString(read(t, document), ""), -1)
		require.NotEmpty(t, links, document)
		for _, found := range links {
			target, anchor, anchored := strings.Cut(found[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			path := document
			if target != "" {
				path = filepath.Join(filepath.Dir(document), target)
			}
			_, err := os.Stat(filepath.Join(root, path))
			require.NoErrorf(t, err, "%s links to %s", document, found[1])
			if anchored {
				require.Containsf(t, anchors(read(t, path)), anchor, "%s links to %s", document, found[1])
			}
		}
	}
}

// anchors returns the anchors that GitHub makes of the headings of a document.
func anchors(text string) (out []string) {
	for _, found := range heading.FindAllStringSubmatch(block.ReplaceAllString(text, ""), -1) {
		out = append(out, strings.ReplaceAll(strings.ToLower(other.ReplaceAllString(found[1], "")), " ", "-"))
	}
	return out
}

// TestReadmeListsAllPackages: the table of packages has each package that programs can import, and no other.
func TestReadmeListsAllPackages(t *testing.T) {
	packages := map[string]bool{}
	require.NoError(t, filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := entry.Name(); entry.IsDir() {
			if path != root && (name == "internal" || name == "testdata" || name == "examples" || strings.HasPrefix(name, ".")) {
				return filepath.SkipDir
			}
			return nil
		}
		folder, err := filepath.Rel(root, filepath.Dir(path))
		if folder != "." && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			packages[filepath.ToSlash(folder)] = true
		}
		return err
	}))
	listed := map[string]bool{}
	for _, found := range row.FindAllStringSubmatch(read(t, "README.md"), -1) {
		require.Equal(t, found[1], found[2], "the package and its link")
		require.False(t, listed[found[1]], "%s is listed twice", found[1])
		listed[found[1]] = true
	}
	require.Equal(t, packages, listed)
}

// TestDocumentsNameExistingFolders: the folders in commands of the documents exist.
func TestDocumentsNameExistingFolders(t *testing.T) {
	named := 0
	for _, document := range documents {
		for _, found := range command.FindAllStringSubmatch(read(t, document), -1) {
			require.DirExists(t, filepath.Join(root, found[1]), document)
			named++
		}
	}
	require.Greater(t, named, 4)
}
