package opscenter

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/opscenter-go/sdk/internal/page"
	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/storage"
)

// ClusterStatus is the status of a cluster's record. The names are those of Operations Center.
type ClusterStatus string

const (
	// ClusterPending: the cluster is being formed, or no poll has seen it yet.
	ClusterPending ClusterStatus = "pending"
	// ClusterReady: its servers are members of an Incus cluster.
	ClusterReady ClusterStatus = "ready"
)

// Cluster is the record of an Incus cluster. Its members are the servers whose Cluster field has its name.
type Cluster struct {
	// ID comes from the Registry, and never changes.
	ID          string
	Name        string
	Description string
	Properties  map[string]string
	// ConnectionURL is where users reach the cluster, for example a load balancer. The control plane uses the URLs of the
	// members. May be empty.
	ConnectionURL string
	// Channel that all members follow.
	Channel string
	// Certificate that all members present (PEM), and its fingerprint (SHA-256 in hexadecimal digits). Empty: not known.
	Certificate string
	Fingerprint string
	Status      ClusterStatus
	// PostRestoreDelay is the wait between the restore of a member and the evacuation of the next. RestoreMode is empty,
	// or "skip" to leave evacuated instances where they are.
	PostRestoreDelay time.Duration
	RestoreMode      string

	CreatedAt   time.Time
	LastUpdated time.Time
}

// ClusterSpec is the part of a cluster that an operator sets.
type ClusterSpec struct {
	Description   string
	Properties    map[string]string
	ConnectionURL string
	// Channel must exist. Empty: the present one; for a new cluster, Channels.Default.
	Channel          string
	PostRestoreDelay time.Duration
	RestoreMode      string
}

func (r *Registry) checkClusterSpec(spec *ClusterSpec) error {
	if err := checkShared(spec.Description, spec.Properties, spec.ConnectionURL); err != nil {
		return err
	}
	if spec.PostRestoreDelay < 0 {
		return fmt.Errorf("post restore delay %s: must not be negative: %w", spec.PostRestoreDelay, ErrInvalidOptions)
	}
	if !slices.Contains(rolling.RestoreModes, spec.RestoreMode) {
		return fmt.Errorf("restore mode %q, known are %q: %w", truncate.Name(spec.RestoreMode), rolling.RestoreModes, ErrInvalidOptions)
	}
	return nil
}

// spec returns the part of the cluster that an operator has set.
func (c *Cluster) spec() ClusterSpec {
	return ClusterSpec{Description: c.Description, Properties: cloneProperties(c.Properties), ConnectionURL: c.ConnectionURL, Channel: c.Channel,
		PostRestoreDelay: c.PostRestoreDelay, RestoreMode: c.RestoreMode}
}

func (c *Cluster) apply(spec ClusterSpec) {
	c.Description, c.Properties, c.ConnectionURL, c.Channel = spec.Description, cloneProperties(spec.Properties), spec.ConnectionURL, spec.Channel
	c.PostRestoreDelay, c.RestoreMode = spec.PostRestoreDelay, spec.RestoreMode
}

// CreateCluster records a cluster with its members. They must be registered, and in no cluster. Nothing is done to the
// servers: package cluster forms Incus clusters. Errors: ErrInvalidName and the other validation errors, ErrClusterTaken,
// ErrNotFound, ErrClustered, ErrBusy; ErrNotReady for a server that has not registered.
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
			return fmt.Errorf("server %q has not registered: %w", name, ErrNotReady)
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
		if err := t.requestPoll(name, at, true); err != nil {
			return err
		}
		if err := t.Record(event.Event{At: at, Kind: event.ClusterMemberAdded, Server: name, Cluster: cluster.Name, Reason: why + ", channel " + cluster.Channel}); err != nil {
			return err
		}
	}
	return nil
}

// serve accepts a cluster's certificate. It remembers the certificate that was accepted before, unless that is the
// cluster's earlier one.
func (s *Server) serve(fingerprint, before string) {
	if fingerprint == "" || s.ServedFingerprint == fingerprint {
		return
	}
	if s.FormerServed == "" && s.ServedFingerprint != before {
		s.FormerServed = s.ServedFingerprint
	}
	s.ServedFingerprint, s.ServedByPoll = fingerprint, false
}

