package inventory_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/inventory"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

// truncated waits until the inventory of a unit is reported as truncated, or not, and returns the message.
func (p *plane) truncated(t *testing.T, server string, is bool) string {
	t.Helper()
	var message string
	require.Eventually(t, func() bool {
		page, err := p.Warnings().List(t.Context(), opscenter.WarningFilter{Server: server, Kind: warning.Inventory}, opscenter.Page{})
		require.NoError(t, err)
		all, err := p.objects.Status(t.Context())
		require.NoError(t, err)
		for _, s := range all {
			if s.Cluster == server {
				message = s.Truncated
			}
		}
		return (message != "") == is && len(page.Warnings) > 0 == is
	}, time.Minute, 20*time.Millisecond) // the pause after a scan is as long as the scan was slow
	return message
}

func (p *plane) count(t *testing.T, cluster string) int {
	t.Helper()
	counts, err := p.objects.Count(t.Context(), inventory.Query{Cluster: cluster})
	require.NoError(t, err)
	return counts.Total
}

// TestBudget: a unit with too many objects keeps objects up to the limit, and these stay current. When objects are
// removed, the inventory is complete again.
func TestBudget(t *testing.T) {
	s, other := boot(t, "sim"), boot(t, "other")
	other.Furnish(60)
	p := newPlane(t, inventory.Options{MaxObjects: 100, MaxBackoff: 200 * time.Millisecond})
	p.adopt(t, s, "")
	p.adopt(t, other, "")
	p.run(t)
	p.following(t, "sim", 10*time.Second)
	p.following(t, "other", 10*time.Second)
	o := newOperator(t, s)
	agrees(t, p.objects, "sim", o.get, within, "before")
	all := p.count(t, "other")
	require.NoError(t, s.SetHostile(incusostest.HostileLists))
	require.Contains(t, p.truncated(t, "sim", true), "inventory truncated at 100 objects, 8 MiB: lists are longer than the part that is read (2 times the limit of objects); ")
	require.Equal(t, 100, p.count(t, "sim"))
	require.Equal(t, all, p.count(t, "other"), "the other server is unaffected")
	require.NoError(t, s.SetHostile())
	p.truncated(t, "sim", false)
	agrees(t, p.objects, "sim", o.get, 20*time.Second, "after")

	for i := range 100 {
		o.must("POST", "profiles", object{"name": fmt.Sprintf("one-%03d", i)})
	}
	p.truncated(t, "sim", true)
	require.Equal(t, 100, p.count(t, "sim"))
	o.must("PATCH", "profiles/one-000", object{"description": "a known object stays current"})
	require.Eventually(t, func() bool {
		page, err := p.objects.List(t.Context(), inventory.Query{Search: "one-000"})
		require.NoError(t, err)
		return len(page.Objects) == 1 && strings.Contains(string(page.Objects[0].Object), "stays current")
	}, within, 10*time.Millisecond)
	for i := range 100 {
		o.must("DELETE", fmt.Sprintf("profiles/one-%03d", i), nil)
	}
	p.truncated(t, "sim", false)
	agrees(t, p.objects, "sim", o.get, 20*time.Second, "after all of them are gone")
}

// TestBudgetOfBytes: an object that no longer fits is kept by name, and as a whole once it fits.
func TestBudgetOfBytes(t *testing.T) {
	s := boot(t, "sim")
	p := newPlane(t, inventory.Options{MaxSize: 64 << 10, MaxBackoff: 200 * time.Millisecond})
	p.adopt(t, s, "")
	p.run(t)
	p.following(t, "sim", 10*time.Second)
	o := newOperator(t, s)
	o.must("POST", "profiles", object{"name": "grows", "description": "small"})
	shown := func(is func(*inventory.Object) bool) {
		t.Helper()
		require.Eventually(t, func() bool {
			page, err := p.objects.List(t.Context(), inventory.Query{Search: "grows"})
			require.NoError(t, err)
			return len(page.Objects) == 1 && is(page.Objects[0])
		}, 10*time.Second, 10*time.Millisecond)
	}
	shown(func(o *inventory.Object) bool {
		return strings.Contains(string(o.Object), "small") && o.Truncated == nil
	})
	noise := make([]byte, 100<<10)
	for i := range noise {
		noise[i] = 'a' + byte(mix(uint64(i))%26)
	}
	o.must("PATCH", "profiles/grows", object{"description": string(noise)})
	shown(func(o *inventory.Object) bool {
		return string(o.Object) == `{"name":"grows","project":"default"}` && o.Truncated[0] == inventory.TruncatedAll
	})
	require.Contains(t, p.truncated(t, "sim", true), "1 objects are not kept, or by name only")
	o.must("PATCH", "profiles/grows", object{"description": strings.Repeat("says the same again and again. ", 3000)})
	shown(func(o *inventory.Object) bool {
		return strings.Contains(string(o.Object), "again") && o.Truncated == nil
	})
	p.truncated(t, "sim", false)
	page, err := p.objects.List(t.Context(), inventory.Query{Filter: `object.description contains "again and again"`})
	require.NoError(t, err)
	require.Len(t, page.Objects, 1, "a compressed object is found")
	agrees(t, p.objects, "sim", o.get, within, "after")
}

