// Package cluster forms Incus clusters out of registered servers, adds servers to them, and
// removes them. What is done is done step by step, each of which leaves alone what is done
// already: what failed in the middle is gone on with by asking for the same again.
package cluster

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
)

// Incus is what is asked of servers. Package incusos implements it.
type Incus interface {
	// ClusterState reads whether a server is a member of a cluster, and of which.
	ClusterState(ctx context.Context, target opscenter.Target) (State, error)
	// SetClusterAddress sets the address the server is reached at by the other members.
	SetClusterAddress(ctx context.Context, target opscenter.Target, address string) error
	// Bootstrap makes a server the first member of a cluster, and returns the cluster's certificate.
	Bootstrap(ctx context.Context, target opscenter.Target, name string) (*x509.Certificate, error)
	// JoinToken asks a member for a token by which a server becomes another, by that name.
	JoinToken(ctx context.Context, target opscenter.Target, name string) (string, error)
	// MemberConfig asks a member what those who join have to configure for themselves.
	MemberConfig(ctx context.Context, target opscenter.Target) ([]Config, error)
	// Contents says what a server has that would be lost if it joined a cluster.
	Contents(ctx context.Context, target opscenter.Target) (string, error)
	// Join makes a server a member.
	Join(ctx context.Context, target opscenter.Target, join Join) error
	// InstancesOn names an instance that is on a member, whether it runs or not; empty: there is none.
	InstancesOn(ctx context.Context, target opscenter.Target, member string) (string, error)
	// RemoveMember takes another member out of the cluster; force: although it does not answer, and
	// whatever is on it.
	RemoveMember(ctx context.Context, target opscenter.Target, name string, force bool) error
}

// State is what a server says of its cluster.
type State struct {
	// Address is its cluster.https_address.
	Address string
	// Name of the server in its cluster; empty: it is in none, and what follows is, too.
	Name string
	// Certificate is the cluster's.
	Certificate *x509.Certificate
	Members     []Member
}

// Member of a cluster.
type Member struct{ Name, Status, URL string }

// Config is a value that each member has for itself.
type Config struct{ Entity, Name, Key, Value string }

// Join is what a server joins a cluster with.
type Join struct {
	Name           string
	Address        string // of the server
	ClusterAddress string // of a member
	Certificate    *x509.Certificate
	Token          string
	Config         []Config
}

// DefaultTimeout is what Options.Timeout is by default.
const DefaultTimeout = 5 * time.Minute

// Options of New. The zero value is what most programs want.
type Options struct {
	// Logger gets each step. Default: nothing is logged.
	Logger *slog.Logger
	// Timeout bounds the work on one server. Default 5 minutes.
	Timeout time.Duration
	// Address returns the address, host:port, at which other members reach a server. Default:
	// that of its connection URL.
	Address func(server *opscenter.ServerInfo) string
	// Configure returns the values of a server that joins for what each member has for itself,
	// given what is asked for. Default: the values that are given, mostly empty: Incus's defaults.
	Configure func(server *opscenter.ServerInfo, asked []Config) []Config
}

// Manager forms clusters. All methods may be called concurrently.
type Manager struct {
	registry *opscenter.Registry
	incus    Incus
	options  Options
}

// New returns a Manager.
func New(registry *opscenter.Registry, incus Incus, options Options) *Manager {
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	if options.Timeout <= 0 {
		options.Timeout = DefaultTimeout
	}
	if options.Address == nil {
		options.Address = addressOf
	}
	if options.Configure == nil {
		options.Configure = func(_ *opscenter.ServerInfo, asked []Config) []Config { return asked }
	}
	return &Manager{registry: registry, incus: incus, options: options}
}

func addressOf(server *opscenter.ServerInfo) string {
	u, err := url.Parse(server.ConnectionURL)
	if err != nil {
		return ""
	}
	if u.Port() == "" {
		return net.JoinHostPort(u.Hostname(), "443")
	}
	return u.Host
}

// ErrUnsuitable: servers can't be made members of one cluster as they are.
var ErrUnsuitable = errors.New("not suitable")

// Error tells how far it came. Asking for the same again goes on from there.
type Error struct {
	// Done are the steps that were taken, or found taken already.
	Done []string
	// Step is the one that failed.
	Step string
	// Recorded: the servers are recorded as members. That is taken back by removing them from the
	// cluster, or by deleting its record.
	Recorded bool
	Err      error
}

func (e *Error) Error() string {
	done := "nothing was done"
	if len(e.Done) > 0 {
		done = "done: " + strings.Join(e.Done, "; ")
	}
	back := ""
	if e.Recorded {
		back = "; it is taken back by removing the servers from the cluster, or by deleting its record"
	}
	return fmt.Sprintf("%s: %v (%s; ask for the same again to go on%s)", e.Step, e.Err, done, back)
}

func (e *Error) Unwrap() error { return e.Err }

// work is one call.
type work struct {
	*Manager
	name    string
	channel string // that is given; empty: it is that of the servers
	done    []string
	// recorded: its servers are recorded as members.
	recorded bool
}

