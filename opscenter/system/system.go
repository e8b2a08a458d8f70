// Package system changes servers from afar: their networks above all, and their update,
// provider, storage, kernel and logging settings, their power, and their installation.
//
//	systems, err := system.New(registry, client, system.Options{})
//	go systems.Run(ctx)
//	current, err := systems.Network(ctx, "server01")
//	current.Config.DNS.Nameservers = []string{"10.0.0.53"}
//	change, err := systems.ApplyNetwork(ctx, "server01", current.Config, system.ApplyOptions{IfMatch: current.ETag})
//
// A change of the network is a transaction: the server undoes it by itself unless the control
// plane has reached it again, found that it is the same server, and confirmed. What is asked
// for is stored before it is done; what a process did not live to see ended, Run takes up.
package system

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/opscenter-go/sdk/internal/defaults"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/network"
	"github.com/opscenter-go/sdk/storage"
)

// Sight is a look at a server.
type Sight struct {
	// URL it was reached at, and the address behind that.
	URL    string
	Remote netip.Addr
	// MachineID as it says; empty: its release does not tell it.
	MachineID string
	Network   *network.Network
	// Member is its status in its Incus cluster, as Incus names it, or why that is not known;
	// empty: it was not asked for.
	Member string
}

// anotherThan reports whether the machine is known to be another one. A machine ID that either side
// does not know tells nothing: who the server is was checked by its certificate.
func (s *Sight) anotherThan(machineID string) bool {
	return machineID != "" && s.MachineID != "" && s.MachineID != machineID
}

// OS is the API of servers. Package opscenter/incusos implements it. Once a server was asked,
// an error that is not its own word is an opscenter.ErrOutcomeUnknown; its own is an
// opscenter.ErrRefused if it has done nothing, and an ErrFailed if it may have done some of it.
// What is only read fails with opscenter.ErrUnreachable, with opscenter.ErrRefused by the server's own
// word, or with opscenter.ErrNotApplicable if the server is not on IncusOS.
type OS interface {
	opscenter.Actuator
	// Look looks at a server, on a new connection: one that presents another certificate than
	// the target's is an error.
	Look(ctx context.Context, target opscenter.Target) (*Sight, error)
	// ReadSystem and WriteSystem are GET and PUT of a section of /os/1.0/system.
	ReadSystem(ctx context.Context, target opscenter.Target, section string) (json.RawMessage, error)
	WriteSystem(ctx context.Context, target opscenter.Target, section string, body []byte) error
	// CanConfirmNetwork reports whether the server undoes changes that are not confirmed.
	CanConfirmNetwork(ctx context.Context, target opscenter.Target) (bool, error)
	// ConfirmNetwork confirms a change: ErrNothingPending if none waits for it.
	ConfirmNetwork(ctx context.Context, target opscenter.Target) error
	// FactoryReset sends the server back to where its installation left it.
	FactoryReset(ctx context.Context, target opscenter.Target, body []byte) error
}

// Errors.
var (
	// ErrNothingPending: no change of the network waits for its confirmation.
	ErrNothingPending = errors.New("no network change is pending")
	// ErrFailed: the server was asked, and says that it has failed on the way.
	ErrFailed = errors.New("the server failed")
	// ErrRolledBack: the server has its former configuration, by itself, or still.
	ErrRolledBack = errors.New("the change was undone")
	// ErrLost: the server was seen neither at its new nor at its old address.
	ErrLost = errors.New("the server is not seen any more")
	// ErrNoRollBack: the server's release can't undo a change of its network by itself. See
	// ApplyOptions.AcceptRisk.
	ErrNoRollBack = errors.New("the server can't undo a change of its network by itself")
	// ErrStopped: the change of a cluster has begun, and has stopped at a member that failed, or was
	// refused. The batch says which are changed.
	ErrStopped = errors.New("has stopped")
	// ErrUntouched: a member of a cluster was left alone, as the change of another failed.
	ErrUntouched = errors.New("left untouched")
	// ErrManaged: a setting is the control plane's own.
	ErrManaged = errors.New("the setting is managed")
	// ErrRunning: Run is running already.
	ErrRunning = errors.New("is running already")
)

