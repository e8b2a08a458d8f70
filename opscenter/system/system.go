// Package system changes the configuration of servers: the network, and the settings for updates,
// provider, storage, kernel and logging. It also reboots servers, powers them off and resets them.
//
// The main type is [Manager]. New attaches it to the store of a registry. Run is its background work: start
// it once, and end it by its context. The other methods also work while Run does not run.
//
//	systems, err := system.New(registry, client, system.Options{})
//	go systems.Run(ctx)
//	current, err := systems.Network(ctx, "server01")
//	current.Config.DNS.Nameservers = []string{"10.0.0.53"}
//	change, err := systems.ApplyNetwork(ctx, "server01", current.Config, system.ApplyOptions{IfMatch: current.ETag})
//
// A change of the network is a transaction in these steps:
//
//  1. The control plane stores the intent, and reserves the server or its cluster.
//  2. It sends the configuration with a confirmation timeout.
//  3. It probes the server at its old and its new addresses, until it finds the same machine with the new configuration.
//  4. It confirms the change. Without a confirmation in time the server restores its former configuration.
//
// Changes, batches over clusters, factory resets and the update settings that each server was given persist in the
// store. After a restart, Run continues those that had not ended.
//
// # Rules of changes
//
//   - A change is confirmed if the same machine answers with its certificate, at a management address of its new configuration, for 5 s. Its Incus
//     cluster must see it. The server must have told that it is done, or must have moved 90 s ago without a word.
//   - A lost answer, a missing self update or a crash of the controller does not matter: the configuration of the server decides the outcome.
//   - If another client has changed the configuration meanwhile, that change stays, and the error is ErrPrecondition.
//   - A release of IncusOS that can't undo a change is refused, unless ApplyOptions accepts the risk.
//   - Validation names the field. Problems of the present configuration do not refuse other changes. Unknown fields of newer releases keep their bytes.
//   - Secrets read as "(hidden)". Sent back, "(hidden)" keeps the secret, and "(removed)" removes it. In networks and providers a missing secret
//     stays, too. A secret that would be sent to another address must be given again.
//   - A cluster is changed member by member. All members are checked before the first change. The batch stops at the first failure.
//   - Servers have the update settings of managed servers: the channel of their record, and no automatic checks and reboots. Others raise
//     a warning, and are put back, unless Options.LeaveUpdates is set.
//   - A factory reset keeps the network, the applications and the update settings, or uses a named seed of a token. It makes a token for one
//     use, and expects the same machine with another certificate.
//   - Another operation on the server or its cluster refuses a change, unless it is forced. A server is not rebooted while a change
//     of its network waits for confirmation, even by force: a boot makes that change final. Its factory reset refuses changes likewise.
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

// Probe is the knowledge of a server that OS.Look returns: one reading, at one URL.
type Probe struct {
	// URL is where the server was reached. Remote is the address behind it.
	URL    string
	Remote netip.Addr
	// MachineID is the one that the server reports. Empty: its release does not report one.
	MachineID string
	// Network is the network configuration and state, with secrets. Nil: the server reports none.
	Network *network.Network
	// Member is the status of the server in its Incus cluster, as Incus names it, or the reason why it is not known.
	// Empty: the target names no member.
	Member string
}

// anotherThan reports whether the machine is certainly another one. An unknown machine ID on either side is no
// difference: the certificate has already proven the identity.
func (p *Probe) anotherThan(machineID string) bool {
	return machineID != "" && p.MachineID != "" && p.MachineID != machineID
}

// OS is the API of servers. Package opscenter/incusos implements it. All methods may be called concurrently.
//
// Errors of methods that change a server: opscenter.ErrRefused if the server answered that it did nothing; ErrFailed
// if it answered that it failed on the way; opscenter.ErrOutcomeUnknown if its answer was lost. Any other error
// means that the server was not asked.
// Errors of methods that only read: opscenter.ErrUnreachable, opscenter.ErrRefused if the server answered with an
// error, and opscenter.ErrNotApplicable if the server does not run IncusOS.
type OS interface {
	opscenter.Actuator
	// Look probes a server on a new connection. A certificate other than the target's is an error.
	Look(ctx context.Context, target opscenter.Target) (*Probe, error)
	// ReadSystem and WriteSystem are GET and PUT of /os/1.0/system/SECTION. The body is JSON, {"config": …}.
	ReadSystem(ctx context.Context, target opscenter.Target, section string) (json.RawMessage, error)
	WriteSystem(ctx context.Context, target opscenter.Target, section string, body []byte) error
	// CanConfirmNetwork reports whether the server undoes network changes that are not confirmed.
	CanConfirmNetwork(ctx context.Context, target opscenter.Target) (bool, error)
	// ConfirmNetwork confirms a network change. ErrNothingPending: no change waits for its confirmation.
	ConfirmNetwork(ctx context.Context, target opscenter.Target) error
	// FactoryReset resets the server to the state after its installation. The body is JSON, as of :factory-reset.
	FactoryReset(ctx context.Context, target opscenter.Target, body []byte) error
}