// step takes a step, within its time.
func (w *work) step(ctx context.Context, what string, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, w.options.Timeout)
	defer cancel()
	if err := do(ctx); err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = fmt.Errorf("not done within %s: %w: %w", w.options.Timeout, opscenter.ErrOutcomeUnknown, err)
		}
		return &Error{Done: slices.Clone(w.done), Step: what, Recorded: w.recorded, Err: err}
	}
	w.done = append(w.done, what)
	w.options.Logger.InfoContext(ctx, "cluster", "cluster", w.name, "step", what)
	return nil
}

// Form is FormAs with an empty ClusterSpec.
func (m *Manager) Form(ctx context.Context, name string, servers ...string) error {
	return m.FormAs(ctx, name, opscenter.ClusterSpec{}, servers...)
}

// FormAs forms a cluster of registered Incus servers, the first of which makes it and the
// others join. It is recorded first, with the spec, if it is not yet; a record with other members than
// these, or a part of them, is refused. Once formed its certificate is pinned for all members. Without
// a channel in the spec, the servers must follow one, which is the cluster's.
//
// FormAs checks the servers before it does or records anything. All must be ready, of type incus,
// and on the same versions and channel. No update, reboot or maintenance may be pending. None may be
// in another cluster. Those that are to join may have nothing that they would lose. Otherwise FormAs
// returns ErrUnsuitable with all that is wrong. A failure in the middle is an *Error that tells how
// far it came. It can be taken back: see RemoveServers, and opscenter.Registry.DeleteCluster.
func (m *Manager) FormAs(ctx context.Context, name string, spec opscenter.ClusterSpec, servers ...string) error {
	w := &work{Manager: m, name: name, channel: spec.Channel}
	if len(servers) == 0 {
		return fmt.Errorf("cluster %q: %w: at least one server is wanted", name, ErrUnsuitable)
	}
	infos, err := w.load(ctx, servers)
	if err != nil {
		return err
	}
	record, err := m.registry.Cluster(ctx, name)
	if err != nil && !errors.Is(err, opscenter.ErrNotFound) {
		return err
	}
	if record != nil {
		if others, err := w.others(ctx, servers); err != nil || len(others) > 0 {
			return cmp.Or(err, fmt.Errorf("cluster %q: %w: its record has other members, as %s; add servers to it instead", name, ErrUnsuitable, strings.Join(others, ", ")))
		}
		if record.Status == opscenter.ClusterReady {
			for _, info := range infos {
				if info.Cluster != name {
					return fmt.Errorf("cluster %q has been formed already: %w: add servers to it instead", name, ErrUnsuitable)
				}
			}
		}
	}
	infos, joined, err := w.order(ctx, infos, record)
	if err != nil {
		return err
	}
	if err := w.suitable(infos[joined:], infos[0]); err != nil {
		return err
	}
	if err := w.refuseContents(ctx, infos[max(1, joined):]); err != nil { // the one that makes the cluster keeps what it has
		return err
	}
	switch {
	case record == nil:
		err = w.step(ctx, "record the cluster", func(ctx context.Context) error {
			spec.Channel = cmp.Or(spec.Channel, infos[0].Channel)
			_, err := m.registry.CreateCluster(ctx, name, spec, servers...)
			return err
		})
	case record.Status != opscenter.ClusterReady: // pending: it goes on
		err = w.step(ctx, "record its members", func(ctx context.Context) error {
			return m.registry.AddClusterMembers(ctx, name, servers...)
		})
	}
	if err != nil {
		return w.unrecorded(err)
	}
	w.recorded = true
	certificate, err := w.first(ctx, infos[0])
	if err != nil {
		return err
	}
	for _, info := range infos[1:] {
		if err := w.join(ctx, infos[0].Name, info.Name, certificate); err != nil {
			return err
		}
	}
	return w.step(ctx, "note that it is ready", func(ctx context.Context) error {
		return m.registry.SetClusterStatus(ctx, name, opscenter.ClusterReady)
	})
}

// unrecorded returns why something could not be recorded: nothing was done by then.
func (w *work) unrecorded(err error) error {
	var failed *Error
	if errors.As(err, &failed) && len(failed.Done) == 0 {
		return failed.Err
	}
	return err
}

// AddServers makes registered servers members of a cluster that was formed. The checks and
// errors are those of FormAs, the versions and the channel those of the cluster's members.
func (m *Manager) AddServers(ctx context.Context, name string, servers ...string) error {
	w := &work{Manager: m, name: name}
	record, err := m.registry.Cluster(ctx, name)
	if err != nil {
		return err
	}
	infos, err := w.load(ctx, servers)
	if err != nil {
		return err
	}
	certificate, err := w.certificate(record)
	if err != nil {
		return err
	}
	member, err := w.member(ctx, certificate, servers)
	if err != nil {
		return err
	}
	infos, joined, err := w.order(ctx, infos, record)
	if err != nil {
		return err
	}
	if err := w.suitable(infos[joined:], member); err != nil {
		return err
	}
	if err := w.refuseTakenNames(ctx, member, infos[joined:]); err != nil {
		return err
	}
	if err := w.refuseContents(ctx, infos[joined:]); err != nil {
		return err
	}
	if err := w.step(ctx, "record its members", func(ctx context.Context) error {
		return m.registry.AddClusterMembers(ctx, name, servers...)
	}); err != nil {
		return w.unrecorded(err)
	}
	w.recorded = true
	for _, info := range infos {
		if err := w.join(ctx, member.Name, info.Name, certificate); err != nil {
			return err
		}
	}
	return nil
}

