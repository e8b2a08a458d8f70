//go:build unix

package incusos_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

const limitedEnv = "OPSCENTER_FEW_DESCRIPTORS"

// A probe that finds no free file descriptor is a local failure, and no failure of the server. The test runs in a
// process of its own with a low limit.
func TestNoFreeDescriptor(t *testing.T) {
	if os.Getenv(limitedEnv) == "" {
		program, err := os.Executable()
		require.NoError(t, err)
		command := exec.Command("sh", "-c", `ulimit -n 100 && exec "$0" -test.run '^TestNoFreeDescriptor$' -test.v`, program)
		command.Env = append(os.Environ(), limitedEnv+"=1")
		out, err := command.CombinedOutput()
		require.NoError(t, err, string(out))
		require.Contains(t, string(out), "--- PASS: TestNoFreeDescriptor")
		return
	}
	s, identity := boot(t, incusostest.Options{Name: "sim"})
	client := newClient(t, incusos.Options{Certificate: identity})
	var taken []*os.File
	for {
		file, err := os.Open(os.DevNull)
		if err != nil {
			break
		}
		taken = append(taken, file)
	}
	o := client.Probe(t.Context(), target(s))
	for _, file := range taken {
		file.Close()
	}
	require.NotNil(t, o.Failure)
	require.Equal(t, lifecycle.FailureLocal, o.Failure.Kind, o.Failure.Message)
	require.Nil(t, client.Probe(t.Context(), target(s)).Failure)
}
