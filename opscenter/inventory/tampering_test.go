package inventory_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lxc/incus/v6/shared/api"
	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/inventory"
)

// tamperingClient counts the reads of a test, replaces answers by errors, and suppresses events. The connections
// stay as they are.
type tamperingClient struct {
	*incusos.Client
	mu    sync.Mutex
	reads map[string]int
	// answer returns the error for a path, if any. hear reports whether an event of a server is delivered. Both may be
	// nil.
	answer   func(path string) error
	hear     func(server string, e *inventory.Event) bool
	silenced map[string]bool // servers whose streams can't be opened
	cut      map[string][]inventory.Stream
}

// tamper puts a tamperingClient between a plane and its servers.
func (p *plane) tamper(t *testing.T, options inventory.Options) *tamperingClient {
	t.Helper()
	s := &tamperingClient{Client: p.Client, reads: map[string]int{}, silenced: map[string]bool{}, cut: map[string][]inventory.Stream{}}
	var err error
	p.objects, err = inventory.New(p.Registry, s, options)
	require.NoError(t, err)
	return s
}

func (s *tamperingClient) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *tamperingClient) count(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads[path]
}

func (s *tamperingClient) ask(path string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	path, _, _ = strings.Cut(path, "?")
	s.reads[path]++
	if s.answer == nil {
		return nil
	}
	return s.answer(path)
}

func (s *tamperingClient) ReadObject(ctx context.Context, target opscenter.Target, path string) (json.RawMessage, error) {
	if err := s.ask(path); err != nil {
		return nil, err
	}
	return s.Client.ReadObject(ctx, target, path)
}

func (s *tamperingClient) ReadList(ctx context.Context, target opscenter.Target, path string, use func(json.RawMessage) error) error {
	if err := s.ask(path); err != nil {
		return err
	}
	return s.Client.ReadList(ctx, target, path, use)
}

func (s *tamperingClient) Events(ctx context.Context, target opscenter.Target) (inventory.Stream, error) {
	s.mu.Lock()
	silenced := s.silenced[target.Name]
	s.mu.Unlock()
	if silenced {
		return nil, errors.New("connection refused")
	}
	stream, err := s.Client.Events(ctx, target)
	if err != nil {
		return nil, err
	}
	s.set(func() { s.cut[target.Name] = append(s.cut[target.Name], stream) })
	return &filteredStream{stream, s, target.Name}, nil
}

// silence cuts the streams of a server, and prevents new ones.
func (s *tamperingClient) silence(server string) {
	s.mu.Lock()
	s.silenced[server] = true
	streams := s.cut[server]
	delete(s.cut, server)
	s.mu.Unlock()
	for _, stream := range streams {
		stream.Close()
	}
}

// filteredStream drops the events that hear refuses.
type filteredStream struct {
	inventory.Stream
	of     *tamperingClient
	server string
}

func (h *filteredStream) Next() (*inventory.Event, error) {
	for {
		e, err := h.Stream.Next()
		if err != nil {
			return nil, err
		}
		h.of.mu.Lock()
		kept := h.of.hear == nil || h.of.hear(h.server, e)
		h.of.mu.Unlock()
		if kept {
			return e, nil
		}
	}
}

func notFound() error { return api.StatusErrorf(http.StatusNotFound, "Not Found") }

// pair returns a followed cluster of two.
func pair(t *testing.T, options inventory.Options) (*plane, *tamperingClient, []*incusostest.Server) {
	t.Helper()
	a, b := boot(t, "a"), boot(t, "b")
	require.NoError(t, incusostest.Cluster(a, b))
	p := newPlane(t, options)
	s := p.tamper(t, options)
	p.adopt(t, a, "c1")
	p.run(t)
	p.following(t, "c1", 10*time.Second)
	return p, s, []*incusostest.Server{a, b}
}

// single returns a server in no cluster, before the inventory runs.
func single(t *testing.T, options inventory.Options, furnished int) (*plane, *tamperingClient, *incusostest.Server) {
	t.Helper()
	server := boot(t, "sim")
	if furnished > 0 {
		server.Furnish(furnished)
	}
	p := newPlane(t, options)
	s := p.tamper(t, options)
	p.adopt(t, server, "")
	return p, s, server
}

