package cluster

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// load reads servers from the registry. A server that is named twice is ErrUnsuitable.
func (w *work) load(ctx context.Context, servers []string) (out []*opscenter.ServerInfo, err error) {
	for i, name := range servers {
		if slices.Contains(servers[:i], name) {
			return nil, fmt.Errorf("cluster %q: %w: server %q is named twice", w.name, ErrUnsuitable, name)
		}
		info, err := w.registry.Server(ctx, name)
		if err != nil {
			return nil, err
		}
		out = append(out, info)
	}
	return out, nil
}

// others returns the recorded members of the cluster, except those in without.
func (w *work) others(ctx context.Context, without []string) (out []string, err error) {
	for info, err := range w.registry.Servers(ctx, opscenter.ServerFilter{Cluster: w.name}) {
		if err != nil {
			return nil, err
		}
		if !slices.Contains(without, info.Name) {
			out = append(out, info.Name)
		}
	}
	return out, nil
}

// member returns a server that answers, and reports that it is a member of the cluster. It is none of without.
func (w *work) member(ctx context.Context, certificate *x509.Certificate, without []string) (*opscenter.ServerInfo, error) {
	names, err := w.others(ctx, without)
	if err != nil {
		return nil, err
	}
	failures := []error{fmt.Errorf("cluster %q: %w: no other member answers", w.name, ErrUnsuitable)}
	for _, name := range names {
		info, err := w.registry.Server(ctx, name)
		if err != nil || info.State.Status != lifecycle.StatusReady {
			continue
		}
		state, err := w.state(ctx, info)
		switch {
		case err != nil:
			failures = append(failures, err)
		case state.Name != "" && state.Certificate.Equal(certificate):
			return info, nil
		}
	}
	return nil, errors.Join(failures...)
}

// state reads the cluster state of a server. The error is an *Error.
func (w *work) state(ctx context.Context, info *opscenter.ServerInfo) (State, error) {
	ctx, cancel := context.WithTimeout(ctx, w.options.Timeout)
	defer cancel()
	state, err := w.incus.ClusterState(ctx, info.Target())
	if err != nil {
		return state, &Error{Done: slices.Clone(w.done), Step: "look at " + info.Name, Err: err}
	}
	return state, nil
}

// order puts the servers that already are members first, and counts them. The others join the first of them. A
// member of another cluster, or of a cluster with further servers, is ErrUnsuitable.
func (w *work) order(ctx context.Context, infos []*opscenter.ServerInfo, record *opscenter.Cluster) (out []*opscenter.ServerInfo, joined int, err error) {
	var rest []*opscenter.ServerInfo
	var names []string
	for _, info := range infos {
		names = append(names, info.Name)
	}
	for _, info := range infos {
		if info.State.Status != lifecycle.StatusReady || info.State.Type != lifecycle.TypeIncus {
			rest = append(rest, info) // suitable refuses it
			continue
		}
		state, err := w.state(ctx, info)
		if err != nil {
			return nil, 0, err
		}
		if state.Name == "" {
			rest = append(rest, info)
			continue
		}
		known := record != nil && record.Fingerprint != ""
		if known && opscenter.Fingerprint(state.Certificate) != record.Fingerprint {
			return nil, 0, fmt.Errorf("cluster %q: %w: server %s is a member of another Incus cluster", w.name, ErrUnsuitable, info.Name)
		}
		for _, m := range state.Members {
			if !known && !slices.Contains(names, m.Name) {
				return nil, 0, fmt.Errorf("cluster %q: %w: server %s is a member of an Incus cluster with %s, which is not one of these servers", w.name, ErrUnsuitable, info.Name, m.Name)
			}
		}
		out = append(out, info)
	}
	return append(out, rest...), len(out), nil
}

// suitable returns ErrUnsuitable, with all problems, unless the servers can be members of one cluster with like.
func (w *work) suitable(infos []*opscenter.ServerInfo, like *opscenter.ServerInfo) error {
	var wrong []string
	for _, info := range infos {
		note := func(format string, args ...any) {
			wrong = append(wrong, fmt.Sprintf("server %s: ", info.Name)+fmt.Sprintf(format, args...))
		}
		s := &info.State
		if info.Cluster != "" && info.Cluster != w.name {
			note("it is a member of cluster %s", info.Cluster)
		}
		if s.Status != lifecycle.StatusReady || s.StatusDetail != lifecycle.DetailNone {
			note("it is %s %s", s.Status, s.StatusDetail)
			continue
		}
		if s.Type != lifecycle.TypeIncus {
			note("it is of type %s, not incus", s.Type)
		}
		if have, want := versions(info), versions(like); have != want {
			note("its versions are %s, those of %s are %s", have, like.Name, want)
		}
		if info.Channel != like.Channel && info.Cluster != w.name && w.channel == "" {
			note("it follows channel %s, %s follows %s", info.Channel, like.Name, like.Channel)
		}
		if info.NeedsUpdate() {
			note("an update is pending")
		}
		if info.NeedsReboot() {
			note("a reboot is pending")
		}
		if info.InMaintenance() {
			note("it is in maintenance (%s)", s.Maintenance)
		}
		if w.options.Address(info) == "" {
			note("its address is not known")
		}
	}
	if wrong != nil {
		return fmt.Errorf("cluster %q: %w: %s", w.name, ErrUnsuitable, strings.Join(wrong, "; "))
	}
	return nil
}

// refuseContents returns ErrUnsuitable for a server with contents that it would lose when it joins.
func (w *work) refuseContents(ctx context.Context, joining []*opscenter.ServerInfo) error {
	for _, info := range joining {
		bounded, cancel := context.WithTimeout(ctx, w.options.Timeout)
		has, err := w.incus.Contents(bounded, info.Target())
		cancel()
		if err != nil {
			return &Error{Step: "look at the contents of " + info.Name, Err: err}
		}
		if has != "" {
			return fmt.Errorf("cluster %q: %w: server %s has %s, which would be lost", w.name, ErrUnsuitable, info.Name, has)
		}
	}
	return nil
}

// refuseTakenNames returns ErrUnsuitable for a server whose name another member has.
func (w *work) refuseTakenNames(ctx context.Context, member *opscenter.ServerInfo, joining []*opscenter.ServerInfo) error {
	state, err := w.state(ctx, member)
	if err != nil {
		return err
	}
	for _, info := range joining {
		if slices.ContainsFunc(state.Members, func(m Member) bool { return m.Name == info.Name }) {
			return fmt.Errorf("cluster %q: %w: it already has a member %s, which is another server", w.name, ErrUnsuitable, info.Name)
		}
	}
	return nil
}

// versions returns the versions in which the members of a cluster must agree.
func versions(info *opscenter.ServerInfo) string {
	v := info.State.Versions
	out := "os " + v.OS.Version
	for _, a := range v.Applications {
		if a.Primary {
			out += ", " + a.Name + " " + a.Version
		}
	}
	return out
}
