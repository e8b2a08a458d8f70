package incustest_test

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/incustest"
)

// TestRealExample runs examples/inventory with a real daemon. It is here because no example imports a package under internal.
func TestRealExample(t *testing.T) {
	daemon := incustest.Start(t)
	program := filepath.Join(t.TempDir(), "inventory")
	out, err := exec.Command("go", "build", "-o", program, "../../examples/inventory").CombinedOutput()
	require.NoError(t, err, "%s", out)
	out, err = exec.Command(program, "-once", "-url", daemon.URL, "-token", daemon.TrustToken()).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "  projects\n    default\n")
	require.Contains(t, string(out), "no network_address_sets: the daemon has no API extension")
}