// mix turns numbers into data that can't be compressed.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// TestLongNames: an object with a longer name than Incus allows is not kept, but the others are.
func TestLongNames(t *testing.T) {
	s := boot(t, "sim")
	p := newPlane(t, inventory.Options{MaxBackoff: 200 * time.Millisecond})
	p.adopt(t, s, "")
	p.run(t)
	p.following(t, "sim", 10*time.Second)
	o := newOperator(t, s)
	o.must("POST", "profiles", object{"name": strings.Repeat("n", inventory.MaxNameLength)})
	o.must("POST", "profiles", object{"name": strings.Repeat("n", inventory.MaxNameLength+1)})
	o.must("POST", "profiles", object{"name": "last"})
	require.Contains(t, p.truncated(t, "sim", true), "1 objects with names of more than 512 bytes are not kept")
	for _, search := range []string{"last", strings.Repeat("n", inventory.MaxNameLength)} {
		page, err := p.objects.List(t.Context(), inventory.Query{Search: search})
		require.NoError(t, err)
		require.Len(t, page.Objects, 1)
	}
	o.must("DELETE", "profiles/"+strings.Repeat("n", inventory.MaxNameLength+1), nil)
	p.truncated(t, "sim", false)
}

// TestManyMembers: an object with too many members is kept by name.
func TestManyMembers(t *testing.T) {
	var document strings.Builder
	document.WriteString(`{"name":"a"`)
	for i := range inventory.MaxMembers + 1 {
		fmt.Fprintf(&document, `,"m%d":1`, i)
	}
	kept, name, truncated, err := inventory.Normalize(inventory.KindProfile, []byte(document.String()+`}`))
	require.NoError(t, err)
	require.Equal(t, "a", name)
	require.JSONEq(t, `{"name":"a","project":"default"}`, string(kept))
	require.Equal(t, []string{inventory.TruncatedAll}, truncated)
}

// TestUnitChanges: a unit with many changes overwrites its own changes only.
func TestUnitChanges(t *testing.T) {
	quiet, noisy := boot(t, "quiet"), boot(t, "noisy")
	p := newPlane(t, inventory.Options{MaxUnitChanges: 10, MaxChanges: 25})
	p.adopt(t, quiet, "")
	p.adopt(t, noisy, "")
	p.run(t)
	p.following(t, "quiet", 10*time.Second)
	p.following(t, "noisy", 10*time.Second)
	a, b := newOperator(t, quiet), newOperator(t, noisy)
	a.must("POST", "profiles", object{"name": "one"})
	agrees(t, p.objects, "quiet", a.get, within, "one")
	for i := range 40 {
		b.must("POST", "profiles", object{"name": fmt.Sprint("p", i)})
	}
	agrees(t, p.objects, "noisy", b.get, 10*time.Second, "forty")
	require.Less(t, len(p.changes(t)), 2*25, "the surplus is deleted now and then")
	require.NoError(t, p.objects.Trim(t.Context()))
	of := map[string][]string{}
	for _, c := range p.changes(t) {
		of[c.Cluster] = append(of[c.Cluster], c.Name)
	}
	require.Equal(t, []string{"quiet", "one"}, of["quiet"])
	require.Len(t, of["noisy"], 10)
	require.Equal(t, "p39", of["noisy"][9])
}

// TestFits: stored objects stay current, even if the budget has shrunk below them.
func TestFits(t *testing.T) {
	const row = 2 << 10
	require.True(t, inventory.Fits(2, 3*row, 1, row, -1, 10))
	require.False(t, inventory.Fits(1, 9*row, 1, row, -1, 10), "one too many")
	require.False(t, inventory.Fits(9, 2*row, 1, row, -1, 10), "too large by 10 bytes")
	require.True(t, inventory.Fits(1, 9*row, 5, 5*row, 10, 10), "one of five stored objects, over the limit")
	require.True(t, inventory.Fits(9, row, 5, 5*row, 10, 9), "the object shrinks")
	require.False(t, inventory.Fits(9, row, 5, 5*row, 10, 11), "the object grows")
}

// TestLooks: objects are read one by one no faster than MaxLooks, regardless of the number of events.
func TestLooks(t *testing.T) {
	s := boot(t, "sim")
	p := newPlane(t, inventory.Options{MaxLooks: 5, Debounce: 10 * time.Millisecond})
	p.adopt(t, s, "")
	p.run(t)
	p.following(t, "sim", 30*time.Second)
	const events = 15
	begun := time.Now()
	o := newOperator(t, s)
	for i := range events {
		o.must("POST", "network-zones", object{"name": fmt.Sprintf("zone%d.example.net", i)})
	}
	agrees(t, p.objects, "sim", o.get, 30*time.Second, "all of them")
	require.Greater(t, time.Since(begun), (events-2*5)*time.Second/5)
}
