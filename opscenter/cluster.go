package opscenter

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/storage"
)

// ClusterStatus is where a cluster's record is. The names are those of Operations Center.
type ClusterStatus string

const (
	// ClusterPending: it is being formed, or was not seen as one, yet.
	ClusterPending ClusterStatus = "pending"
	// ClusterReady: its servers are members of an Incus cluster.
	ClusterReady ClusterStatus = "ready"
)

// Cluster is the record of an Incus cluster. Its members are the servers whose Cluster it is.
type Cluster struct {
	// ID is given by the Registry, and never changes.
	ID          string
	Name        string
	Description string
	Properties  map[string]string
	// ConnectionURL is where its users reach it, a load balancer say; the control plane goes
	// by its members'. May be empty.
	ConnectionURL string
	// Channel all its members follow.
	Channel string
	// Certificate all its members present (PEM), and its fingerprint; empty: not known.
	Certificate string
	Fingerprint string
	Status      ClusterStatus
	// PostRestoreDelay is waited after a member is restored, before the next one is evacuated;
	// RestoreMode is empty, or "skip" to leave evacuated instances where they are.
	PostRestoreDelay time.Duration
	RestoreMode      string

	CreatedAt   time.Time
	LastUpdated time.Time
}

// ClusterSpec is what an operator says of a cluster.
type ClusterSpec struct {
	Description   string
	Properties    map[string]string
	ConnectionURL string
	// Channel must exist. Empty: as it is; of a new cluster, Registry.DefaultChannel.
	Channel          string
	PostRestoreDelay time.Duration
	RestoreMode      string
}

func (r *Registry) checkClusterSpec(spec *ClusterSpec) error {
	if err := checkLength("description", spec.Description, MaxDescriptionLength); err != nil {
		return err
	}
	if err := checkProperties(spec.Properties); err != nil {
		return err
	}
	if spec.ConnectionURL != "" {
		if err := checkURL("connection URL", spec.ConnectionURL); err != nil {
			return err
		}
	}
	if spec.PostRestoreDelay < 0 {
		return fmt.Errorf("post restore delay %s: must not be negative: %w", spec.PostRestoreDelay, ErrInvalidOptions)
	}
	if !slices.Contains(rolling.RestoreModes, spec.RestoreMode) {
		return fmt.Errorf("restore mode %q, known are %q: %w", truncate.Name(spec.RestoreMode), rolling.RestoreModes, ErrInvalidOptions)
	}
	return nil
}

// spec is what an operator has said of the cluster so far.
func (c *Cluster) spec() ClusterSpec {
	return ClusterSpec{Description: c.Description, Properties: cloneProperties(c.Properties), ConnectionURL: c.ConnectionURL, Channel: c.Channel,
		PostRestoreDelay: c.PostRestoreDelay, RestoreMode: c.RestoreMode}
}

func (c *Cluster) apply(spec ClusterSpec) {
	c.Description, c.Properties, c.ConnectionURL, c.Channel = spec.Description, cloneProperties(spec.Properties), spec.ConnectionURL, spec.Channel
	c.PostRestoreDelay, c.RestoreMode = spec.PostRestoreDelay, spec.RestoreMode
}

// CreateCluster records a cluster with its members, which must be registered, and in none.
// Nothing is done to the servers: see package cluster for forming one. Errors:
// ErrInvalidName and the other validation errors, ErrClusterTaken, ErrNotFound, ErrClustered, ErrBusy.
func (r *Registry) CreateCluster(ctx context.Context, name string, spec ClusterSpec, members ...string) (*Cluster, error) {
	if err := checkObjectName("cluster", name); err != nil {
		return nil, err
	}
	if err := r.checkClusterSpec(&spec); err != nil {
		return nil, fmt.Errorf("cluster %q: %w", name, err)
	}
	spec.Channel = cmp.Or(spec.Channel, r.Channels().Default())
	at := r.now()
	cluster := &Cluster{ID: uuid.NewString(), Name: name, Status: ClusterPending, CreatedAt: at, LastUpdated: at}
	cluster.apply(spec)
	err := r.Write(ctx, func(tx *Tx) error {
		known, err := clustersByName.Find(tx, storage.StringKey(strings.ToLower(name)))
		if err != nil {
			return err
		}
		if known != nil {
			return fmt.Errorf("cluster name %q: %w", name, ErrClusterTaken)
		}
		if err := channelExists(tx, spec.Channel); err != nil {
			return err
		}
		if err := clusters.Insert(tx, cluster); err != nil {
			return err
		}
		if err := tx.Record(event.Event{At: at, Kind: event.ClusterCreated, Cluster: name, Reason: fmt.Sprintf("with %d servers, channel %s", len(members), spec.Channel)}); err != nil {
			return err
		}
		return tx.join(cluster, at, "by an operator", members...)
	})
	if err != nil {
		return nil, err
	}
	return cluster, nil
}

