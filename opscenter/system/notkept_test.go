package system_test

import (
	"context"
	"encoding/json"
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
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/system"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// stubbornOS is a server with update settings of its own, for tests of timers in a synctest bubble: real sockets do not work
// there. It has no other requests of system.OS.
type stubbornOS struct {
	system.OS
	mu      sync.Mutex
	has     lifecycle.UpdateSettings
	keeps   bool  // the settings that are sent
	refuses error // to take settings
	sent    int
}

func (s *stubbornOS) ReadSystem(context.Context, opscenter.Target, string) (json.RawMessage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Appendf(nil, `{"config":{"auto_reboot":%t,"channel":%q,"check_frequency":%q},"state":{}}`, s.has.AutoReboot, s.has.Channel, s.has.CheckFrequency), nil
}

func (s *stubbornOS) WriteSystem(_ context.Context, _ opscenter.Target, _ string, body []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent++
	if s.refuses != nil {
		return s.refuses
	}
	if s.keeps {
		var sent struct{ Config system.UpdateConfig }
		if err := json.Unmarshal(body, &sent); err != nil {
			return err
		}
		s.has = lifecycle.UpdateSettings{AutoReboot: sent.Config.AutoReboot, Channel: sent.Config.Channel, CheckFrequency: sent.Config.CheckFrequency}
	}
	return nil
}

func (s *stubbornOS) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *stubbornOS) puts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent
}

// stubborn is a control plane with one stubborn server, in a bubble.
type stubborn struct {
	t        *testing.T
	store    *memstore.Store
	registry *opscenter.Registry
	os       stubbornOS
	log      controltest.Log
	every    time.Duration // between two polls
}

// ofItsOwn are update settings that no managed server has.
var ofItsOwn = lifecycle.UpdateSettings{Channel: "daily", AutoReboot: true, CheckFrequency: "6h"}

func stubbornly(t *testing.T, test func(p *stubborn)) {
	identity, err := selfsigned.New("server")
	require.NoError(t, err)
	synctest.Test(t, func(t *testing.T) {
		p := &stubborn{t: t, store: memstore.New(memstore.Options{DetectMutation: true}), every: 5 * time.Minute}
		p.os.has = ofItsOwn
		p.open()
		token, err := p.registry.CreateToken(t.Context(), opscenter.TokenSpec{})
		require.NoError(t, err)
		_, err = p.registry.Register(t.Context(), opscenter.Registration{Token: token.UUID, Certificate: identity.Leaf, Name: "a", ConnectionURL: "https://127.0.0.1:1"})
		require.NoError(t, err)
		test(p)
	})
}

// open opens the registry, as a new process does.
func (p *stubborn) open() {
	var err error
	p.registry, err = opscenter.NewRegistry(p.store, opscenter.Options{})
	require.NoError(p.t, err)
}

// run runs a Manager for that time. Meanwhile the server is polled.
func (p *stubborn) run(d time.Duration) {
	p.t.Helper()
	manager, err := system.New(p.registry, &p.os, system.Options{Interval: 30 * time.Second, Logger: slog.New(slog.NewJSONHandler(&p.log, nil))})
	require.NoError(p.t, err)
	ctx, cancel := context.WithCancel(p.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- manager.Run(ctx) }()
	for end := time.Now().Add(d); time.Now().Before(end); {
		p.poll()
		time.Sleep(p.every)
		synctest.Wait()
	}
	cancel()
	require.ErrorIs(p.t, <-ended, context.Canceled)
}

func (p *stubborn) poll() {
	p.t.Helper()
	info, err := p.registry.Server(p.t.Context(), "a")
	require.NoError(p.t, err)
	p.os.mu.Lock()
	has := p.os.has
	p.os.mu.Unlock()
	kind, maintenance := lifecycle.TypeIncus, lifecycle.NotInMaintenance
	o := lifecycle.Observation{Server: "a", ID: info.ID, At: time.Now(), Presented: info.Fingerprint, Ready: true, Type: &kind, Maintenance: &maintenance,
		Versions: &lifecycle.Versions{OS: lifecycle.OSVersion{Name: "IncusOS", Version: "202610010000"}}, Update: &has}
	if !p.registry.Observer().RecordUnchanged(&o) {
		require.NoError(p.t, p.registry.Observer().Record(p.t.Context(), o))
	}
}