// Defaults of Options.
const (
	DefaultConfirmationTimeout = 5 * time.Minute
	// DefaultMinTimeout is above the time an IncusOS server may take to apply a network
	// configuration: it does not undo one while it is at that.
	DefaultMinTimeout      = 2 * time.Minute
	MaxConfirmationTimeout = time.Hour
	DefaultInterval        = time.Second
	DefaultLookTimeout     = 5 * time.Second
	DefaultSteady          = 5 * time.Second
	DefaultApplyTime       = 90 * time.Second
	DefaultGrace           = 5 * time.Minute
	DefaultSettleTimeout   = time.Minute
	DefaultResetTimeout    = time.Hour
	DefaultRetryInterval   = time.Minute
	DefaultMaxPutBack      = 8
	DefaultMaxChanges      = 1000
)

// Options of New. The zero value is what most programs want.
type Options struct {
	// Logger gets what goes wrong inside. Default: nothing is logged.
	Logger *slog.Logger
	// Audit is the log of who changed what; nil: none is kept.
	Audit *audit.Log
	// ConfirmationTimeout is after which a server undoes a change of its network that is not
	// confirmed. Default 5 minutes, at most 1 hour.
	ConfirmationTimeout time.Duration
	// MinTimeout is the least confirmation timeout. Default 2 minutes; less is for servers that
	// are simulated.
	MinTimeout time.Duration
	// Interval is between two looks for a server whose network changes. Default 1 s.
	Interval time.Duration
	// LookTimeout bounds a look. Default 5 s.
	LookTimeout time.Duration
	// Steady is how long a server must be found as it should be, at each look, before it is told
	// that all is well: some changes take effect late. At most a quarter of the confirmation
	// timeout. Default 5 s.
	Steady time.Duration
	// ApplyTime is how long a server may take to apply a change. One that is found at its new address, and has
	// not said so far that it has applied its configuration, nor that it has failed, is told that all is well
	// only then, or when three quarters of the confirmation timeout are over. IncusOS waits for the network to be online
	// and for its name servers, 30 s each, before it says that it has failed. Default 90 s.
	ApplyTime time.Duration
	// Grace is how long after it should have undone a change a server is looked for. Default 5 minutes.
	Grace time.Duration
	// SettleTimeout is half of how long it is tried to find out what became of a change whose
	// answer was lost, and that is none of the network; for storage it is a twentieth. Default 1 minute.
	SettleTimeout time.Duration
	// ResetTimeout is how long a server may take for a factory reset, until it registers again,
	// and how long its token for that is valid. Default 1 hour.
	ResetTimeout time.Duration
	// Provider is what servers are told of the control plane when they are reset; needed for that.
	Provider Provider
	// LeaveUpdates leaves the update settings of servers alone. Default: a server follows the
	// channel of its record, and updates and reboots only when it is told to.
	LeaveUpdates bool
	// RetryInterval is before settings that could not be put back are tried again. Default 1 minute.
	RetryInterval time.Duration
	// MaxPutBack is at how many servers at a time settings are put back. Default 8.
	MaxPutBack int
	// MaxChanges is how many changes are kept after they ended, and how many of whole clusters. Default 1000.
	MaxChanges int
	// putBackTimeout bounds putting back the settings of one server. 30 s, but in tests.
	putBackTimeout time.Duration
}

// Provider tells servers where their control plane is.
type Provider struct {
	// ServerURL is where servers reach it.
	ServerURL string
	// Certificate to be pinned; nil: it is publicly trusted.
	Certificate *x509.Certificate
}