// join makes servers members of a cluster.
func (t *Tx) join(cluster *Cluster, at time.Time, why string, members ...string) error {
	if err := claimedBy(t, cluster.Name, true, ""); err != nil {
		return err
	}
	for _, name := range members {
		server, err := servers.Get(t, nameKey(name))
		if err != nil {
			return notFound("server", name, err)
		}
		switch {
		case server.Cluster == cluster.Name:
			continue
		case server.Cluster != "":
			return fmt.Errorf("server %q: %w (%s)", name, ErrClustered, server.Cluster)
		case server.Certificate == "":
			return fmt.Errorf("server %q has not registered, yet: %w", name, ErrNotReady)
		}
		if err := claimedBy(t, server.ID, false, ""); err != nil {
			return err
		}
		changed := *server
		changed.Cluster, changed.Channel, changed.LastUpdated = cluster.Name, cluster.Channel, at
		changed.serve(cluster.Fingerprint, "")
		if err := servers.Put(t, &changed); err != nil {
			return err
		}
		if err := requestPoll(t, name, at, true); err != nil {
			return err
		}
		if err := t.Record(event.Event{At: at, Kind: event.ClusterMemberAdded, Server: name, Cluster: cluster.Name, Reason: why + ", channel " + cluster.Channel}); err != nil {
			return err
		}
	}
	return nil
}

// serve accepts a cluster's certificate, and remembers what was accepted before, unless that is the
// one that the cluster had.
func (s *Server) serve(fingerprint, before string) {
	if fingerprint == "" || s.ServedFingerprint == fingerprint {
		return
	}
	if s.FormerServed == "" && s.ServedFingerprint != before {
		s.FormerServed = s.ServedFingerprint
	}
	s.ServedFingerprint, s.ServedByPoll = fingerprint, false
}

// AddClusterMembers adds servers to a cluster's record; those that are in it already are left
// alone. It is how an operator adopts servers that polls have found to be members of an Incus
// cluster. They follow its channel from then on, and its certificate is pinned for them.
// Errors: ErrNotFound, ErrClustered, ErrNotReady for one that has not registered, ErrBusy.
func (r *Registry) AddClusterMembers(ctx context.Context, name string, members ...string) error {
	at := r.now()
	return r.Write(ctx, func(tx *Tx) error {
		cluster, err := tx.Snapshot().Cluster(name)
		if err != nil {
			return err
		}
		return tx.join(cluster, at, "by an operator", members...)
	})
}

// MemberRemoval is how servers are taken out of a cluster's record. The zero value is right for members that stay in the
// Incus cluster.
type MemberRemoval struct {
	// Left: the servers have left the Incus cluster, too. The Registry forgets which members they were, and does not
	// accept the cluster's certificate of them any more.
	Left bool
	// Force takes them out although a rollout or a change holds the cluster, which goes on without them.
	Force bool
}