func (p *plane) named(t *testing.T, kind inventory.Kind, name string) *inventory.Object {
	t.Helper()
	page, err := p.objects.List(t.Context(), inventory.Query{Kinds: []inventory.Kind{kind}, Name: name})
	require.NoError(t, err)
	if len(page.Objects) == 0 {
		return nil
	}
	require.Len(t, page.Objects, 1)
	return page.Objects[0]
}

func (p *plane) changes(t *testing.T) []inventory.Change {
	t.Helper()
	list, err := p.objects.Changes(t.Context(), 0, opscenter.MaxPageSize)
	require.NoError(t, err)
	return list
}

// TestRenameIsAppliedOnce: each member of a cluster sends a rename event. The second one does not
// rename a new object that has the old name meanwhile.
func TestRenameIsAppliedOnce(t *testing.T) {
	p, s, servers := pair(t, inventory.Options{MembersInterval: time.Hour})
	later := make(chan struct{})
	s.set(func() { // the event of the second member is late
		told := map[string]bool{}
		s.hear = func(_ string, e *inventory.Event) bool {
			if e.Action == "profile-renamed" && told[e.Source] {
				s.mu.Unlock()
				<-later
				s.mu.Lock()
			}
			told[e.Source] = told[e.Source] || e.Action == "profile-renamed"
			return true
		}
	})
	o := newOperator(t, servers[0])
	o.must("POST", "profiles", object{"name": "web", "description": "the old one"})
	agrees(t, p.objects, "c1", o.get, within, "made")
	id := p.named(t, inventory.KindProfile, "web").UUID
	o.must("POST", "profiles/web", object{"name": "web-old"})
	o.must("POST", "profiles", object{"name": "web", "description": "the new one"})
	agrees(t, p.objects, "c1", o.get, within, "renamed and made")
	status := p.following(t, "c1", time.Second)
	close(later)
	require.Eventually(t, func() bool { return p.following(t, "c1", time.Second).Events > status.Events }, within, 10*time.Millisecond)
	o.must("POST", "profiles", object{"name": "last"}) // its event follows the late one
	agrees(t, p.objects, "c1", o.get, within, "after the second event")
	got, err := p.objects.Get(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, "web-old", got.Name)
	for _, c := range p.changes(t) {
		require.NotEqual(t, inventory.ChangeDeleted, c.Action, c)
	}
}

// TestRenameFoundByScan: an object that a scan found under the new name, after the rename event came, is the
// renamed object.
func TestRenameFoundByScan(t *testing.T) {
	p := newPlane(t, inventory.Options{})
	profiles := func(names ...string) map[inventory.Kind][]json.RawMessage {
		out := map[inventory.Kind][]json.RawMessage{}
		for _, name := range names {
			out[inventory.KindProfile] = append(out[inventory.KindProfile], json.RawMessage(`{"name":"`+name+`","config":{}}`))
		}
		return out
	}
	_, err := p.Register(t.Context(), registration(t, p, "sim"))
	require.NoError(t, err)
	info, err := p.Server(t.Context(), "sim")
	require.NoError(t, err)
	before := time.Now()
	require.NoError(t, p.objects.Fill(t.Context(), info.ID, profiles("old", "new")))
	id := p.named(t, inventory.KindProfile, "new").UUID
	require.NoError(t, p.objects.Rename(t.Context(), info.ID, inventory.KindProfile, "old", "old", before), "some daemons send the old name twice")
	require.NoError(t, p.objects.Rename(t.Context(), info.ID, inventory.KindProfile, "old", "new", before))
	require.Equal(t, id, p.named(t, inventory.KindProfile, "new").UUID, "the object was found after the event")
	require.NoError(t, p.objects.Rename(t.Context(), info.ID, inventory.KindProfile, "old", "new", time.Now()))
	require.NotEqual(t, id, p.named(t, inventory.KindProfile, "new").UUID, "the object was known before the event, and is replaced")
	require.Nil(t, p.named(t, inventory.KindProfile, "old"))
}