// Errors of Manager and OS, beside those of package opscenter.
var (
	// ErrNothingPending: no change of the network waits for its confirmation.
	ErrNothingPending = errors.New("no network change is pending")
	// ErrFailed: the server answered that it failed on the way. It may have made a part of the change.
	ErrFailed = errors.New("the server failed")
	// ErrRolledBack: the server has its former configuration. It undid the change, or never made it.
	ErrRolledBack = errors.New("the change was undone")
	// ErrLost: the control plane does not know how the change ended. The server was found neither at its new nor at its
	// old address, was found with another configuration, was reinstalled, or was removed.
	ErrLost = errors.New("the server is not seen any more")
	// ErrNoRollBack: the server's release can't undo a network change by itself. See ApplyOptions.AcceptRisk.
	ErrNoRollBack = errors.New("the server can't undo a change of its network by itself")
	// ErrStopped: the change of a cluster stopped at a member that failed. The Batch names the members that
	// were changed before.
	ErrStopped = errors.New("has stopped")
	// ErrUntouched: a member of a cluster was not changed, because the change of another member failed.
	ErrUntouched = errors.New("left untouched")
	// ErrManaged: the control plane manages this setting, see Options.LeaveUpdates.
	ErrManaged = errors.New("the setting is managed")
	// ErrRunning: Run runs already.
	ErrRunning = errors.New("is running already")
)

// Defaults of Options.
const (
	DefaultConfirmationTimeout = 5 * time.Minute
	// DefaultMinTimeout exceeds the time that an IncusOS server may take to apply a network
	// configuration. The server does not undo a change while it applies it.
	DefaultMinTimeout       = 2 * time.Minute
	MaxConfirmationTimeout  = time.Hour
	DefaultInterval         = time.Second
	DefaultLookTimeout      = 5 * time.Second
	DefaultSteady           = 5 * time.Second
	DefaultApplyTime        = 90 * time.Second
	DefaultGrace            = 5 * time.Minute
	DefaultSettleTimeout    = time.Minute
	DefaultResetTimeout     = time.Hour
	DefaultRetryInterval    = time.Minute
	DefaultMaxRetryInterval = time.Hour
	DefaultMaxPutBack       = 8
	DefaultMaxChanges       = 1000
)

// Options of New. The zero value suits most programs.
type Options struct {
	// Logger gets internal errors. Default: nothing is logged.
	Logger *slog.Logger
	// Audit is the log of changes. Nil: no log is kept.
	Audit *audit.Log
	// ConfirmationTimeout is the time after which a server undoes a network change that is not
	// confirmed. Default 5 minutes, at most 1 hour.
	ConfirmationTimeout time.Duration
	// MinTimeout is the least confirmation timeout. Default 2 minutes. Use less only with simulated servers.
	MinTimeout time.Duration
	// Interval is the time between two probes of a server whose network changes. Default 1 s.
	Interval time.Duration
	// LookTimeout bounds a probe. Default 5 s.
	LookTimeout time.Duration
	// Steady is how long each probe must find a server as it should be before the change is confirmed. Some
	// changes take effect late. At most a quarter of the confirmation timeout counts. Default 5 s.
	Steady time.Duration
	// ApplyTime is how long a server may take to apply a change. It matters for a server that is found at its new
	// address, but has reported neither success nor failure: its change is confirmed only after ApplyTime, or after
	// three quarters of the confirmation timeout if that is sooner. IncusOS waits for the network and for its
	// name servers, 30 s each, before it reports a failure. Default 90 s.
	ApplyTime time.Duration
	// Grace is how long a server is probed after the time at which it should have undone a change. Default 5 minutes.
	Grace time.Duration
	// SettleTimeout bounds the search for the outcome of a settings change whose answer was lost. The search takes
	// up to twice this value, and for storage up to twenty times. Network changes don't use it. Default 1 minute.
	SettleTimeout time.Duration
	// ResetTimeout is how long a server may take from a factory reset until it registers again. The
	// token for that registration is valid as long. Default 1 hour.
	ResetTimeout time.Duration
	// Provider tells reset servers where the control plane is. FactoryReset needs it.
	Provider Provider
	// LeaveUpdates leaves the update settings of servers alone. Default: a server follows the channel
	// of its record, and updates and reboots only at the control plane's request.
	LeaveUpdates bool
	// RetryInterval is the time until update settings that could not be put back are tried again. The time
	// doubles with each attempt in a row. After five attempts it is MaxRetryInterval, and a warning stays open
	// (warning.UpdateSettings), until the server has kept the settings for MaxRetryInterval. Default 1 minute, 1 hour.
	RetryInterval    time.Duration
	MaxRetryInterval time.Duration
	// MaxPutBack bounds the servers whose settings are put back at the same time. Default 8.
	MaxPutBack int
	// MaxChanges bounds the ended changes that are kept, and also the ended batches. Default 1000.
	MaxChanges int
	// putBackTimeout bounds the work on the settings of one server. Only tests set it. Default 30 s.
	putBackTimeout time.Duration
}

