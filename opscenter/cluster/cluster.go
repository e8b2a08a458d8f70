// Package cluster forms Incus clusters out of registered servers, adds servers to them, and removes servers.
//
// The main type is [Manager]. A Manager has no background work, so it needs no start and no stop. Each call returns when
// its work has ended or failed.
//
//	clusters := cluster.New(registry, client, cluster.Options{})
//	err := clusters.Form(ctx, "c1", "server01", "server02", "server03")
//
// A call works in steps, and skips the steps that are done already. After a failure in the middle, the same call
// continues. The package stores no rows of its own: the registry stores the cluster's record, its members, and its pinned
// certificate.
//
// # Rules
//
//   - A server that joins loses all that its Incus holds, so a server whose Incus holds objects is refused.
//   - Incus resets a removed member, which then trusts no client. Install it anew.
//   - A member is not renamed, moved to another channel or deleted alone. All members are pinned to the certificate of the cluster.
//   - Removing the servers, or the cluster, takes back a formation or a join that has failed. The cluster tells which.
//   - A member of a cluster that was formed elsewhere presents that cluster's certificate: adopt the cluster, or accept the certificate.
//   - With force, Incus forgets a member that is lost.
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

// Incus is the cluster API of servers. Package incusos implements it. All methods may be called concurrently. A method that
// changes a server returns opscenter.ErrOutcomeUnknown if its answer was lost.
type Incus interface {
	// ClusterState reads the cluster of a server, if it is a member of one.
	ClusterState(ctx context.Context, target opscenter.Target) (State, error)
	// SetClusterAddress sets the address, host:port, at which the other members reach the server.
	SetClusterAddress(ctx context.Context, target opscenter.Target, address string) error
	// Bootstrap makes a server the first member of a cluster, and returns the cluster's certificate.
	Bootstrap(ctx context.Context, target opscenter.Target, name string) (*x509.Certificate, error)
	// JoinToken asks a member for a token with which a server joins the cluster under that name.
	JoinToken(ctx context.Context, target opscenter.Target, name string) (string, error)
	// MemberConfig asks a member for the settings that each joining server needs of its own.
	MemberConfig(ctx context.Context, target opscenter.Target) ([]Config, error)
	// Contents describes the objects on a server that it would lose if it joined a cluster. Empty: there are none.
	Contents(ctx context.Context, target opscenter.Target) (string, error)
	// Join makes a server a member.
	Join(ctx context.Context, target opscenter.Target, join Join) error
	// InstancesOn names one instance on a member, running or stopped. Empty: the member has none.
	InstancesOn(ctx context.Context, target opscenter.Target, member string) (string, error)
	// RemoveMember asks target to remove another member from the cluster. force: also if that member does not answer,
	// and with all its instances.
	RemoveMember(ctx context.Context, target opscenter.Target, name string, force bool) error
}

// State is the cluster state of a server, as the server reports it.
type State struct {
	// Address is the server's cluster.https_address.
	Address string
	// Name is the name of the server in its cluster. Empty: the server is in no cluster, and the fields below are empty.
	Name string
	// Certificate is the certificate of the cluster.
	Certificate *x509.Certificate
	// Members are all members of the cluster, also those that are offline.
	Members []Member
}

// Member is a member of a cluster. Status is that of Incus, such as "Online". URL is its address as an https URL.
type Member struct{ Name, Status, URL string }

// Config is a setting that each member has of its own. Entity is the kind of object, such as "storage-pool", and Name the
// name of the object. Key and Value are the setting.
type Config struct{ Entity, Name, Key, Value string }

// Join holds the parameters with which a server joins a cluster.
type Join struct {
	// Name is the name of the server in the cluster.
	Name string
	// Address is that of the joining server, ClusterAddress that of a member. Both are host:port.
	Address        string
	ClusterAddress string
	// Certificate is the certificate of the cluster.
	Certificate *x509.Certificate
	// Token is the one of Incus.JoinToken, a secret.
	Token string
	// Config are the settings of Incus.MemberConfig, with the server's values.
	Config []Config
}

// Defaults of Options.
const (
	DefaultTimeout = 5 * time.Minute
	DefaultSettle  = 20 * time.Second
)