func registration(t *testing.T, p *plane, name string) opscenter.Registration {
	token, err := p.CreateToken(t.Context(), opscenter.TokenSpec{Uses: 1})
	require.NoError(t, err)
	identity, err := selfsigned.New(name)
	require.NoError(t, err)
	return opscenter.Registration{Token: token.UUID, Certificate: identity.Leaf, Name: name, ConnectionURL: "https://127.0.0.1:1", MachineID: strings.Repeat("ab", 16)}
}

// TestListNotFound: a list of volumes that is answered with 404 for a moment removes no volume. A volume whose pool is
// gone is removed.
func TestListNotFound(t *testing.T) {
	p, s, server := single(t, inventory.Options{MembersInterval: time.Hour}, 0)
	o := newOperator(t, server)
	o.must("POST", "storage-pools", object{"name": "local", "driver": "zfs"})
	o.must("POST", "storage-pools/local/volumes/custom", object{"name": "v1"})
	p.run(t)
	p.following(t, "sim", 10*time.Second)
	before := p.named(t, inventory.KindStorageVolume, "v1")
	times := 1
	s.set(func() {
		s.answer = func(path string) error {
			if path == "/1.0/storage-pools/local/volumes/custom" && times > 0 {
				times--
				return notFound()
			}
			return nil
		}
	})
	o.must("PATCH", "storage-pools/local/volumes/custom/v1", object{"description": "x"})
	agrees(t, p.objects, "sim", o.get, 5*time.Second, "changed")
	require.Zero(t, times)
	require.Equal(t, before.UUID, p.named(t, inventory.KindStorageVolume, "v1").UUID)

	o.must("DELETE", "storage-pools/local/volumes/custom/v1", nil)
	o.must("DELETE", "storage-pools/local", nil)
	agrees(t, p.objects, "sim", o.get, 5*time.Second, "the pool is gone")
}

// TestFirstScanIncomplete: objects that could not be read at first are no changes when they are read later.
func TestFirstScanIncomplete(t *testing.T) {
	p, s, server := single(t, inventory.Options{MaxBackoff: time.Second}, 60)
	s.answer = func(path string) error {
		if path == "/1.0/instances" {
			return api.StatusErrorf(http.StatusInternalServerError, "not now")
		}
		return nil
	}
	p.run(t)
	require.Eventually(t, func() bool {
		all, err := p.objects.Status(t.Context())
		return err == nil && len(all) == 1 && all[0].Scans >= 1
	}, 10*time.Second, 10*time.Millisecond)
	require.NotNil(t, p.named(t, inventory.KindProject, "default"))
	// Changes of kinds that were read are recorded.
	o := newOperator(t, server)
	o.must("POST", "profiles", object{"name": "new"})
	require.Eventually(t, func() bool { return len(p.changes(t)) == 2 }, 10*time.Second, 10*time.Millisecond)
	// Changes of kinds that were not read are not recorded: their former state is not known.
	o.must("PATCH", "instances/c0002", object{"description": "x"})
	require.Eventually(t, func() bool { return p.named(t, inventory.KindInstance, "c0002") != nil }, within, 10*time.Millisecond)
	s.set(func() { s.answer = nil })
	p.following(t, "sim", 10*time.Second)
	count, err := p.objects.Count(t.Context(), inventory.Query{Kinds: []inventory.Kind{inventory.KindInstance}})
	require.NoError(t, err)
	require.NotZero(t, count.Total)
	o.must("POST", "instances", object{"name": "later"})
	require.Eventually(t, func() bool { return p.named(t, inventory.KindInstance, "later") != nil }, within, 10*time.Millisecond)
	var told []string
	for _, c := range p.changes(t) {
		if c.Kind == inventory.KindInstance || c.Kind == inventory.KindProfile || c.Kind == "" {
			told = append(told, string(c.Action)+" "+c.Name)
		}
	}
	require.Equal(t, []string{"cluster-added sim", "created new", "cluster-added sim", "created later"}, told, "a program that mirrors the cluster lists it again")
}

