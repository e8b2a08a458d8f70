package cluster

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// RemoveOptions are the options of RemoveServers.
type RemoveOptions struct {
	// Force removes members that are lost for good, as Incus's own forced removal does: their contents are
	// lost. A member that answers is ErrUnsuitable.
	Force bool
}

// RemoveServer is RemoveServers of one server.
func (m *Manager) RemoveServer(ctx context.Context, name, server string) error {
	return m.RemoveServers(ctx, name, RemoveOptions{}, server)
}

// RemoveServers removes servers from their cluster, and from its record. It checks all servers before it removes the
// first. A member must be evacuated or empty: Incus refuses to remove a member with instances. RemoveServers does not
// remove the last member of a cluster that was formed.
//
// A server that is recorded, but has never joined, is removed from the record only. So RemoveServers also undoes a failed
// FormAs or AddServers.
//
// Incus resets a removed server. The server loses all its contents, and its trust in the control plane. It must be
// reinstalled, see opscenter.Registry.AllowReinstall.
//
// Errors: opscenter.ErrNotFound for an unknown cluster, and for a server that is not a member; ErrUnsuitable;
// opscenter.ErrBusy while a rollout or a change holds the cluster, unless forced; an *Error for a failed step.
func (m *Manager) RemoveServers(ctx context.Context, name string, options RemoveOptions, servers ...string) error {
	w := &work{Manager: m, name: name}
	record, err := m.registry.Cluster(ctx, name)
	if err != nil {
		return err
	}
	infos, err := w.load(ctx, servers)
	if err != nil {
		return err
	}
	if !options.Force {
		if err := w.unclaimed(ctx); err != nil {
			return err
		}
	}
	var list []removal
	for _, info := range infos {
		if info.Cluster != name {
			return fmt.Errorf("server %q is not a member of cluster %q: %w", info.Name, name, opscenter.ErrNotFound)
		}
		r, err := w.removal(ctx, record, info, options.Force)
		if err != nil {
			return err
		}
		list = append(list, r)
	}
	var other *opscenter.ServerInfo // the member that removes the others
	if slices.ContainsFunc(list, func(r removal) bool { return r.member != "" }) {
		certificate, err := w.certificate(record)
		if err != nil {
			return err
		}
		if other, err = w.remaining(ctx, certificate, list, servers, options.Force); err != nil {
			return err
		}
	}
	for _, r := range list {
		if r.member != "" {
			if err := w.step(ctx, "remove member "+r.member, func(ctx context.Context) error {
				return m.incus.RemoveMember(ctx, other.Target(), r.member, options.Force)
			}); err != nil {
				return err
			}
		}
		if err := w.step(ctx, "remove "+r.info.Name+" from the record", func(ctx context.Context) error {
			return m.registry.RemoveClusterMembers(ctx, name, opscenter.MemberRemoval{Left: r.member != "", Force: options.Force}, r.info.Name)
		}); err != nil {
			return err
		}
	}
	return nil
}

// removal is one server that is to be removed.
type removal struct {
	info *opscenter.ServerInfo
	// member is the server's name in the Incus cluster. Empty: it is in no cluster, or alone in one.
	member string
	// unsure: the server does not answer, and was never seen as a member. Another member must be asked.
	unsure bool
}

// removal returns the removal of a server, with its name as a member.
func (w *work) removal(ctx context.Context, record *opscenter.Cluster, info *opscenter.ServerInfo, force bool) (removal, error) {
	state, err := w.state(ctx, info)
	switch {
	case err == nil && force:
		return removal{}, fmt.Errorf("server %q: %w: it answers; remove it without force", info.Name, ErrUnsuitable)
	case err == nil && state.Name == "":
		return removal{info: info}, nil // it never joined, or has left
	case err == nil && record.Status == opscenter.ClusterPending && len(state.Members) == 1:
		return removal{info: info}, nil // the cluster was not formed, and has only this server
	case err == nil:
		return removal{info: info, member: state.Name}, nil // as the server reports
	case info.State.MemberName != "" && (force || info.State.Status != lifecycle.StatusReady):
		return removal{info: info, member: info.State.MemberName}, nil
	case info.State.MemberName == "" && record.Certificate == "":
		return removal{info: info}, nil
	case info.State.MemberName == "" && info.State.Status != lifecycle.StatusReady:
		return removal{info: info, member: info.Name, unsure: true}, nil
	}
	return removal{}, err
}

// resolveUnsure asks another member which of the unsure servers are members.
func (w *work) resolveUnsure(ctx context.Context, other *opscenter.ServerInfo, list []removal) error {
	for i := range list {
		if !list[i].unsure {
			continue
		}
		state, err := w.state(ctx, other)
		if err != nil {
			return err
		}
		found := slices.IndexFunc(state.Members, func(m Member) bool { return m.Name == list[i].info.Name || m.URL == list[i].info.ConnectionURL })
		if list[i].member = ""; found >= 0 {
			list[i].member = state.Members[found].Name
		}
	}
	return nil
}

// remaining returns a member that stays, and that can remove the others. A removed member with instances is
// ErrUnsuitable, unless forced.
func (w *work) remaining(ctx context.Context, certificate *x509.Certificate, list []removal, servers []string, force bool) (*opscenter.ServerInfo, error) {
	other, err := w.member(ctx, certificate, servers)
	if err == nil {
		err = w.resolveUnsure(ctx, other, list)
	}
	if err != nil || force {
		return other, err
	}
	for _, r := range list {
		if r.member == "" {
			continue
		}
		on, err := w.incus.InstancesOn(ctx, other.Target(), r.member)
		if err != nil {
			return nil, err
		}
		if on != "" {
			return nil, fmt.Errorf("server %q: %w: instance %s is on it", r.info.Name, ErrUnsuitable, on)
		}
	}
	return other, nil
}

// unclaimed returns opscenter.ErrBusy if a rollout or a change holds the cluster.
func (w *work) unclaimed(ctx context.Context) error {
	return w.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		claim, err := s.ClaimOf(w.name, true)
		if err == nil && claim != nil {
			err = fmt.Errorf("cluster %q: %s is under way: %w", w.name, claim.What, opscenter.ErrBusy)
		}
		return err
	})
}