// Options of New. The zero value suits most programs.
type Options struct {
	// Logger gets each step. Default: nothing is logged.
	Logger *slog.Logger
	// Timeout bounds each step. A step is work on one server. Default 5 minutes.
	Timeout time.Duration
	// Settle bounds the time for which a look at a server and its cluster is repeated after the server has joined, while
	// they do not answer, or refuse. Incus connects its database anew then. Default 20 s; a negative value means one look.
	Settle time.Duration
	// Address returns the address, host:port, at which other members reach a server. Empty: it is not known,
	// which is ErrUnsuitable. Default: that of the connection URL.
	Address func(server *opscenter.ServerInfo) string
	// Configure returns the settings of a joining server for the asked ones. Default: asked as it is, mostly
	// with empty values, for which Incus uses its defaults.
	Configure func(server *opscenter.ServerInfo, asked []Config) []Config
}

// Manager forms and changes clusters. All methods may be called concurrently.
type Manager struct {
	registry *opscenter.Registry
	incus    Incus
	options  Options
}

// New returns a Manager. It reads nothing, and starts no goroutine.
func New(registry *opscenter.Registry, incus Incus, options Options) *Manager {
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	if options.Timeout <= 0 {
		options.Timeout = DefaultTimeout
	}
	options.Settle = cmp.Or(options.Settle, DefaultSettle)
	if options.Address == nil {
		options.Address = addressOf
	}
	if options.Configure == nil {
		options.Configure = func(_ *opscenter.ServerInfo, asked []Config) []Config { return asked }
	}
	return &Manager{registry: registry, incus: incus, options: options}
}

// addressOf is the default of Options.Address.
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

// ErrUnsuitable: the servers, in their current state, can't be members of one cluster, or can't be removed from it.
var ErrUnsuitable = errors.New("not suitable")

// Error is a failure in the middle of a call. The same call continues with the failed step.
type Error struct {
	// Done are the steps that are done, also those of earlier calls.
	Done []string
	// Step is the step that failed.
	Step string
	// Recorded: the servers are recorded as members. To undo that, remove them from the
	// cluster, or delete its record.
	Recorded bool
	// Err is the reason, see Unwrap.
	Err error
}

// Error names the failed step, the reason, and the steps that are done.
func (e *Error) Error() string {
	done := "nothing was done"
	if len(e.Done) > 0 {
		done = "done: " + strings.Join(e.Done, "; ")
	}
	back := ""
	if e.Recorded {
		back = "; to undo it, remove the servers from the cluster, or delete its record"
	}
	return fmt.Sprintf("%s: %v (%s; the same request again continues%s)", e.Step, e.Err, done, back)
}

// Unwrap returns the reason of the failure.
func (e *Error) Unwrap() error { return e.Err }

// work is the state of one call.
type work struct {
	*Manager
	name    string
	channel string // requested channel; empty: that of the servers
	done    []string
	// recorded: the servers of the call are recorded as members.
	recorded bool
}

// step carries out a step within Options.Timeout. An error of fn is returned as an *Error.
func (w *work) step(ctx context.Context, name string, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, w.options.Timeout)
	defer cancel()
	if err := fn(ctx); err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = fmt.Errorf("not done within %s: %w: %w", w.options.Timeout, opscenter.ErrOutcomeUnknown, err)
		}
		return &Error{Done: slices.Clone(w.done), Step: name, Recorded: w.recorded, Err: err}
	}
	w.done = append(w.done, name)
	w.options.Logger.InfoContext(ctx, "cluster", "cluster", w.name, "step", name)
	return nil
}

// Form is FormAs with an empty ClusterSpec.
func (m *Manager) Form(ctx context.Context, name string, servers ...string) error {
	return m.FormAs(ctx, name, opscenter.ClusterSpec{}, servers...)
}