// TestStoredSecretsAreRemoved: secrets that were stored with KeepSecrets are removed without it, also from the history.
func TestStoredSecretsAreRemoved(t *testing.T) {
	s := boot(t, "sim")
	p := newPlane(t, inventory.Options{KeepSecrets: true})
	p.adopt(t, s, "")
	controltest.Background(t, p.Polls.Run)
	stop := controltest.Background(t, p.objects.Run)
	p.following(t, "sim", 10*time.Second)
	o := newOperator(t, s)
	o.must("POST", "networks", object{"name": "n3", "type": "ovn", "config": object{"bgp.peers.x.password": "hunter2", "bgp.peers.x.address": "10.0.0.9"}})
	require.Eventually(t, func() bool { return p.named(t, inventory.KindNetwork, "n3") != nil }, within, 10*time.Millisecond)
	require.Contains(t, string(p.named(t, inventory.KindNetwork, "n3").Object), "hunter2")
	o.must("PATCH", "networks/n3", object{"config": object{"bgp.peers.x.password": "hunter23", "bgp.peers.x.address": "10.0.0.10"}})
	o.must("POST", "profiles", object{"name": "p1", "devices": object{"d0": object{"type": "disk"}}})
	require.Eventually(t, func() bool { return p.named(t, inventory.KindProfile, "p1") != nil }, within, 10*time.Millisecond)
	o.must("PATCH", "profiles/p1", object{"devices": object{"d0": object{"type": "disk", "user.password": "hunter24"}, "d1": object{"type": "nic", "user.password": "hunter25"}}})
	secrets := func() (out []string) {
		for _, c := range p.changes(t) {
			for _, f := range c.Fields {
				out = append(out, regexp.MustCompile("hunter2[0-9]?").FindAllString(string(f.From)+string(f.To), -1)...)
			}
		}
		return out
	}
	require.Eventually(t, func() bool { return len(secrets()) == 4 }, within, 10*time.Millisecond, "KeepSecrets stores them")
	stop()
	p.tamper(t, inventory.Options{})
	controltest.Background(t, p.objects.Run)
	p.following(t, "sim", 10*time.Second)
	require.NotContains(t, string(p.named(t, inventory.KindNetwork, "n3").Object), "hunter2")
	require.Empty(t, secrets())
	history, err := p.objects.History(t.Context(), p.named(t, inventory.KindNetwork, "n3").UUID)
	require.NoError(t, err)
	require.Equal(t, []inventory.FieldChange{{Path: `config["bgp.peers.x.address"]`, From: []byte(`"10.0.0.9"`), To: []byte(`"10.0.0.10"`)}}, history[0].Fields, "the other fields stay in the history")
}

// TestProjectsAreRefreshed: a project is read soon after an event names it, even if the scan for the other objects
// comes late.
func TestProjectsAreRefreshed(t *testing.T) {
	p, s, server := single(t, inventory.Options{MaxBackoff: 10 * time.Minute}, 0)
	s.answer = func(path string) error {
		time.Sleep(20 * time.Millisecond) // scans are slow, so the next one is late
		return nil
	}
	p.run(t)
	p.following(t, "sim", 10*time.Second)
	o := newOperator(t, server)
	o.must("POST", "projects", object{"name": "p1"})
	require.Eventually(t, func() bool { return p.named(t, inventory.KindProject, "p1") != nil }, within, 10*time.Millisecond)
	before := p.named(t, inventory.KindProject, "p1")
	scans := func() int {
		all, err := p.objects.Status(t.Context())
		require.NoError(t, err)
		return all[0].Scans
	}
	had := scans()
	for _, text := range []string{"x", "y"} {
		o.must("PATCH", "projects/p1", object{"description": text})
		require.Eventually(t, func() bool {
			return strings.Contains(string(p.named(t, inventory.KindProject, "p1").Object), `"description":"`+text+`"`)
		}, within, 10*time.Millisecond)
	}
	require.LessOrEqual(t, scans(), had+1)
	require.Equal(t, before.UUID, p.named(t, inventory.KindProject, "p1").UUID)
	o.must("DELETE", "projects/p1", nil)
	require.Eventually(t, func() bool { return p.named(t, inventory.KindProject, "p1") == nil }, within, 10*time.Millisecond)
}

