//go:build unix

package badgerstore_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRemovedWhileOpen: nothing is acknowledged into a directory that is not there any more, and the store can be
// closed.
func TestRemovedWhileOpen(t *testing.T) {
	for _, what := range []string{"", "OPSCENTER", "MANIFEST"} {
		dir := filepath.Join(t.TempDir(), "store")
		w := write(t, dir, 0)
		require.Empty(t, w.until(20))
		require.NoError(t, os.RemoveAll(filepath.Join(dir, what)))
		last := w.last
		said := w.until(0)
		require.Contains(t, said, "the store was removed while it was open", what)
		require.LessOrEqual(t, w.last, last+2000, "what was told before it was noticed is in the pipe")
		w.in.Close()
		require.Contains(t, w.until(0), "closed: badgerstore:")
		require.NoError(t, w.process.Wait())
	}
}