// Provider tells servers where their control plane is.
type Provider struct {
	// ServerURL is where servers reach the control plane.
	ServerURL string
	// Certificate is the one that servers pin. Nil: the control plane's certificate is publicly trusted.
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
		defaults.Of("RetryInterval", &o.RetryInterval, DefaultRetryInterval), defaults.Of("MaxRetryInterval", &o.MaxRetryInterval, DefaultMaxRetryInterval),
		defaults.Of("MaxPutBack", &o.MaxPutBack, DefaultMaxPutBack),
		defaults.Of("MaxChanges", &o.MaxChanges, DefaultMaxChanges), defaults.Of("putBackTimeout", &o.putBackTimeout, 30*time.Second))
	if err != nil {
		return o, err
	}
	if o.ConfirmationTimeout > MaxConfirmationTimeout || o.ConfirmationTimeout < o.MinTimeout {
		return o, fmt.Errorf("ConfirmationTimeout is %s, %s to %s are allowed: %w", o.ConfirmationTimeout, o.MinTimeout, MaxConfirmationTimeout, opscenter.ErrInvalidOptions)
	}
	return o, nil
}

// Manager changes servers. All methods may be called concurrently. One Manager may use a store at a time.
type Manager struct {
	registry *opscenter.Registry
	planner  *opscenter.UpdatePlanner
	os       OS
	options  Options
	log      *slog.Logger
	tagKey   []byte // keys the ETags, so that they reveal nothing of secrets

	running sync.Mutex
	mu      sync.Mutex
	active  map[string]bool // IDs of changes and batches that a goroutine of this process works on
	acting  map[string]bool // changes that this process has told the registry of
	late    map[string]*lateRequest
}

// lateRequest is a request whose outcome is known before its answer. The server still works on it.
type lateRequest struct {
	cancel context.CancelFunc
	ended  chan struct{}
}

// New returns a Manager. It starts no goroutine, see Run. Errors: opscenter.ErrInvalidOptions, and those of the store.
func New(registry *opscenter.Registry, os OS, options Options) (*Manager, error) {
	options, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	m := &Manager{registry: registry, planner: opscenter.NewUpdatePlanner(registry, os), os: os, options: options, log: options.Logger,
		tagKey: make([]byte, 32), active: map[string]bool{}, acting: map[string]bool{}, late: map[string]*lateRequest{}}
	_, _ = rand.Read(m.tagKey)
	return m, registry.Store().Attach(context.Background(), schemas()...)
}

// Options returns the options in force, defaults included.
func (m *Manager) Options() Options { return m.options }

// Audit returns the audit log. Nil: no log is kept.
func (m *Manager) Audit() *audit.Log { return m.options.Audit }

// acquire reserves the work on a change or batch for the caller. False: another goroutine of this process does it.
func (m *Manager) acquire(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.active[id] {
		return false
	}
	m.active[id] = true
	return true
}

// relinquish ends the reservation of acquire.
func (m *Manager) relinquish(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.active, id)
}

// finishLate lets a request end by itself. A server whose request is cancelled stops in the middle of a change.
// The request is cancelled after ApplyTime, or when Run ends.
func (m *Manager) finishLate(id string, cancel context.CancelFunc, answer <-chan error) {
	s := &lateRequest{cancel: cancel, ended: make(chan struct{})}
	m.mu.Lock()
	m.late[id] = s
	m.mu.Unlock()
	timer := time.AfterFunc(m.options.ApplyTime, cancel)
	go func() {
		defer close(s.ended)
		<-answer
		timer.Stop()
		cancel()
		m.mu.Lock()
		delete(m.late, id)
		m.mu.Unlock()
	}()
}

// cancelLate cancels the late requests, and waits for their ends.
func (m *Manager) cancelLate() {
	m.mu.Lock()
	var all []*lateRequest
	for _, s := range m.late {
		all = append(all, s)
	}
	m.mu.Unlock()
	for _, s := range all {
		s.cancel()
		<-s.ended
	}
}

// setActing notes whether this process has told the registry of a change, and returns the former value.
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

// acted lets polls judge the status of the server again.
func (m *Manager) acted(c *Change) {
	if m.setActing(c.ID, false) {
		m.registry.Observer().Acted(c.ServerID)
	}
}

// retryable reports whether a later attempt at the store may succeed.
func retryable(err error) bool { return !errors.Is(err, storage.ErrClosed) }

// now is the time of the Registry's clock. In a transaction, use that of the transaction.
func (m *Manager) now() time.Time { return m.registry.Observer().Now() }

// sleep waits for d. It returns false if ctx ends before.
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