// certificate is that of a cluster that was formed.
func (w *work) certificate(record *opscenter.Cluster) (*x509.Certificate, error) {
	if record.Certificate == "" {
		return nil, fmt.Errorf("cluster %q: %w: it was not formed so far; ask for that again first", w.name, ErrUnsuitable)
	}
	return opscenter.ParseCertificate(record.Certificate)
}

// first makes the first server a cluster, and pins the cluster's certificate.
func (w *work) first(ctx context.Context, info *opscenter.ServerInfo) (certificate *x509.Certificate, err error) {
	var state State
	err = w.step(ctx, "look at "+info.Name, func(ctx context.Context) error {
		state, err = w.incus.ClusterState(ctx, info.Target())
		return err
	})
	if err != nil {
		return nil, err
	}
	if certificate = state.Certificate; state.Name == "" {
		err = w.step(ctx, "set the address of "+info.Name, func(ctx context.Context) error {
			return w.incus.SetClusterAddress(ctx, info.Target(), w.options.Address(info))
		})
		if err == nil {
			err = w.step(ctx, "make "+info.Name+" a cluster", func(ctx context.Context) error {
				certificate, err = w.incus.Bootstrap(ctx, info.Target(), info.Name)
				return err
			})
		}
		if err != nil {
			return nil, err
		}
	}
	return certificate, w.step(ctx, "pin the cluster's certificate", func(ctx context.Context) error {
		if err := w.registry.SetClusterCertificate(ctx, w.name, certificate); err != nil {
			return err
		}
		return w.registry.SetMemberName(ctx, info.Name, cmp.Or(state.Name, info.Name))
	})
}

// join makes a server a member of the cluster that another one is a member of.
func (w *work) join(ctx context.Context, first, name string, certificate *x509.Certificate) error {
	var state State
	var member, info *opscenter.ServerInfo
	err := w.step(ctx, "look at "+name, func(ctx context.Context) (err error) {
		if member, err = w.registry.Server(ctx, first); err != nil {
			return err
		}
		if info, err = w.registry.Server(ctx, name); err != nil {
			return err
		}
		if info.Cluster != w.name {
			return fmt.Errorf("%w: it was taken out of the record meanwhile", ErrUnsuitable)
		}
		state, err = w.incus.ClusterState(ctx, info.Target())
		return err
	})
	if err != nil {
		return err
	}
	if state.Name != "" {
		if !state.Certificate.Equal(certificate) {
			return &Error{Done: w.done, Step: "look at " + name, Recorded: w.recorded, Err: fmt.Errorf("%w: it is a member of another Incus cluster", ErrUnsuitable)}
		}
		return w.registry.SetMemberName(ctx, name, state.Name) // it has joined already
	}
	return w.step(ctx, "let "+name+" join", func(ctx context.Context) error {
		if has, err := w.incus.Contents(ctx, info.Target()); err != nil || has != "" {
			return cmp.Or(err, fmt.Errorf("%w: it has %s, which would be lost", ErrUnsuitable, has))
		}
		if err := w.incus.SetClusterAddress(ctx, info.Target(), w.options.Address(info)); err != nil {
			return err
		}
		config, err := w.incus.MemberConfig(ctx, member.Target())
		if err != nil {
			return err
		}
		token, err := w.incus.JoinToken(ctx, member.Target(), name)
		if err != nil {
			return err
		}
		asked := w.incus.Join(ctx, info.Target(), Join{Name: name, Address: w.options.Address(info), ClusterAddress: w.options.Address(member),
			Certificate: certificate, Token: token, Config: w.options.Configure(info, config)})
		if asked != nil && !errors.Is(asked, opscenter.ErrOutcomeUnknown) {
			return asked
		}
		// It is a member when both sides say so.
		state, err := w.incus.ClusterState(ctx, info.Target())
		switch {
		case err != nil:
			return errors.Join(asked, err)
		case state.Name == "" || !state.Certificate.Equal(certificate):
			return fmt.Errorf("%w: server %s says that it is no member of the cluster", cmp.Or(asked, opscenter.ErrOutcomeUnknown), name)
		}
		first, err := w.incus.ClusterState(ctx, member.Target())
		if err == nil && !slices.ContainsFunc(first.Members, func(m Member) bool { return m.Name == state.Name }) {
			err = fmt.Errorf("%w: server %s does not know member %s", opscenter.ErrOutcomeUnknown, member.Name, state.Name)
		}
		if err != nil {
			return err
		}
		return w.registry.SetMemberName(ctx, name, state.Name)
	})
}