// RemoveClusterMembers takes servers out of a cluster's record. Servers that are not in it are left alone. The channel they
// followed stays theirs. A server's own certificate is accepted, as always. The cluster's certificate is still accepted
// of a server that presents it, or is known to be a member of the Incus cluster: the server stays reachable.
// Errors: ErrNotFound; ErrBusy, unless forced.
func (r *Registry) RemoveClusterMembers(ctx context.Context, name string, removal MemberRemoval, members ...string) error {
	left, force := removal.Left, removal.Force
	at := r.now()
	return r.Write(ctx, func(tx *Tx) error {
		cluster, err := tx.Snapshot().Cluster(name)
		if err != nil {
			return err
		}
		if err := claimedBy(tx, name, true, ""); err != nil && !(force && errors.Is(err, ErrBusy)) {
			return err
		}
		for _, member := range members {
			server, err := servers.Get(tx, nameKey(member))
			if err != nil {
				return notFound("server", member, err)
			}
			if server.Cluster != name {
				continue
			}
			if left {
				if err := tx.modifyState(member, func(s *lifecycle.ServerState) error {
					s.MemberName, s.MemberRoles, s.Maintenance, s.NotBefore = "", nil, lifecycle.NotInMaintenance, at
					return nil
				}); err != nil {
					return err
				}
			}
			if err := tx.leave(server, cluster, at, "by an operator", left); err != nil {
				return err
			}
		}
		return nil
	})
}

// leave takes a server out of a cluster's record; left: it has left the Incus cluster as well.
func (t *Tx) leave(server *Server, cluster *Cluster, at time.Time, why string, left bool) error {
	state, err := states.Get(t, nameKey(server.Name))
	if err != nil {
		return err
	}
	changed := *server
	changed.Cluster, changed.LastUpdated = "", at
	presents := !left && (state.MemberName != "" || state.Presented != "" && state.Presented == cluster.Fingerprint)
	if changed.ServedFingerprint == cluster.Fingerprint && !presents {
		changed.ServedFingerprint, changed.FormerServed, changed.ServedByPoll = changed.FormerServed, "", false
	}
	if err := servers.Put(t, &changed); err != nil {
		return err
	}
	if err := requestPoll(t, server.Name, at, true); err != nil {
		return err
	}
	return t.Record(event.Event{At: at, Kind: event.ClusterMemberRemoved, Server: server.Name, Cluster: cluster.Name, Reason: why})
}

// EditCluster changes what an operator says of a cluster: edit is called with the cluster as it
// is, and with what was said of it so far, to be changed; an error of it ends the update. It may
// be called more than once. Its channel is that of all its members. Errors: ErrNotFound, the validation errors, ErrBusy
// for another channel while a rollout is under way.
func (r *Registry) EditCluster(ctx context.Context, name string, edit func(*Cluster, *ClusterSpec) error) error {
	return r.Write(ctx, func(tx *Tx) error {
		return tx.editCluster(name, func(c *Cluster) (*event.Event, error) {
			spec, before := c.spec(), *c
			if err := edit(&before, &spec); err != nil {
				return nil, err
			}
			if err := r.checkClusterSpec(&spec); err != nil {
				return nil, fmt.Errorf("cluster %q: %w", truncate.Name(name), err)
			}
			if spec.Channel = cmp.Or(spec.Channel, c.Channel); c.Channel != spec.Channel {
				if err := channelExists(tx, spec.Channel); err != nil {
					return nil, err
				}
				if err := claimedBy(tx, name, true, ""); err != nil {
					return nil, err
				}
				if err := tx.eachMember(name, func(s *Server) { s.Channel = spec.Channel }); err != nil {
					return nil, err
				}
			}
			c.apply(spec)
			return &event.Event{Kind: event.ClusterUpdated, Reason: "edited, channel " + spec.Channel}, nil
		})
	})
}

// SetMemberName notes by which name a server is a member of its Incus cluster, as somebody
// knows who has just made it one: until then it can't be evacuated. Polls tell from then on.
// Errors: ErrNotFound, ErrTooLong.
func (t *Tx) SetMemberName(server, member string) error {
	if err := checkLength("member name", member, MaxNameLength); err != nil {
		return err
	}
	at := t.now()
	state, err := states.Get(t, nameKey(server))
	if err != nil {
		return notFound("server", server, err)
	}
	if state.MemberName == member {
		return nil
	}
	changed := *state
	changed.MemberName, changed.LastUpdated, changed.NotBefore = member, at, at
	if member != "" {
		changed.Stopped = nil
	}
	if err := t.putState(&changed); err != nil {
		return err
	}
	return t.Record(event.Event{At: at, Kind: event.ClusterDiscovered, Server: server, Reason: fmt.Sprintf("is member %s of an Incus cluster", member)})
}

