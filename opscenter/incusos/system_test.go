package incusos_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
)

// All members of a cluster present the same certificate, and older releases have no machine ID. Look then checks
// the member's name, and fails if the name differs or can't be read.
func TestLookChecksMemberName(t *testing.T) {
	server, identity := boot(t, incusostest.Options{Release: "202510010000", Version: "202510010000"})
	client := newClient(t, incusos.Options{Certificate: identity})
	where := target(server)
	_, err := client.Look(t.Context(), where)
	require.NoError(t, err)
	other := where
	other.MemberName = "another"
	_, err = client.Look(t.Context(), other)
	require.ErrorIs(t, err, opscenter.ErrUnreachable)
	require.NoError(t, server.SetFault(incusostest.Fault{Kind: incusostest.FaultGarbage, Path: "/1.0", Times: 1}))
	_, err = client.Look(t.Context(), other)
	require.Error(t, err)
}
