package opscenter_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// TestWhoMayPresentWhat: every cell of the table in machine.go, for a server that says to be where another one is.
// server00 is the victim, a member of cluster c1 whose certificate is the 50th; server01 is the one that is looked at.
func TestWhoMayPresentWhat(t *testing.T) {
	clusterCertificate, accepted, public := certificate(50), certificate(51), certificate(52)
	presents := []struct {
		name        string
		fingerprint string
		trust       string
		prepare     func(t *testing.T, w *world)
		// by what machine ID is told it is accepted.
		own, none, unknown bool
	}{
		{name: "its own", fingerprint: opscenter.Fingerprint(certificate(1)), own: true, none: true, unknown: true},
		{name: "its cluster's, by an operator's word", fingerprint: opscenter.Fingerprint(clusterCertificate), own: true, none: true,
			prepare: func(t *testing.T, w *world) { require.NoError(t, w.AddClusterMembers(t.Context(), "c1", "server01")) }},
		{name: "its cluster's, found by polls", fingerprint: opscenter.Fingerprint(clusterCertificate), own: true,
			prepare: func(t *testing.T, w *world) {
				info := w.get(t, "server01")
				o := failed(info)
				o.Presented, o.Failure.Kind = opscenter.Fingerprint(clusterCertificate), lifecycle.FailureCertificate
				w.observe(t, o)
				require.Equal(t, o.Presented, w.get(t, "server01").ServedFingerprint)
				require.Empty(t, w.get(t, "server01").Target().ServedFingerprint, "only for polls")
			}},
		{name: "one that an operator accepted", fingerprint: opscenter.Fingerprint(accepted), own: true, none: true,
			prepare: func(t *testing.T, w *world) {
				require.NoError(t, w.AcceptCertificate(t.Context(), "server01", opscenter.Fingerprint(accepted)))
			}},
		{name: "one that is publicly trusted", fingerprint: opscenter.Fingerprint(public), trust: "it is publicly trusted for x", own: true, none: true},
		{name: "the victim's", fingerprint: opscenter.Fingerprint(certificate(0))},
	}
	machines := []struct {
		name, id string
		want     func(own, none, unknown bool) bool
	}{
		{"its own", machineID(1), func(own, _, _ bool) bool { return own }},
		{"its own, in capitals", fmt.Sprintf("%032X", 0xabc000+1), func(own, _, _ bool) bool { return own }},
		{"none", "", func(_, none, _ bool) bool { return none }},
		{"what is no machine ID", "what", func(_, none, _ bool) bool { return none }},
		{"one of no record", machineID(9), func(_, _, unknown bool) bool { return unknown }},
		{"the victim's", machineID(0), func(_, _, _ bool) bool { return false }}, // but with its own certificate
	}
	for _, p := range presents {
		for _, m := range machines {
			for _, member := range []string{"server01", "server00"} {
				t.Run(p.name+", machine "+m.name+", member "+member, func(t *testing.T) {
					w := newWorld(t, memstore.New(memstore.Options{DetectMutation: true}), opscenter.Options{AdoptMembers: true})
					w.ready(t, 0)
					info := w.add(t, 1)
					_, err := w.CreateCluster(t.Context(), "c1", opscenter.ClusterSpec{}, "server00")
					require.NoError(t, err)
					require.NoError(t, w.Write(t.Context(), func(tx *opscenter.Tx) error { return tx.SetClusterCertificate("c1", clusterCertificate) }))
					if p.prepare != nil {
						p.prepare(t, w)
					}
					o := answer(info)
					o.Presented, o.Trust, o.MachineID, o.MemberName = p.fingerprint, p.trust, m.id, &member
					w.observe(t, o)
					now := w.get(t, "server01")
					want := m.want(p.own, p.none, p.unknown) || p.name == "its own"
					if member == "server00" && (p.fingerprint == opscenter.Fingerprint(clusterCertificate)) {
						want = false // it answers as the other member
					}
					if want {
						require.Equal(t, ready, now.State.Status, "%+v", w.warnings(t))
						require.NotContains(t, w.warnings(t)["server01"], warning.Identity)
						require.False(t, now.State.Unproven)
						return
					}
					require.NotEqual(t, ready, now.State.Status)
					require.Contains(t, w.warnings(t)["server01"], warning.Identity)
					require.Empty(t, now.Target().ServedFingerprint)
					require.Empty(t, now.State.MemberName, "the values of another machine are not stored")
					require.Equal(t, ready, w.get(t, "server00").State.Status, "the victim is as it was")
					require.Empty(t, w.warnings(t)["server00"])
					// Once it is there itself, all is well.
					again := answer(info)
					own := "server01"
					again.Presented, again.MachineID, again.MemberName = now.Fingerprint, machineID(1), &own
					w.observe(t, again)
					require.Equal(t, ready, w.get(t, "server01").State.Status)
					require.Empty(t, w.warnings(t)["server01"])
				})
			}
		}
	}
}