// SetClusterStatus notes where a cluster is.
func (t *Tx) SetClusterStatus(name string, status ClusterStatus) error {
	return t.editCluster(name, func(c *Cluster) (*event.Event, error) {
		if c.Status == status {
			return nil, errUnchanged
		}
		c.Status = status
		return &event.Event{Kind: event.ClusterUpdated, Reason: "status " + string(status)}, nil
	})
}

// SetClusterCertificate notes which certificate the members of a cluster present: it is
// pinned for each of them, beside the one it registered with. Errors: ErrNotFound.
func (t *Tx) SetClusterCertificate(name string, certificate *x509.Certificate) error {
	if err := checkCertificate(certificate); err != nil {
		return err
	}
	fingerprint := Fingerprint(certificate)
	return t.editCluster(name, func(c *Cluster) (*event.Event, error) {
		before := c.Fingerprint
		c.Certificate, c.Fingerprint = EncodeCertificate(certificate), fingerprint
		changed := before != fingerprint
		err := t.eachMember(name, func(s *Server) {
			changed = changed || s.ServedFingerprint != fingerprint
			s.serve(fingerprint, before)
		})
		if err != nil || !changed {
			return nil, cmp.Or(err, errUnchanged)
		}
		at := t.now()
		for _, member := range t.names {
			if err := requestPoll(t, member, at, true); err != nil {
				return nil, err
			}
		}
		return &event.Event{Kind: event.CertificateAccepted, Reason: fmt.Sprintf("the cluster's certificate is %.12s, was %.12s", fingerprint, before)}, nil
	})
}

var errUnchanged = errors.New("nothing changes")

// eachMember changes all members of a cluster, and leaves their names in names.
func (t *Tx) eachMember(cluster string, change func(*Server)) error {
	var list []*Server
	for server, err := range serversByCluster.Scan(t, storage.Range{Prefix: storage.StringKey(cluster)}) {
		if err != nil {
			return err
		}
		list = append(list, server)
	}
	t.names = nil
	for _, server := range list {
		changed := *server
		change(&changed)
		changed.LastUpdated = t.now()
		if err := servers.Put(t, &changed); err != nil {
			return err
		}
		t.names = append(t.names, server.Name)
	}
	return nil
}

// editCluster changes a cluster's record. errUnchanged of change leaves it as it is.
func (t *Tx) editCluster(name string, change func(*Cluster) (*event.Event, error)) error {
	cluster, err := t.Snapshot().Cluster(name)
	if err != nil {
		return err
	}
	changed := *cluster
	entry, err := change(&changed)
	if errors.Is(err, errUnchanged) {
		return nil
	}
	if err != nil {
		return err
	}
	changed.LastUpdated = t.now()
	entry.At, entry.Cluster = changed.LastUpdated, name
	if err := clusters.Put(t, &changed); err != nil {
		return err
	}
	return t.Record(*entry)
}

// RenameCluster gives a cluster another name. check, unless nil, is called with the
// cluster as it is, and an error of it ends the renaming: for optimistic locking. Errors:
// ErrNotFound, ErrInvalidName, ErrClusterTaken, ErrBusy.
func (r *Registry) RenameCluster(ctx context.Context, name, to string, check func(*Cluster) error) error {
	if err := checkObjectName("cluster", to); err != nil {
		return err
	}
	at := r.now()
	return r.Write(ctx, func(tx *Tx) error {
		cluster, err := tx.Snapshot().Cluster(name)
		if err != nil {
			return err
		}
		if check != nil {
			if err := check(cluster); err != nil {
				return err
			}
		}
		if to == name {
			return nil
		}
		known, err := clustersByName.Find(tx, storage.StringKey(strings.ToLower(to)))
		if err != nil {
			return err
		}
		if known != nil && known.ID != cluster.ID {
			return fmt.Errorf("cluster name %q: %w", to, ErrClusterTaken)
		}
		if err := claimedBy(tx, name, true, ""); err != nil {
			return err
		}
		if err := clusters.Delete(tx, nameKey(name)); err != nil {
			return err
		}
		changed := *cluster
		changed.Name, changed.LastUpdated = to, at
		if err := clusters.Put(tx, &changed); err != nil {
			return err
		}
		if err := tx.eachMember(name, func(s *Server) { s.Cluster = to }); err != nil {
			return err
		}
		return tx.Record(event.Event{At: at, Kind: event.ClusterRenamed, Cluster: to, Reason: "was " + name})
	})
}

