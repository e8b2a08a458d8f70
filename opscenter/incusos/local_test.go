package incusos_test

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
)

const starvedEnv = "OPSCENTER_STARVED"

// TestStarved: a poll for which the process has no descriptor says nothing of the server. The process is one of
// its own, with few.
func TestStarved(t *testing.T) {
	if os.Getenv(starvedEnv) == "" {
		if _, err := exec.LookPath("sh"); err != nil {
			t.Skip("there is no shell to limit what a process may open")
		}
		program, err := os.Executable()
		require.NoError(t, err)
		command := exec.Command("sh", "-c", `ulimit -n 100 && exec "$0" -test.run '^TestStarved$' -test.v`, program)
		command.Env = append(os.Environ(), starvedEnv+"=1")
		out, err := command.CombinedOutput()
		require.NoError(t, err, string(out))
		require.Contains(t, string(out), "--- PASS: TestStarved")
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
	require.Equal(t, opscenter.FailureLocal, o.Failure.Kind, o.Failure.Message)
	require.Nil(t, client.Probe(t.Context(), target(s)).Failure)
}

// TestAllowAddress: what a name leads to is asked about when it is dialled.
func TestAllowAddress(t *testing.T) {
	s, identity := boot(t, incusostest.Options{Name: "sim", Address: "127.0.0.1:0"})
	at := target(s)
	_, port, err := net.SplitHostPort(strings.TrimPrefix(s.URL(), "https://"))
	require.NoError(t, err)
	at.ConnectionURL = "https://localhost:" + port
	require.Nil(t, newClient(t, incusos.Options{Certificate: identity}).Probe(t.Context(), at).Failure)
	rules := opscenter.AddressRules{Deny: opscenter.LoopbackAddresses}
	o := newClient(t, incusos.Options{Certificate: identity, AllowAddress: rules.CheckAddress}).Probe(t.Context(), at)
	require.NotNil(t, o.Failure)
	require.Equal(t, opscenter.FailureConnect, o.Failure.Kind)
	require.Contains(t, o.Failure.Message, "no server may be at")
}
