package inventory_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/inventory"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// emptyDaemon is an Incus without objects, for tests of timers in a synctest bubble: real sockets do not work there.
type emptyDaemon struct {
	mu      sync.Mutex
	down    bool
	refuses error // to open a stream
	opened  []time.Time
	stream  *quietStream
}

// answered is an error with which a daemon answered.
type answered int

func (a answered) Error() string { return fmt.Sprintf("status %d at %s", int(a), time.Now()) }
func (a answered) Status() int   { return int(a) }

var errDown = errors.New("connection refused")

func (d *emptyDaemon) set(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
}

func (d *emptyDaemon) reached() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.down {
		return errDown
	}
	return nil
}

func (d *emptyDaemon) Describe(context.Context, opscenter.Target) (inventory.Daemon, error) {
	return inventory.Daemon{}, d.reached()
}

func (d *emptyDaemon) ReadList(context.Context, opscenter.Target, string, func(json.RawMessage) error) error {
	return d.reached()
}

func (d *emptyDaemon) ReadObject(context.Context, opscenter.Target, string) (json.RawMessage, error) {
	return nil, answered(404)
}

func (d *emptyDaemon) Events(context.Context, opscenter.Target) (inventory.Stream, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opened = append(d.opened, time.Now())
	switch {
	case d.down:
		return nil, errDown
	case d.refuses != nil:
		return nil, d.refuses
	}
	d.stream = &quietStream{ended: make(chan struct{})}
	return d.stream, nil
}

// attempts returns the attempts to open a stream since then.
func (d *emptyDaemon) attempts(since time.Time) (out []time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, at := range d.opened {
		if !at.Before(since) {
			out = append(out, at)
		}
	}
	return out
}

// quietStream is a stream without events.
type quietStream struct {
	once  sync.Once
	ended chan struct{}
}

func (s *quietStream) Next() (*inventory.Event, error) {
	<-s.ended
	return nil, errors.New("the stream was closed")
}

func (s *quietStream) Close() error {
	s.once.Do(func() { close(s.ended) })
	return nil
}

// quietPlane is an inventory of one server, in a bubble.
type quietPlane struct {
	t        *testing.T
	registry *opscenter.Registry
	store    *memstore.Store
	objects  *inventory.Manager
	log      controltest.Log
	daemon   emptyDaemon
}

var serverIdentity = sync.OnceValues(func() (opscenter.Registration, error) {
	made, err := selfsigned.New("server")
	return opscenter.Registration{Certificate: made.Leaf, Name: "sim", ConnectionURL: "https://127.0.0.1:1"}, err
})

// quietly runs a test with a server that is ready, in a synctest bubble.
func quietly(t *testing.T, options inventory.Options, test func(p *quietPlane)) {
	reg, err := serverIdentity()
	require.NoError(t, err)
	synctest.Test(t, func(t *testing.T) {
		p := &quietPlane{t: t, store: memstore.New(memstore.Options{DetectMutation: true})}
		p.registry, err = opscenter.NewRegistry(p.store, opscenter.Options{})
		require.NoError(t, err)
		token, err := p.registry.CreateToken(t.Context(), opscenter.TokenSpec{})
		require.NoError(t, err)
		reg.Token = token.UUID
		_, err = p.registry.Register(t.Context(), reg)
		require.NoError(t, err)
		p.observe(nil)
		options.Logger = slog.New(slog.NewJSONHandler(&p.log, nil))
		p.start(options, test)
	})
}

// start runs an inventory during the test.
func (p *quietPlane) start(options inventory.Options, test func(p *quietPlane)) {
	var err error
	p.objects, err = inventory.New(p.registry, &p.daemon, options)
	require.NoError(p.t, err)
	ctx, cancel := context.WithCancel(p.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.objects.Run(ctx) }()
	p.wait(time.Minute)
	require.True(p.t, p.status().Following)
	test(p)
	cancel()
	require.ErrorIs(p.t, <-ended, context.Canceled)
}

// observe records a poll of the server.
func (p *quietPlane) observe(failure *lifecycle.Failure) {
	p.t.Helper()
	info, err := p.registry.Server(p.t.Context(), "sim")
	require.NoError(p.t, err)
	kind, maintenance := lifecycle.TypeIncus, lifecycle.NotInMaintenance
	o := lifecycle.Observation{Server: "sim", ID: info.ID, At: time.Now(), Failure: failure}
	if failure == nil {
		o.Ready, o.Type, o.Maintenance, o.Versions = true, &kind, &maintenance, &lifecycle.Versions{OS: lifecycle.OSVersion{Version: "202610010000"}}
	}
	require.NoError(p.t, p.registry.Observer().Record(p.t.Context(), o))
}