// DeleteCluster removes a cluster's record. With members it is refused, unless forced, or its
// forming failed before there were two (ClusterPending): then they are in no cluster any more, and
// stay reachable, see RemoveClusterMembers. Nothing is done to the servers. Errors: ErrNotFound,
// ErrHasMembers, ErrBusy.
func (r *Registry) DeleteCluster(ctx context.Context, name string, force bool) error {
	at := r.now()
	return r.Write(ctx, func(tx *Tx) error {
		cluster, err := tx.Snapshot().Cluster(name)
		if err != nil {
			return err
		}
		if err := claimedBy(tx, name, true, ""); err != nil {
			return err
		}
		var members []*Server
		joined := 0
		for server, err := range serversByCluster.Scan(tx, storage.Range{Prefix: storage.StringKey(name)}) {
			if err != nil {
				return err
			}
			state, err := states.Get(tx, nameKey(server.Name))
			if err != nil {
				return err
			}
			if state.MemberName != "" {
				joined++
			}
			members = append(members, server)
		}
		// What was to become a cluster, and has no more than its first member, is none.
		unformed := cluster.Status == ClusterPending && joined <= 1
		if len(members) > 0 && !unformed && !force {
			return fmt.Errorf("cluster %q has %d: %w", name, len(members), ErrHasMembers)
		}
		for _, server := range members {
			if err := tx.leave(server, cluster, at, "its cluster was removed", false); err != nil {
				return err
			}
		}
		if err := clusters.Delete(tx, nameKey(name)); err != nil {
			return err
		}
		return tx.Record(event.Event{At: at, Kind: event.ClusterDeleted, Cluster: name, Reason: "removed by an operator"})
	})
}

// discovered is a server that presents a cluster's certificate without being in its record:
// with Options.AdoptMembers it is adopted, in two steps. First the certificate is accepted;
// when a poll has then read that the server is a member of a cluster, it is added.
func (r *Registry) discovered(tx storage.ReadTx, server *Server, o *observed) (adopt, accept string, err error) {
	if !r.options.AdoptMembers || server.Cluster != "" || o.Presented == "" {
		return "", "", nil
	}
	for cluster, err := range clustersByFingerprint.Scan(tx, storage.Range{Prefix: storage.StringKey(o.Presented)}) {
		if err != nil {
			return "", "", err
		}
		// Whoever says to be where a member is already, or to be that member, is no other one.
		for member, err := range serversByCluster.Scan(tx, storage.Range{Prefix: storage.StringKey(cluster.Name)}) {
			if err != nil {
				return "", "", err
			}
			state, err := states.Get(tx, nameKey(member.Name))
			if err != nil {
				return "", "", err
			}
			if member.ConnectionURL == server.ConnectionURL || o.MemberName != nil && state.MemberName == *o.MemberName {
				return "", "", nil
			}
		}
		switch {
		case o.Failure != nil && o.Failure.Kind == lifecycle.FailureCertificate:
			if server.ServedFingerprint != "" {
				return "", "", nil // what an operator accepted is for an operator to change
			}
			return "", cluster.Fingerprint, nil
		case o.Failure == nil && o.MemberName != nil && *o.MemberName != "":
			if errors.Join(claimedBy(tx, cluster.Name, true, ""), claimedBy(tx, server.ID, false, "")) != nil {
				return "", "", nil // when the rollout is over
			}
			return cluster.Name, "", nil
		}
		break
	}
	return "", "", nil
}