// TestMemberHeardAgain: a scan follows when a member has a stream again, because its events were missed
// meanwhile.
func TestMemberHeardAgain(t *testing.T) {
	p, s, servers := pair(t, inventory.Options{MembersInterval: time.Hour})
	main := p.following(t, "c1", time.Second).Server
	other := map[string]string{"a": "b", "b": "a"}[main]
	s.set(func() { s.hear = func(server string, e *inventory.Event) bool { return server != main } })
	s.silence(other)
	require.Eventually(t, func() bool {
		all, err := p.objects.Status(t.Context())
		return err == nil && !all[0].Following && strings.Contains(all[0].Failure, other)
	}, 10*time.Second, 10*time.Millisecond)
	o := newOperator(t, servers[0])
	o.must("POST", "profiles", object{"name": "withoutStream"})
	s.set(func() { s.silenced[other] = false })
	agrees(t, p.objects, "c1", o.get, 10*time.Second, "stream opened again")
	require.NotNil(t, p.named(t, inventory.KindProfile, "withoutStream"))
	p.following(t, "c1", 10*time.Second)
}

// TestListBeforeRenameEvent: a list shows the new name before the event comes. The object keeps its identity.
func TestListBeforeRenameEvent(t *testing.T) {
	p, s, server := single(t, inventory.Options{}, 0)
	p.run(t)
	p.following(t, "sim", 10*time.Second)
	o := newOperator(t, server)
	o.must("POST", "networks", object{"name": "n1", "type": "ovn"})
	o.must("POST", "networks", object{"name": "other", "type": "ovn"})
	agrees(t, p.objects, "sim", o.get, within, "made")
	id := p.named(t, inventory.KindNetwork, "n1").UUID
	time.Sleep(300 * time.Millisecond) // the lists after the last event
	listed, held := make(chan struct{}), false
	s.set(func() {
		s.hear = func(_ string, e *inventory.Event) bool {
			if e.Action == "network-renamed" {
				held = true
				s.mu.Unlock()
				<-listed
				s.mu.Lock()
			}
			return true
		}
		s.answer = func(path string) error {
			if held && path == "/1.0/networks" {
				held = false
				time.AfterFunc(100*time.Millisecond, func() { close(listed) }) // after the list was read
			}
			return nil
		}
	})
	o.must("PATCH", "networks/other", object{"description": "new"}) // its event causes the list
	o.must("POST", "networks/n1", object{"name": "n2"})
	<-listed
	agrees(t, p.objects, "sim", o.get, within, "renamed")
	require.Equal(t, id, p.named(t, inventory.KindNetwork, "n2").UUID)
	history, err := p.objects.History(t.Context(), id)
	require.NoError(t, err)
	require.Len(t, history, 2)
	require.Equal(t, inventory.ChangeRenamed, history[0].Action)
}

// TestRenameAfterUpdate: an object is changed and renamed at once. It keeps its identity, although its old name is read, too.
func TestRenameAfterUpdate(t *testing.T) {
	p, _, server := single(t, inventory.Options{Debounce: 300 * time.Millisecond}, 0)
	p.run(t)
	p.following(t, "sim", 10*time.Second)
	o := newOperator(t, server)
	o.must("POST", "networks", object{"name": "n1", "type": "ovn"})
	agrees(t, p.objects, "sim", o.get, within, "made")
	id := p.named(t, inventory.KindNetwork, "n1").UUID
	o.must("PATCH", "networks/n1", object{"description": "new"})
	o.must("POST", "networks/n1", object{"name": "n2"})
	agrees(t, p.objects, "sim", o.get, 2*within, "renamed")
	require.Equal(t, id, p.named(t, inventory.KindNetwork, "n2").UUID)
	history, err := p.objects.History(t.Context(), id)
	require.NoError(t, err)
	var actions []inventory.ChangeAction
	for _, c := range history {
		actions = append(actions, c.Action)
	}
	require.Equal(t, []inventory.ChangeAction{inventory.ChangeUpdated, inventory.ChangeRenamed, inventory.ChangeCreated}, actions)
}