func (p *quietPlane) wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (p *quietPlane) status() inventory.Status {
	p.t.Helper()
	all, err := p.objects.Status(p.t.Context())
	require.NoError(p.t, err)
	require.Len(p.t, all, 1)
	return all[0]
}

// warned returns the messages of the warnings that a server has no events.
func (p *quietPlane) warned() (out []string) {
	p.t.Helper()
	page, err := p.registry.Warnings().List(p.t.Context(), opscenter.WarningFilter{Kind: warning.Events}, opscenter.Page{})
	require.NoError(p.t, err)
	for _, w := range page.Warnings {
		out = append(out, w.Message)
	}
	return out
}

func (p *quietPlane) logged() int { return strings.Count(p.log.String(), "\n") }

// TestNoEventsIsQuiet: a daemon without a stream of events is asked once an hour. It costs one line of the log and one
// warning, and no commits. Scans go on. Once it has a stream, the stream is used.
func TestNoEventsIsQuiet(t *testing.T) {
	for name, refusal := range map[string]error{"404": answered(404), "403": answered(403), "500": answered(500), "an odd answer": errors.New("an odd answer")} {
		t.Run(name, func(t *testing.T) {
			quietly(t, inventory.Options{}, func(p *quietPlane) {
				require.Empty(t, p.warned())
				// The stream breaks, and the daemon has no other.
				p.daemon.set(func() { p.daemon.refuses = refusal })
				broken := time.Now()
				p.daemon.stream.Close()
				p.wait(4 * time.Hour)
				require.Len(t, p.warned(), 1)
				require.False(t, p.status().Following)
				require.Contains(t, p.status().Failure, "no events from server sim")
				early := p.daemon.attempts(broken)
				require.Less(t, len(early), 18)
				require.Less(t, early[2].Sub(broken), 10*time.Second, "the first attempts follow soon")
				begun, commits, lines, scans := time.Now(), p.store.Stats().Commits, p.logged(), p.status().Scans
				const hours = 1000
				p.wait(hours * time.Hour)
				require.LessOrEqual(t, len(p.daemon.attempts(begun)), hours)
				require.Greater(t, len(p.daemon.attempts(begun)), hours*8/10)
				require.Equal(t, commits, p.store.Stats().Commits, "commits in 1,000 hours")
				require.Equal(t, lines, p.logged(), "lines of the log in 1,000 hours: %s", p.log.String())
				require.Equal(t, 1, strings.Count(p.log.String(), "has no stream of events"))
				require.Len(t, p.warned(), 1)
				require.GreaterOrEqual(t, p.status().Scans-scans, 160, "scheduled scans go on")

				p.daemon.set(func() { p.daemon.refuses = nil })
				p.wait(2 * time.Hour)
				require.True(t, p.status().Following)
				require.Empty(t, p.warned())
				// A stream that worked and broke is opened again soon.
				begun = time.Now()
				p.daemon.stream.Close()
				p.wait(5 * time.Second)
				require.True(t, p.status().Following)
				require.Len(t, p.daemon.attempts(begun), 1)
			})
		})
	}
}

// TestNoEventsChanges: another kind of refusal is logged again, and there is still one warning.
func TestNoEventsChanges(t *testing.T) {
	quietly(t, inventory.Options{MaxEventsBackoff: 10 * time.Minute}, func(p *quietPlane) {
		p.daemon.set(func() { p.daemon.refuses = answered(404) })
		p.daemon.stream.Close()
		p.wait(time.Hour)
		require.Len(t, p.warned(), 1)
		p.daemon.set(func() { p.daemon.refuses = answered(403) })
		begun := time.Now()
		p.wait(10 * time.Hour)
		require.InDelta(t, 57, len(p.daemon.attempts(begun)), 5, "MaxEventsBackoff")
		require.Len(t, p.warned(), 1)
		require.Contains(t, p.warned()[0], "status 403")
		require.Equal(t, 2, strings.Count(p.log.String(), "has no stream of events"))
	})
}

// TestNoEventsAfterReboot: a server that was down may run another release. Its stream is tried at once.
func TestNoEventsAfterReboot(t *testing.T) {
	quietly(t, inventory.Options{}, func(p *quietPlane) {
		p.daemon.set(func() { p.daemon.refuses = answered(404) })
		p.daemon.stream.Close()
		p.wait(100 * time.Hour)
		require.Len(t, p.warned(), 1)
		p.daemon.set(func() { p.daemon.down = true })
		for range 3 {
			p.wait(10 * time.Second)
			p.observe(&lifecycle.Failure{Kind: lifecycle.FailureConnect, Message: "refused"})
		}
		p.wait(time.Minute)
		p.daemon.set(func() { p.daemon.refuses, p.daemon.down = nil, false })
		p.observe(nil)
		p.wait(time.Minute)
		require.True(t, p.status().Following)
		require.Empty(t, p.warned())
	})
}