// AddClusterMembers adds servers to a cluster's record. Servers that are in it stay as they are. An operator adopts so
// the servers that polls found to be members of the Incus cluster. They follow the cluster's channel from then on, and
// its certificate is accepted of them. Errors: ErrNotFound, ErrClustered, ErrBusy; ErrNotReady for a server that has not
// registered.
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

// MemberRemoval says how servers leave a cluster's record. The zero value is for servers that stay members of the Incus
// cluster.
type MemberRemoval struct {
	// Left: the servers have also left the Incus cluster. The Registry forgets their member names, and no longer accepts
	// the cluster's certificate of them.
	Left bool
	// Force removes them although a rollout or a change has claimed the cluster. That operation goes on without them.
	Force bool
}

// RemoveClusterMembers takes servers out of a cluster's record. It ignores servers that are not in it. The servers keep
// the channel that they followed. A server's own certificate is always accepted. The cluster's certificate is still
// accepted of a server that presents it, or is known as a member of the Incus cluster. Such a server stays reachable.
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

// leave takes a server out of a cluster's record. left: it has left the Incus cluster as well.
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
	if err := t.requestPoll(server.Name, at, true); err != nil {
		return err
	}
	return t.Record(event.Event{At: at, Kind: event.ClusterMemberRemoved, Server: server.Name, Cluster: cluster.Name, Reason: why})
}

// EditCluster changes the part of a cluster that an operator sets. edit gets the cluster as it is, and its spec to
// change. An error of edit ends the edit. edit may be called more than once. All members follow a new channel. Errors:
// ErrNotFound, the validation errors, those of edit; ErrBusy for another channel while a rollout is under way.
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

// SetMemberName records the name of a server in its Incus cluster. Package cluster calls it when it has made the server a
// member. Without a name the server can't be evacuated. Later polls read the name. Errors: ErrNotFound, ErrTooLong.
func (t *Tx) SetMemberName(server, member string) error {
	if err := checkLength("member name", member, MaxNameLength); err != nil {
		return err
	}
	at := t.Now()
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

// SetClusterStatus sets the status of a cluster. Errors: ErrNotFound.
func (t *Tx) SetClusterStatus(name string, status ClusterStatus) error {
	return t.editCluster(name, func(c *Cluster) (*event.Event, error) {
		if c.Status == status {
			return nil, errUnchanged
		}
		c.Status = status
		return &event.Event{Kind: event.ClusterUpdated, Reason: "status " + string(status)}, nil
	})
}

// SetClusterCertificate records the certificate that the members of a cluster present. It is accepted of each of them,
// beside the one that it registered with. Errors: ErrNotFound, ErrInvalidCertificate, ErrNoCertificate.
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
		at := t.Now()
		for _, member := range t.names {
			if err := t.requestPoll(member, at, true); err != nil {
				return nil, err
			}
		}
		return &event.Event{Kind: event.CertificateAccepted, Reason: fmt.Sprintf("the cluster's certificate is %.12s, was %.12s", fingerprint, before)}, nil
	})
}

var errUnchanged = errors.New("nothing changes")

// eachMember changes all members of a cluster, and lists them in t.names.
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
		changed.LastUpdated = t.Now()
		if err := servers.Put(t, &changed); err != nil {
			return err
		}
		t.names = append(t.names, server.Name)
	}
	return nil
}

// editCluster changes a cluster's record. If change returns errUnchanged, the record stays as it is.
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
	changed.LastUpdated = t.Now()
	entry.At, entry.Cluster = changed.LastUpdated, name
	if err := clusters.Put(t, &changed); err != nil {
		return err
	}
	return t.Record(*entry)
}

// RenameCluster gives a cluster another name. check, unless nil, gets the cluster as it is: its error ends the renaming.
// Callers use it for optimistic locking. Errors: ErrNotFound, ErrInvalidName, ErrTooLong, ErrClusterTaken, ErrBusy, those
// of check.
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

// DeleteCluster removes a cluster's record. It refuses a cluster with members. It removes it all the same if forced, or
// if the cluster is pending and has at most one member in Incus. The servers are then in no cluster, and stay reachable:
// see RemoveClusterMembers. Nothing is done to the servers. Errors: ErrNotFound, ErrHasMembers, ErrBusy.
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
		// A pending cluster with at most its first member was never formed.
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