// TestRefusedObject: an object that the daemon refuses once is read again. If it is refused again, the unit is scanned.
func TestRefusedObject(t *testing.T) {
	p, s, server := single(t, inventory.Options{Settle: 2 * time.Second}, 0)
	p.run(t)
	o := newOperator(t, server)
	scans := p.following(t, "sim", 10*time.Second).Scans
	refused := 0
	refuse := func(times int) {
		s.set(func() {
			refused = 0
			s.answer = func(path string) error {
				if path != "/1.0/profiles/p" || refused == times {
					return nil
				}
				refused++
				return api.StatusErrorf(http.StatusInternalServerError, "Invalid PID")
			}
		})
	}
	refuse(1)
	o.must("POST", "profiles", object{"name": "p"})
	agrees(t, p.objects, "sim", o.get, within, "refused once")
	made := p.changes(t)
	require.Equal(t, "profile-created", made[len(made)-1].Event, "the change is still that of the event")
	require.Equal(t, scans, p.following(t, "sim", 10*time.Second).Scans)
	refuse(100)
	o.must("PATCH", "profiles/p", object{"description": "new"})
	agrees(t, p.objects, "sim", o.get, 2*within, "refused twice")
	require.Equal(t, scans+1, p.following(t, "sim", 10*time.Second).Scans)
	s.set(func() { require.Equal(t, 2, refused) })
}

// TestVolumeAfterEvent: Incus stores the volume of an instance, and of a snapshot, after their events.
func TestVolumeAfterEvent(t *testing.T) {
	server := controltest.Server(t, incusostest.Options{Name: "sim", Standalone: true, LegacyVolumes: true, VolumeDelay: 400 * time.Millisecond})
	p := newPlane(t, inventory.Options{Settle: 5 * time.Second})
	p.adopt(t, server, "")
	p.run(t)
	p.following(t, "sim", 10*time.Second)
	o := newOperator(t, server)
	o.must("POST", "storage-pools", object{"name": "local", "driver": "zfs"})
	agrees(t, p.objects, "sim", o.get, within, "a pool")
	volume := func(name string) func() bool {
		return func() bool { return p.named(t, inventory.KindStorageVolume, name) != nil }
	}
	o.must("POST", "instances", object{"name": "c1"})
	require.Eventually(t, volume("c1"), within, 10*time.Millisecond)
	agrees(t, p.objects, "sim", o.get, within, "an instance")
	o.must("POST", "instances/c1/snapshots", object{"name": "s1"})
	require.Eventually(t, volume("c1/s1"), within, 10*time.Millisecond)
	agrees(t, p.objects, "sim", o.get, within, "a snapshot")
}

// TestSecondReadingAfterStart: a started instance is read again after Settle, when it has its addresses.
func TestSecondReadingAfterStart(t *testing.T) {
	p, s, server := single(t, inventory.Options{Settle: 300 * time.Millisecond}, 0)
	p.run(t)
	p.following(t, "sim", 10*time.Second)
	o := newOperator(t, server)
	o.must("POST", "instances", object{"name": "c1"})
	agrees(t, p.objects, "sim", o.get, within, "made")
	time.Sleep(400 * time.Millisecond) // the second reading after its creation
	before := s.count("/1.0/instances/c1")
	o.must("PUT", "instances/c1/state", object{"action": "start"})
	require.Eventually(t, func() bool { return s.count("/1.0/instances/c1") == before+2 }, within, 10*time.Millisecond)
}

// TestTooManyStarts: more started instances than MaxPending cause a scan.
func TestTooManyStarts(t *testing.T) {
	p, _, server := single(t, inventory.Options{Settle: time.Minute, MaxPending: 12}, 0)
	p.run(t)
	p.following(t, "sim", 10*time.Second)
	o := newOperator(t, server)
	for i := range 14 {
		name := fmt.Sprint("c", i)
		o.must("POST", "instances", object{"name": name})
		require.Eventually(t, func() bool { return p.named(t, inventory.KindInstance, name) != nil }, 5*time.Second, time.Millisecond)
	}
	require.Eventually(t, func() bool {
		return p.following(t, "sim", 10*time.Second).ScanReason == "more instances were started than can be followed"
	}, 15*time.Second, 10*time.Millisecond)
}