// warnings returns the messages of the open warnings, and how often one was raised.
func (p *stubborn) warnings() (open []string, raised int) {
	p.t.Helper()
	page, err := p.registry.Warnings().List(p.t.Context(), opscenter.WarningFilter{Kind: warning.UpdateSettings}, opscenter.Page{})
	require.NoError(p.t, err)
	for _, w := range page.Warnings {
		open = append(open, w.Message)
	}
	events, err := p.registry.ListEvents(p.t.Context(), opscenter.EventFilter{Limit: 1000, Newest: true})
	require.NoError(p.t, err)
	for _, e := range events {
		if e.Kind == event.WarningRaised {
			raised++
		}
	}
	return open, raised
}

// TestSettingsNeverKept: a server that never keeps its update settings, or never takes them, gets them once an hour. That costs
// a few commits an hour, no line of the log and one standing warning, also after restarts. Once the server keeps the
// settings, a later drift is put back at once.
func TestSettingsNeverKept(t *testing.T) {
	for name, refuses := range map[string]error{"not kept": nil, "refused": opscenter.ErrRefused} {
		t.Run(name, func(t *testing.T) {
			stubbornly(t, func(p *stubborn) {
				p.os.refuses = refuses
				p.run(6 * time.Hour)
				require.GreaterOrEqual(t, p.os.puts(), 5)
				require.LessOrEqual(t, p.os.puts(), 12)
				open, before := p.warnings()
				require.Len(t, open, 1)
				require.Contains(t, open[0], "5 attempts in a row were in vain, and the next ones follow every 1h0m0s")
				puts, commits, lines := p.os.puts(), p.store.Stats().Commits, p.log.String()
				const days = 7
				for range days {
					p.open() // each day in a new process
					p.run(24 * time.Hour)
				}
				puts = p.os.puts() - puts
				require.LessOrEqual(t, puts, 24*days)
				require.GreaterOrEqual(t, puts, 20*days)
				commits = p.store.Stats().Commits - commits
				t.Logf("%d puts and %d commits in %d days", puts, commits, days)
				require.LessOrEqual(t, commits, uint64(8*puts+20*days))
				require.Equal(t, lines, p.log.String())
				open, raised := p.warnings()
				require.Len(t, open, 1)
				require.LessOrEqual(t, raised, before, "the warning stays open")

				p.os.set(func() { p.os.keeps, p.os.refuses = true, nil })
				p.run(3 * time.Hour)
				open, _ = p.warnings()
				require.Empty(t, open)
				require.Equal(t, lifecycle.ManagedUpdates("stable"), p.os.has)
				puts = p.os.puts()
				p.run(24 * time.Hour)
				require.Equal(t, puts, p.os.puts())
				p.os.set(func() { p.os.has = ofItsOwn })
				p.run(5 * time.Minute)
				require.Equal(t, puts+1, p.os.puts(), "back to normal")
				require.Equal(t, lifecycle.ManagedUpdates("stable"), p.os.has)
				require.Len(t, strings.Split(strings.TrimSpace(p.log.String()), "\n"), len(strings.Split(strings.TrimSpace(lines), "\n")))
			})
		})
	}
}

// TestRestoredByHand: the warning about other settings is cleared if the server has the managed ones before the next
// attempt.
func TestRestoredByHand(t *testing.T) {
	stubbornly(t, func(p *stubborn) {
		p.every = 20 * time.Second
		raised := 0
		time.AfterFunc(45*time.Second, func() { // the second attempt was after 20 s, and the third is due a minute later
			_, raised = p.warnings()
		})
		time.AfterFunc(50*time.Second, func() {
			p.os.set(func() { p.os.has = lifecycle.ManagedUpdates("stable") })
		})
		p.run(10 * time.Minute)
		require.Equal(t, 2, p.os.puts())
		require.Equal(t, 2, raised)
		open, _ := p.warnings()
		require.Empty(t, open)
	})
}