// discovered decides about a server that presents a cluster's certificate, and is not in its record. Options.AdoptMembers
// adopts it in two steps. First the certificate is accepted. When a poll then reads that the server is a member of a
// cluster, the server is added.
func (r *Registry) discovered(tx storage.ReadTx, server *Server, o *observed) (adopt, accept string, err error) {
	if !r.options.AdoptMembers || server.Cluster != "" || o.Presented == "" {
		return "", "", nil
	}
	for cluster, err := range clustersByFingerprint.Scan(tx, storage.Range{Prefix: storage.StringKey(o.Presented)}) {
		if err != nil {
			return "", "", err
		}
		// A server with the address or the name of a known member is not another member.
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
				return "", "", nil // only an operator changes a certificate that an operator accepted
			}
			return "", cluster.Fingerprint, nil
		case o.Failure == nil && o.MemberName != nil && *o.MemberName != "":
			if errors.Join(claimedBy(tx, cluster.Name, true, ""), claimedBy(tx, server.ID, false, "")) != nil {
				return "", "", nil // a later poll adopts it, after the rollout
			}
			return cluster.Name, "", nil
		}
		break
	}
	return "", "", nil
}

// Cluster returns a cluster by its name. Errors: ErrNotFound.
func (r *Registry) Cluster(ctx context.Context, name string) (out *Cluster, err error) {
	err = r.Read(ctx, func(s *Snapshot) error {
		cluster, err := s.Cluster(name)
		if err != nil {
			return err
		}
		copied := *cluster
		copied.Properties = maps.Clone(cluster.Properties)
		out = &copied
		return nil
	})
	return out, err
}

// ClusterPage is a page of clusters.
type ClusterPage struct {
	Clusters []*Cluster
	// Next is the cursor of the next page. Empty: this page is the last.
	Next string
}

// ClusterFilter selects clusters. The zero value selects all.
type ClusterFilter struct {
	// Scope leaves out clusters that are not in it, see Snapshot.InScope. nil: it leaves out none.
	Scope *access.Scope
	// Expression is in the language of package expression. It may use name, description, properties, connection_url,
	// channel, fingerprint, status, created_at, last_updated, certificate, server_names, server_type, update_status and
	// config.
	Expression string
}

// InScope reports whether a cluster and all of its members are in a scope.
func (s *Snapshot) InScope(scope *access.Scope, cluster *Cluster) (bool, error) {
	if !scope.Contains(cluster.Channel, cluster.Name, cluster.Properties) {
		return false, nil
	}
	for server, err := range serversByCluster.Scan(s, storage.Range{Prefix: storage.StringKey(cluster.Name)}) {
		if err != nil || !scope.Contains(server.Channel, server.Cluster, server.Properties) {
			return false, err
		}
	}
	return true, nil
}

// ListClusters returns a page of the clusters that match, by name. Errors: ErrInvalidFilter, ErrInvalidCursor.
func (r *Registry) ListClusters(ctx context.Context, filter ClusterFilter, from Page) (out ClusterPage, err error) {
	limit := page.Size(from.Limit)
	err = r.Read(ctx, func(s *Snapshot) error {
		out = ClusterPage{}
		expression, err := compileFilter(filter.Expression, clusterSchema)
		if err != nil {
			return err
		}
		within, err := from.within(nil)
		if err != nil {
			return err
		}
		for cluster, err := range clusters.Scan(s, within) {
			if err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if filter.Scope != nil { // before the expression, whose errors tell of the clusters that it is evaluated for
				if inside, err := s.InScope(filter.Scope, cluster); err != nil {
					return err
				} else if !inside {
					continue
				}
			}
			if expression != nil {
				if ok, err := s.matchesCluster(expression, cluster); err != nil {
					return err
				} else if !ok {
					continue
				}
			}
			if len(out.Clusters) == limit {
				out.Next = page.Encode(out.Clusters[limit-1].Name)
				break
			}
			copied := *cluster
			out.Clusters = append(out.Clusters, &copied)
		}
		return filterError(expression, from)
	})
	return out, err
}