// TestTooLarge: an instance that is too large with its snapshots is kept without them, and a profile that is too large by
// name. Other objects are complete, after scans and after events.
func TestTooLarge(t *testing.T) {
	options := inventory.Options{MaxBackoff: time.Second}
	p, _, server := single(t, options, 0)
	o := newOperator(t, server)
	p.Client = incusos.New(incusos.Options{Certificate: &p.Identity, MaxObject: 40 << 10})
	client := p.Client
	t.Cleanup(func() { client.Close() })
	s := p.tamper(t, options)
	o.must("POST", "profiles", object{"name": "a", "description": "small"})
	o.must("POST", "profiles", object{"name": "huge", "description": strings.Repeat("x", 50<<10)})
	o.must("POST", "profiles", object{"name": "z"})
	o.must("POST", "instances", object{"name": "big", "config": object{"user.x": strings.Repeat("y", 17<<10)}})
	for i := range 150 {
		o.must("POST", "instances/big/snapshots", object{"name": fmt.Sprint("s", i)})
	}
	o.must("POST", "instances", object{"name": "small"})
	p.run(t)
	status := p.following(t, "sim", 10*time.Second)
	check := func() {
		t.Helper()
		require.Equal(t, []string{inventory.TruncatedAll}, p.named(t, inventory.KindProfile, "huge").Truncated)
		require.JSONEq(t, `{"name":"huge","project":"default"}`, string(p.named(t, inventory.KindProfile, "huge").Object))
		require.Empty(t, p.named(t, inventory.KindProfile, "z").Truncated)
		require.Equal(t, []string{"backups", "snapshots", "state"}, p.named(t, inventory.KindInstance, "big").Truncated)
		require.Contains(t, string(p.named(t, inventory.KindInstance, "big").Object), `"user.x":"yyy`)
		require.Empty(t, p.named(t, inventory.KindInstance, "small").Truncated)
	}
	check()
	read := s.count("/1.0/profiles/huge")
	o.must("PATCH", "profiles/huge", object{"config": object{"user.y": "1"}})
	o.must("PATCH", "instances/big", object{"config": object{"user.y": "1"}})
	o.must("DELETE", "profiles/a", nil)
	require.Eventually(t, func() bool {
		return p.named(t, inventory.KindProfile, "a") == nil && s.count("/1.0/profiles/huge") > read
	}, within, 10*time.Millisecond)
	require.Eventually(t, func() bool {
		return strings.Contains(string(p.named(t, inventory.KindInstance, "big").Object), `"user.y":"1"`)
	}, within, 10*time.Millisecond)
	check()
	require.Equal(t, status.Scans, p.following(t, "sim", time.Second).Scans, "no scan was needed")
	o.must("DELETE", "profiles/huge", nil)
	require.Eventually(t, func() bool { return p.named(t, inventory.KindProfile, "huge") == nil }, within, 10*time.Millisecond)
}

// TestStoredSecretsOfMemberDown: secrets that were stored with KeepSecrets are removed, also of an instance whose member is down.
func TestStoredSecretsOfMemberDown(t *testing.T) {
	a, b := boot(t, "a"), boot(t, "b")
	require.NoError(t, incusostest.Cluster(a, b))
	p := newPlane(t, inventory.Options{KeepSecrets: true, MaxBackoff: time.Second, MembersInterval: 200 * time.Millisecond})
	p.adopt(t, a, "c1")
	b.AddInstance("default", "web", true)
	o := newOperator(t, a)
	o.must("PATCH", "instances/web", object{"config": object{"user.user-data": "hunter2", "user.a": "b"}})
	controltest.Background(t, p.Polls.Run)
	stop := controltest.Background(t, p.objects.Run)
	shows := func(text string) func() bool {
		return func() bool {
			web := p.named(t, inventory.KindInstance, "web")
			return web != nil && strings.Contains(string(web.Object), text)
		}
	}
	require.Eventually(t, shows("hunter2"), within, 10*time.Millisecond)
	b.Crash()
	require.Eventually(t, shows(`"status_code":112`), within, 10*time.Millisecond)
	require.True(t, shows("hunter2")(), "KeepSecrets stores them")
	stop()
	p.tamper(t, inventory.Options{MaxBackoff: time.Second, MembersInterval: 200 * time.Millisecond})
	controltest.Background(t, p.objects.Run)
	require.Eventually(t, func() bool { return !shows("hunter2")() }, within, 10*time.Millisecond, "while the member is down")
	require.True(t, shows(`"user.a":"b"`)())
	b.PowerOn()
	require.Eventually(t, shows(`"status_code":103`), within, 10*time.Millisecond)
	for _, c := range p.changes(t) {
		for _, f := range c.Fields {
			require.NotContains(t, string(f.From)+string(f.To), "hunter2")
		}
	}
}