// TestPublicURLIsAnOperatorsWord: a public URL that a server gives itself extends no trust.
func TestPublicURLIsAnOperatorsWord(t *testing.T) {
	w := memoryWorld(t)
	reg := registration(0, w.token(t, 1))
	reg.PublicConnectionURL = "https://incus.example.org"
	_, err := w.Register(t.Context(), reg)
	require.NoError(t, err)
	trusted := func() string { return w.get(t, "server00").ProbeTarget().PublicConnectionURL }
	edit := func(change func(*opscenter.ServerSpec)) {
		require.NoError(t, w.EditServer(t.Context(), "server00", func(_ *opscenter.ServerInfo, spec *opscenter.ServerSpec) error {
			change(spec)
			return nil
		}))
	}
	require.Equal(t, "https://incus.example.org", w.get(t, "server00").PublicConnectionURL)
	require.Empty(t, trusted())
	edit(func(spec *opscenter.ServerSpec) { spec.Description = "edited, and nothing is said of the URL" })
	require.Empty(t, trusted())
	edit(func(spec *opscenter.ServerSpec) { spec.PublicURLTrusted = true })
	require.Equal(t, "https://incus.example.org", trusted())
	edit(func(spec *opscenter.ServerSpec) { spec.Description = "again" })
	require.Equal(t, "https://incus.example.org", trusted())
	edit(func(spec *opscenter.ServerSpec) { spec.PublicURLTrusted = false })
	require.Empty(t, trusted())
	edit(func(spec *opscenter.ServerSpec) { spec.PublicConnectionURL = "https://other.example.org" })
	require.Equal(t, "https://other.example.org", trusted())
	edit(func(spec *opscenter.ServerSpec) { spec.PublicConnectionURL = "" })
	require.False(t, w.get(t, "server00").PublicURLTrusted)

	announced, err := w.PreRegister(t.Context(), opscenter.PreRegistration{Name: "expected", ServerSpec: opscenter.ServerSpec{PublicConnectionURL: "https://incus.example.org"}})
	require.NoError(t, err)
	require.True(t, announced.PublicURLTrusted)
}

// movedMember returns server01 as it was in cluster c1, and has it say that it is at another address.
func movedMember(t *testing.T) (*world, *opscenter.ServerInfo) {
	w := memoryWorld(t)
	w.ready(t, 0)
	info := w.ready(t, 1)
	_, err := w.CreateCluster(t.Context(), "c1", opscenter.ClusterSpec{}, "server00", "server01")
	require.NoError(t, err)
	require.NoError(t, w.Write(t.Context(), func(tx *opscenter.Tx) error { return tx.SetClusterCertificate("c1", certificate(50)) }))
	require.NoError(t, w.SelfUpdate(t.Context(), certificate(1), opscenter.SelfUpdate{ConnectionURL: "https://localhost:8443"}))
	return w, info
}

// TestMovedIsNotProven: where a server with a cluster's certificate says that it has moved, nothing is done before a
// poll has found it there.
func TestMovedIsNotProven(t *testing.T) {
	w, info := movedMember(t)
	moved := w.get(t, "server01")
	require.True(t, moved.State.Unproven)
	require.Empty(t, moved.Target().ServedFingerprint)
	require.NotEmpty(t, moved.ProbeTarget().ServedFingerprint)
	o := answer(info)
	o.Presented, o.MachineID = opscenter.Fingerprint(certificate(50)), machineID(0)
	w.observe(t, o)
	require.True(t, w.get(t, "server01").State.Unproven)
	require.Contains(t, w.warnings(t)["server01"], warning.Identity)
	o = answer(info)
	o.Presented, o.MachineID = opscenter.Fingerprint(certificate(50)), machineID(1)
	w.observe(t, o)
	require.False(t, w.get(t, "server01").State.Unproven)
	require.NotEmpty(t, w.get(t, "server01").Target().ServedFingerprint)
	require.ErrorIs(t, w.AcceptCertificate(t.Context(), "server01", opscenter.Fingerprint(certificate(0))), opscenter.ErrIdentityTaken)
}

// TestMachineIDIsLearned: of a server that did not tell its machine ID, the ID that comes with its own certificate is
// recorded, and no other server can register with it. An ID that another server registered with stays that server's.
func TestMachineIDIsLearned(t *testing.T) {
	w := memoryWorld(t)
	add := func(n int) *opscenter.ServerInfo {
		reg := registration(n, w.token(t, 1))
		reg.MachineID, reg.SystemUUID = "", ""
		_, err := w.Register(t.Context(), reg)
		require.NoError(t, err)
		return w.get(t, reg.Name)
	}
	info := add(0)
	o := answer(info)
	o.Presented, o.MachineID = info.Fingerprint, machineID(0)
	w.observe(t, o)
	require.Equal(t, machineID(0), w.get(t, "server00").MachineID)
	reg := registration(1, w.token(t, 1))
	reg.MachineID = machineID(0)
	_, err := w.Register(t.Context(), reg)
	require.ErrorIs(t, err, opscenter.ErrIdentityTaken)

	w.add(t, 2)
	victim := add(3)
	o = answer(victim)
	o.Presented, o.MachineID = victim.Fingerprint, machineID(2) // which server02 has claimed
	w.observe(t, o)
	require.Equal(t, ready, w.get(t, "server03").State.Status, "it has its key")
	require.Empty(t, w.get(t, "server03").MachineID)
}

// TestMemberIsAskedAnew: without a machine ID, which member answers with the cluster's certificate is looked at each
// time, and where that could not be read, nothing is proven.
func TestMemberIsAskedAnew(t *testing.T) {
	w, info := movedMember(t)
	o := answer(info)
	o.Presented, o.MemberName = opscenter.Fingerprint(certificate(50)), nil
	w.observe(t, o)
	require.True(t, w.get(t, "server01").State.Unproven)
	other := "server00"
	o = answer(info)
	o.Presented, o.MemberName = opscenter.Fingerprint(certificate(50)), &other
	w.observe(t, o)
	require.Contains(t, w.warnings(t)["server01"], warning.Identity)
}