// TestDownIsNotWithoutEvents: a daemon that can't be reached is tried again within MaxBackoff, and raises no warning.
func TestDownIsNotWithoutEvents(t *testing.T) {
	quietly(t, inventory.Options{}, func(p *quietPlane) {
		p.daemon.set(func() { p.daemon.down = true })
		p.daemon.stream.Close()
		p.wait(24 * time.Hour)
		require.Empty(t, p.warned())
		require.Contains(t, p.status().Failure, "connection refused")
		begun := time.Now()
		p.daemon.set(func() { p.daemon.down = false })
		p.wait(inventory.DefaultMaxBackoff + time.Minute)
		require.Len(t, p.daemon.attempts(begun), 1)
		require.True(t, p.status().Following)
	})
}

// TestNoEventsOfEarlierRun: a stream clears the warning that an earlier process left.
func TestNoEventsOfEarlierRun(t *testing.T) {
	quietly(t, inventory.Options{}, func(p *quietPlane) {
		require.NoError(t, p.registry.Warnings().Raise(t.Context(), "sim", warning.Input{Kind: warning.Events, Message: "left"}))
		p.daemon.stream.Close()
		p.wait(time.Minute)
		require.Empty(t, p.warned())
		require.NoError(t, p.registry.Warnings().Raise(t.Context(), "sim", warning.Input{Kind: warning.Events, Message: "left"}))
		require.NoError(t, p.registry.DeleteServer(t.Context(), "sim", false))
		p.wait(time.Minute)
		require.Empty(t, p.warned(), "it leaves with the server")
	})
}

// TestSimulatedNoEvents: over real TLS, the inventory of a server without events is scanned. The stream is used once there is one.
func TestSimulatedNoEvents(t *testing.T) {
	for _, kind := range []incusostest.FaultKind{incusostest.FaultNotFound, incusostest.FaultGarbage, incusostest.FaultReset} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := boot(t, "sim")
			s.Furnish(20)
			require.NoError(t, s.SetFault(incusostest.Fault{Kind: kind, Path: "/1.0/events"}))
			p := newPlane(t, inventory.Options{MaxEventsBackoff: time.Second, KeepSecrets: true})
			p.adopt(t, s, "")
			p.run(t)
			warned := func() bool {
				page, err := p.Warnings().List(t.Context(), opscenter.WarningFilter{Kind: warning.Events, Server: "sim"}, opscenter.Page{})
				require.NoError(t, err)
				return len(page.Warnings) == 1
			}
			require.Eventually(t, warned, 20*time.Second, 20*time.Millisecond)
			o := newOperator(t, s)
			agrees(t, p.objects, "sim", o.get, within, "scanned")
			o.must("POST", "profiles", object{"name": "late"})
			require.NoError(t, p.objects.ResyncCluster(t.Context(), "sim"))
			agrees(t, p.objects, "sim", o.get, within, "scanned again")
			require.NoError(t, s.SetFault(incusostest.Fault{}))
			p.following(t, "sim", 20*time.Second)
			require.Eventually(t, func() bool { return !warned() }, 10*time.Second, 20*time.Millisecond)
			o.must("POST", "profiles", object{"name": "later"})
			agrees(t, p.objects, "sim", o.get, within, "through events")
		})
	}
}

// TestMemberWithoutEvents: a member of a cluster without events has the warning. The other members are heard.
func TestMemberWithoutEvents(t *testing.T) {
	a, b := boot(t, "a"), boot(t, "b")
	require.NoError(t, incusostest.Cluster(a, b))
	require.NoError(t, b.SetFault(incusostest.Fault{Kind: incusostest.FaultNotFound, Path: "/1.0/events"}))
	p := newPlane(t, inventory.Options{MaxBackoff: time.Second, MaxEventsBackoff: time.Second, KeepSecrets: true})
	p.adopt(t, a, "c1")
	p.run(t)
	warned := func(server string) bool {
		page, err := p.Warnings().List(t.Context(), opscenter.WarningFilter{Kind: warning.Events, Server: server}, opscenter.Page{})
		require.NoError(t, err)
		return len(page.Warnings) == 1
	}
	require.Eventually(t, func() bool { return warned("b") }, 20*time.Second, 20*time.Millisecond)
	require.False(t, warned("a"))
	o := newOperator(t, a)
	o.must("POST", "profiles", object{"name": "heard"})
	agrees(t, p.objects, "c1", o.get, within, "through the events of the other member")
	require.NoError(t, b.SetFault(incusostest.Fault{}))
	p.following(t, "c1", 20*time.Second)
	require.Eventually(t, func() bool { return !warned("b") }, 10*time.Second, 20*time.Millisecond)
}
