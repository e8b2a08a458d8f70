package system_test

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/network"
	"github.com/opscenter-go/sdk/opscenter/system"
)

// requireUnclaimed requires that a server, or a cluster, is not reserved.
func (p *plane) requireUnclaimed(unit string, cluster bool) {
	p.t.Helper()
	require.NoError(p.t, p.Registry.Read(p.t.Context(), func(s *opscenter.Snapshot) error {
		claim, err := s.ClaimOf(unit, cluster)
		require.Nil(p.t, claim)
		return err
	}))
}

// TestLostServer: an operator deletes a dead server by force during a change, and the change ends.
func TestLostServer(t *testing.T) {
	p := newPlane(t, system.Options{})
	a := p.boot(incusostest.Options{Name: "a"})
	id := p.server("a").ID
	a.OnMove(func() {
		a.OnMove(nil, nil)
		a.Crash()
		require.ErrorIs(t, p.Registry.DeleteServer(t.Context(), "a", false), opscenter.ErrBusy)
		require.NoError(t, p.Registry.DeleteServer(t.Context(), "a", true))
	}, nil)
	c, err := p.systems.EditNetwork(t.Context(), "a", network.Edit{Interface: "inst0", AddVLANTags: []int{300}}, system.ApplyOptions{})
	require.ErrorIs(t, err, system.ErrLost)
	require.Contains(t, err.Error(), "the server was removed")
	stored, err := p.systems.Change(t.Context(), c.ID)
	require.NoError(t, err)
	require.Equal(t, system.StatusLost, stored.Status)
	require.False(t, stored.EndedAt.IsZero())
	p.requireUnclaimed(id, false)
}

// TestLostMember: an operator removes a dead member by force during a batch, and the batch stops. The other members
// are not changed, and can be changed again.
func TestLostMember(t *testing.T) {
	p := newPlane(t, system.Options{})
	p.cluster("c1", "a", "b")
	a := p.servers["a"]
	a.OnMove(func() {
		a.OnMove(nil, nil)
		a.Crash()
		require.ErrorIs(t, p.Registry.RemoveClusterMembers(t.Context(), "c1", opscenter.MemberRemoval{}, "a"), opscenter.ErrBusy)
		require.NoError(t, p.Registry.RemoveClusterMembers(t.Context(), "c1", opscenter.MemberRemoval{Left: true, Force: true}, "a"))
		require.NoError(t, p.Registry.DeleteServer(t.Context(), "a", true))
	}, nil)
	edit := network.Edit{Interface: "inst0", AddVLANTags: []int{300}}
	b, err := p.systems.EditClusterNetwork(t.Context(), "c1", edit, system.ApplyOptions{})
	require.ErrorIs(t, err, system.ErrLost)
	require.ErrorIs(t, err, system.ErrStopped)
	require.Equal(t, []system.Status{system.StatusLost, ""}, []system.Status{b.Members[0].Status, b.Members[1].Status})
	p.requireUnclaimed("c1", true)
	_, err = p.systems.EditClusterNetwork(t.Context(), "c1", edit, system.ApplyOptions{})
	require.NoError(t, err)
	require.Equal(t, []int{100, 200, 300}, p.tags("b"))
}

// TestBatchStopsInTheMiddle: a refusal after the first member is ErrStopped. A refusal before it is not, and
// stores no batch.
func TestBatchStopsInTheMiddle(t *testing.T) {
	p := newPlane(t, system.Options{})
	p.cluster("c1", "a", "b", "c")
	busy := func(server string) { // as a forced operation does
		require.NoError(t, p.Registry.Write(t.Context(), func(tx *opscenter.Tx) error {
			_, _, err := tx.Begin(opscenter.Intent{Server: server, Action: lifecycle.ActionReconfigure, Timeout: time.Minute, Force: true})
			return err
		}))
	}
	var once sync.Once
	p.servers["a"].OnMove(func() { once.Do(func() { busy("b") }) }, nil)
	edit := network.Edit{Interface: "inst0", AddVLANTags: []int{300}}
	b, err := p.systems.EditClusterNetwork(t.Context(), "c1", edit, system.ApplyOptions{})
	require.ErrorIs(t, err, system.ErrStopped)
	require.ErrorIs(t, err, opscenter.ErrNotReady)
	require.ErrorContains(t, err, `server "b"`)
	require.Equal(t, []system.Status{system.StatusDone, system.StatusNotSent, ""}, []system.Status{b.Members[0].Status, b.Members[1].Status, b.Members[2].Status})
	p.requireUnclaimed("c1", true)

	b, err = p.systems.EditClusterNetwork(t.Context(), "c1", network.Edit{Interface: "inst0", AddVLANTags: []int{301}}, system.ApplyOptions{})
	require.ErrorIs(t, err, opscenter.ErrNotReady)
	require.NotErrorIs(t, err, system.ErrStopped, "no member was changed")
	require.Nil(t, b)
	list, err := p.systems.Batches(t.Context(), "", 10)
	require.NoError(t, err)
	require.Len(t, list, 1)
}