func (o Options) withDefaults() (Options, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	err := defaults.Fill(opscenter.ErrInvalidOptions,
		defaults.Of("ConfirmationTimeout", &o.ConfirmationTimeout, DefaultConfirmationTimeout), defaults.Of("MinTimeout", &o.MinTimeout, DefaultMinTimeout),
		defaults.Of("Interval", &o.Interval, DefaultInterval), defaults.Of("LookTimeout", &o.LookTimeout, DefaultLookTimeout),
		defaults.Of("Steady", &o.Steady, DefaultSteady), defaults.Of("Grace", &o.Grace, DefaultGrace),
		defaults.Of("ApplyTime", &o.ApplyTime, DefaultApplyTime), defaults.Of("SettleTimeout", &o.SettleTimeout, DefaultSettleTimeout), defaults.Of("ResetTimeout", &o.ResetTimeout, DefaultResetTimeout),
		defaults.Of("RetryInterval", &o.RetryInterval, DefaultRetryInterval), defaults.Of("MaxPutBack", &o.MaxPutBack, DefaultMaxPutBack),
		defaults.Of("MaxChanges", &o.MaxChanges, DefaultMaxChanges), defaults.Of("putBackTimeout", &o.putBackTimeout, 30*time.Second))
	if err != nil {
		return o, err
	}
	if o.ConfirmationTimeout > MaxConfirmationTimeout || o.ConfirmationTimeout < o.MinTimeout {
		return o, fmt.Errorf("ConfirmationTimeout is %s, %s to %s are allowed: %w", o.ConfirmationTimeout, o.MinTimeout, MaxConfirmationTimeout, opscenter.ErrInvalidOptions)
	}
	return o, nil
}

// Manager changes servers. All methods may be called concurrently.
type Manager struct {
	registry *opscenter.Registry
	planner  *opscenter.UpdatePlanner
	os       OS
	options  Options
	log      *slog.Logger
	tagKey   []byte // of ETags: they tell nothing of secrets

	running sync.Mutex
	mu      sync.Mutex
	driven  map[string]bool // changes, batches and resets that somebody sees to
	acting  map[string]bool // changes that this process has told the registry of
	spared  map[string]*spared
}

// spared is a request whose outcome is known, and that is not cut off: the server is at it still.
type spared struct {
	cut   context.CancelFunc
	ended chan struct{}
}

// New returns a Manager. Errors: opscenter.ErrInvalidOptions, and those of the store.
func New(registry *opscenter.Registry, os OS, options Options) (*Manager, error) {
	options, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	m := &Manager{registry: registry, planner: opscenter.NewUpdatePlanner(registry, os), os: os, options: options, log: options.Logger,
		tagKey: make([]byte, 32), driven: map[string]bool{}, acting: map[string]bool{}, spared: map[string]*spared{}}
	_, _ = rand.Read(m.tagKey)
	return m, registry.Store().Attach(context.Background(), schemas()...)
}

// Options returns the options in force, defaults included.
func (m *Manager) Options() Options { return m.options }

// Audit returns the audit log; nil: none is kept.
func (m *Manager) Audit() *audit.Log { return m.options.Audit }

// take claims to see to something in this process; false: somebody else does.
func (m *Manager) take(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.driven[id] {
		return false
	}
	m.driven[id] = true
	return true
}

func (m *Manager) leave(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.driven, id)
}

// spare lets a request end by itself: a server that is cut off while it applies a change stops where it is.
// It is cut off after ApplyTime, or when Run ends.
func (m *Manager) spare(id string, cut context.CancelFunc, answer <-chan error) {
	s := &spared{cut: cut, ended: make(chan struct{})}
	m.mu.Lock()
	m.spared[id] = s
	m.mu.Unlock()
	timer := time.AfterFunc(m.options.ApplyTime, cut)
	go func() {
		defer close(s.ended)
		<-answer
		timer.Stop()
		cut()
		m.mu.Lock()
		delete(m.spared, id)
		m.mu.Unlock()
	}()
}

// cutOff ends the requests that were spared.
func (m *Manager) cutOff() {
	m.mu.Lock()
	var all []*spared
	for _, s := range m.spared {
		all = append(all, s)
	}
	m.mu.Unlock()
	for _, s := range all {
		s.cut()
		<-s.ended
	}
}

func (m *Manager) setActing(id string, acting bool) (before bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before = m.acting[id]
	if acting {
		m.acting[id] = true
	} else {
		delete(m.acting, id)
	}
	return before
}

// acted gives the judgement of a server back to polls.
func (m *Manager) acted(c *Change) {
	if m.setActing(c.ID, false) {
		m.registry.Acted(c.ServerID)
	}
}

// retryable reports whether a store may take later what it refuses now.
func retryable(err error) bool { return !errors.Is(err, storage.ErrClosed) }

func now() time.Time { return time.Now().UTC().Round(0) }

// sleep waits, and reports whether ctx goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