// FormAs forms a cluster of registered Incus servers: the first server becomes a cluster, and the others join it. Servers
// that already are members stay members. FormAs returns when all servers are members, and the record is ready.
//
// FormAs creates the record with the spec, unless there is one. A record with other members is ErrUnsuitable. FormAs pins
// the cluster's certificate for all members. Without a channel in the spec, all servers must follow the same
// channel, which becomes that of the cluster.
//
// FormAs checks the servers before it changes or records anything. All must be ready, of type incus,
// and on the same versions and channel. No update, reboot or maintenance may be pending. None may be
// in another cluster. A joining server must have no contents that it would lose. Otherwise FormAs
// returns ErrUnsuitable with all problems. Other errors before the first step are those of the registry, such as
// opscenter.ErrNotFound for an unknown server.
//
// A failure in the middle is an *Error with the steps that are done. The same call continues. To undo them, see
// RemoveServers and opscenter.Registry.DeleteCluster.
func (m *Manager) FormAs(ctx context.Context, name string, spec opscenter.ClusterSpec, servers ...string) error {
	w := &work{Manager: m, name: name, channel: spec.Channel}
	if len(servers) == 0 {
		return fmt.Errorf("cluster %q: %w: at least one server is needed", name, ErrUnsuitable)
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
			return cmp.Or(err, fmt.Errorf("cluster %q: %w: its record has other members, such as %s; add servers to it instead", name, ErrUnsuitable, strings.Join(others, ", ")))
		}
		if record.Status == opscenter.ClusterReady {
			for _, info := range infos {
				if info.Cluster != name {
					return fmt.Errorf("cluster %q is formed already: %w: add servers to it instead", name, ErrUnsuitable)
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
	if err := w.refuseContents(ctx, infos[max(1, joined):]); err != nil { // the first server keeps its contents
		return err
	}
	switch {
	case record == nil:
		err = w.step(ctx, "record the cluster", func(ctx context.Context) error {
			spec.Channel = cmp.Or(spec.Channel, infos[0].Channel)
			_, err := m.registry.CreateCluster(ctx, name, spec, servers...)
			return err
		})
	case record.Status != opscenter.ClusterReady: // pending: an earlier call did not end
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
	return w.step(ctx, "record that the cluster is ready", func(ctx context.Context) error {
		return m.registry.Write(ctx, func(tx *opscenter.Tx) error { return tx.SetClusterStatus(name, opscenter.ClusterReady) })
	})
}

// unrecorded returns the reason of a failed first step as it is: no step is done, so an *Error would add nothing.
func (w *work) unrecorded(err error) error {
	var failed *Error
	if errors.As(err, &failed) && len(failed.Done) == 0 {
		return failed.Err
	}
	return err
}

// AddServers makes registered servers members of a cluster that was formed. It makes the checks of FormAs against a member
// of the cluster, and returns the errors of FormAs. opscenter.ErrNotFound: the cluster or a server is unknown.
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

// certificate returns the certificate of a cluster that was formed. Otherwise it returns ErrUnsuitable.
func (w *work) certificate(record *opscenter.Cluster) (*x509.Certificate, error) {
	if record.Certificate == "" {
		return nil, fmt.Errorf("cluster %q: %w: it is not formed so far; form it first", w.name, ErrUnsuitable)
	}
	return opscenter.ParseCertificate(record.Certificate)
}

// first makes the first server a cluster, unless it is one, and pins the cluster's certificate.
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
		if err := w.registry.Write(ctx, func(tx *opscenter.Tx) error { return tx.SetClusterCertificate(w.name, certificate) }); err != nil {
			return err
		}
		return w.registry.Write(ctx, func(tx *opscenter.Tx) error { return tx.SetMemberName(info.Name, cmp.Or(state.Name, info.Name)) })
	})
}

// join makes a server a member of the cluster of another server, first.
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
			return fmt.Errorf("%w: it was removed from the record meanwhile", ErrUnsuitable)
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
		return w.registry.Write(ctx, func(tx *opscenter.Tx) error { return tx.SetMemberName(name, state.Name) }) // it had joined already
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
		// The server is a member when both sides report that.
		state, err := w.settled(ctx, info.Target())
		switch {
		case err != nil:
			return errors.Join(asked, err)
		case state.Name == "" || !state.Certificate.Equal(certificate):
			return fmt.Errorf("%w: server %s reports that it is not a member of the cluster", cmp.Or(asked, opscenter.ErrOutcomeUnknown), name)
		}
		first, err := w.settled(ctx, member.Target())
		if err == nil && !slices.ContainsFunc(first.Members, func(m Member) bool { return m.Name == state.Name }) {
			err = fmt.Errorf("%w: server %s does not know member %s", opscenter.ErrOutcomeUnknown, member.Name, state.Name)
		}
		if err != nil {
			return err
		}
		return w.registry.Write(ctx, func(tx *opscenter.Tx) error { return tx.SetMemberName(name, state.Name) })
	})
}

// settled reads the cluster of a server that has just joined, or of the member that let it join.
func (w *work) settled(ctx context.Context, target opscenter.Target) (State, error) {
	end := time.Now().Add(w.options.Settle)
	for pause := settlePause; ; pause *= 2 {
		state, err := w.incus.ClusterState(ctx, target)
		passing := errors.Is(err, opscenter.ErrUnreachable) || errors.Is(err, opscenter.ErrRefused)
		if !passing || time.Now().Add(pause).After(end) {
			return state, err
		}
		w.options.Logger.InfoContext(ctx, "cluster", "cluster", w.name, "server", target.Name, "looked at again in", pause, "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return state, err
		}
	}
}

// settlePause is the pause before the second look of settled. It doubles with each.
const settlePause = 100 * time.Millisecond
