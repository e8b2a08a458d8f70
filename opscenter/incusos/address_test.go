package incusos_test

import (
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// AllowAddress is called with the address to which a host name resolves, at each dial.
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
	require.Equal(t, lifecycle.FailureConnect, o.Failure.Kind)
	require.Contains(t, o.Failure.Message, "no server may be at")
}
