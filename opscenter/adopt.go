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
	"github.com/opscenter-go/sdk/storage"
)

// Adoption is an Incus server, or all servers of an Incus cluster, that enter the registry without having registered.
type Adoption struct {
	// Cluster is the name of its record. Empty: a free name is made of SuggestedCluster.
	Cluster          string
	SuggestedCluster string
	// Certificate that all members present. nil: one server in no cluster.
	Certificate *x509.Certificate
	Servers     []AdoptedServer
	// Channel of the servers. Default: Channels.Default.
	Channel string
}

// AdoptedServer is one server of an Adoption.
type AdoptedServer struct {
	// Name in the registry. Empty: a free name is made of Suggested, if need be with the cluster's name behind it, as
	// NAME-CLUSTER.
	Name      string
	Suggested string
	// ConnectionURL is where the control plane reaches the server. A server that is recorded already keeps its URL.
	ConnectionURL string
	// Certificate is the server's own, which is its identity.
	Certificate *x509.Certificate
	// MemberName is its name in the cluster. Empty: it is in no cluster.
	MemberName string
}

// Adopt records servers that the caller has found trustworthy, all or none. From then on they are equal to servers that
// registered. Servers that are registered with the same certificates stay as they are, and join the cluster's record.
// incusos.Client.Adopt does all of this with an Incus trust token.
//
// The cluster tells the certificate of each member. Adopt does not change a server that is registered with such a
// certificate and not known as a member: it returns ErrIdentityTaken.
//
// Errors: ErrInvalidName, ErrTooLong, ErrInvalidURL, ErrInvalidCertificate, ErrNoCertificate; ErrInvalidOptions unless
// there is one server, or a cluster. ErrNotFound for a channel; ErrNameTaken, ErrIdentityTaken, ErrClustered, ErrBusy;
// ErrClusterTaken if another cluster has the name.
func (r *Registry) Adopt(ctx context.Context, a Adoption) error {
	if a.Channel == "" {
		a.Channel = r.Channels().Default()
	}
	if a.Cluster != "" && a.Certificate == nil {
		return fmt.Errorf("cluster %q: %w", a.Cluster, ErrNoCertificate)
	}
	if len(a.Servers) == 0 || a.Certificate == nil && len(a.Servers) != 1 {
		return fmt.Errorf("%d servers, and no cluster: %w", len(a.Servers), ErrInvalidOptions)
	}
	if a.Certificate != nil {
		if a.Cluster != "" {
			if err := checkObjectName("cluster", a.Cluster); err != nil {
				return err
			}
		}
		if err := checkCertificate(a.Certificate); err != nil {
			return fmt.Errorf("cluster %q: %w", a.Cluster, err)
		}
	}
	for _, s := range a.Servers {
		if s.Name != "" {
			if err := checkServerName(s.Name); err != nil {
				return err
			}
		}
		if err := errors.Join(checkURL("connection URL", s.ConnectionURL), r.allowURL("connection URL", s.ConnectionURL)); err != nil {
			return fmt.Errorf("server %q: %w", s.Name, err)
		}
		if err := checkCertificate(s.Certificate); err != nil {
			return fmt.Errorf("server %q: %w", s.Name, err)
		}
		if err := checkLength("member name", s.MemberName, MaxNameLength); err != nil {
			return err
		}
	}
	at := r.now()
	return r.Write(ctx, func(tx *Tx) error {
		if err := channelExists(tx, a.Channel); err != nil {
			return err
		}
		a := a
		a.Servers = slices.Clone(a.Servers) // the transaction names them
		if err := tx.adoptedBefore(&a); err != nil {
			return err
		}
		var names []string
		for i := range a.Servers {
			name, err := tx.adopt(&a, &a.Servers[i], at)
			if err != nil {
				return err
			}
			names = append(names, name)
		}
		if a.Certificate == nil {
			return nil
		}
		cluster, err := tx.adoptCluster(&a, at)
		if err != nil {
			return err
		}
		return tx.join(cluster, at, "adopted", names...)
	})
}

// adoptedBefore finds an earlier record of the cluster by its certificate, and takes its name. If there is none and no
// name is given, it makes a name.
func (t *Tx) adoptedBefore(a *Adoption) error {
	if a.Certificate == nil {
		return nil
	}
	for known, err := range clustersByFingerprint.Scan(t, storage.Range{Prefix: storage.StringKey(Fingerprint(a.Certificate))}) {
		if err != nil {
			return err
		}
		a.Cluster = known.Name
		return nil
	}
	if a.Cluster != "" {
		return nil
	}
	name, err := t.freeName(a.SuggestedCluster, isObjectNameByte, MaxLabelLength, []string{"", Fingerprint(a.Certificate)[:8], Fingerprint(a.Certificate)[:32]}, func(name string) (bool, error) {
		key := storage.StringKey(strings.ToLower(name))
		cluster, err := clustersByName.Find(t, key)
		if err != nil || cluster != nil || checkObjectName("cluster", name) != nil {
			return false, err
		}
		server, err := serversByName.Find(t, key)
		return server == nil || server.Cluster != "", err
	})
	a.Cluster = name
	return err
}

// freeName makes a free name out of a wish. Characters that are not allowed become hyphens. It appends the first of the
// suffixes that makes the name free. Errors: ErrNameTaken.
func (t *Tx) freeName(wish string, allowed func(byte) bool, limit int, suffixes []string, free func(string) (bool, error)) (string, error) {
	base := []byte(wish)
	for i, c := range base {
		if !allowed(c) {
			base[i] = '-'
		}
	}
	clean := strings.TrimLeft(string(base), ":.-")
	if clean == "" {
		clean = "server"
	}
	for _, suffix := range suffixes {
		name := clean
		if suffix != "" {
			name = clean[:min(len(clean), max(1, limit-len(suffix)-1))] + "-" + suffix
		}
		switch ok, err := free(name[:min(len(name), limit)]); {
		case err != nil:
			return "", err
		case ok:
			return name[:min(len(name), limit)], nil
		}
	}
	return "", fmt.Errorf("name %q: %w", truncate.Name(clean), ErrNameTaken)
}

// nameServer names a server that is adopted, or checks that the given name is free.
func (t *Tx) nameServer(a *Adoption, s *AdoptedServer, fingerprint string) error {
	if s.Name != "" {
		return nameFree(t, s.Name, "")
	}
	suffixes := []string{"", a.Cluster, fingerprint[:8], fingerprint[:32]}
	if a.Cluster == "" {
		suffixes = []string{"", fingerprint[:8], fingerprint[:32]}
	}
	name, err := t.freeName(s.Suggested, isNameByte, MaxNameLength, suffixes, func(name string) (bool, error) {
		if checkServerName(name) != nil {
			return false, nil
		}
		err := nameFree(t, name, "")
		if errors.Is(err, ErrNameTaken) {
			return false, nil
		}
		return err == nil, err
	})
	s.Name = name
	return err
}

// AdoptionCheck is the part of an Adoption that is known before the trust token is spent.
type AdoptionCheck struct {
	// Fingerprint of the certificate that the server, or all members of the cluster, present.
	Fingerprint string
	// Name is that of the server or the cluster. Names and URLs are those of the servers. Empty: not given.
	Name, Channel string
	Names, URLs   []string
}

// CheckAdoption returns the error that Adopt would return, before a trust token is spent. It is not known by then whether
// the server is in a cluster. Therefore no other cluster and no other server may have the name. Errors: ErrInvalidName,
// ErrTooLong, ErrInvalidURL, ErrNotFound for a channel, ErrNameTaken, ErrClusterTaken, ErrBusy.
func (s *Snapshot) CheckAdoption(c AdoptionCheck) error {
	if c.Name != "" {
		if err := checkObjectName("cluster", c.Name); err != nil {
			return err
		}
	}
	given := map[string]bool{}
	for _, name := range c.Names {
		if err := checkServerName(name); err != nil {
			return err
		}
		if given[strings.ToLower(name)] {
			return fmt.Errorf("name %q is given twice: %w", name, ErrNameTaken)
		}
		given[strings.ToLower(name)] = true
	}
	for _, where := range c.URLs {
		if err := errors.Join(checkURL("connection URL", where), s.registry.allowURL("connection URL", where)); err != nil {
			return err
		}
	}
	if c.Channel != "" {
		if err := channelExists(s, c.Channel); err != nil {
			return err
		}
	}
	for _, name := range c.Names {
		holder, err := serversByName.Find(s, storage.StringKey(strings.ToLower(name)))
		if err != nil {
			return err
		}
		if holder != nil && holder.Fingerprint != c.Fingerprint && holder.ServedFingerprint != c.Fingerprint {
			return fmt.Errorf("server name %q: %w", name, ErrNameTaken)
		}
	}
	for known, err := range clustersByFingerprint.Scan(s, storage.Range{Prefix: storage.StringKey(c.Fingerprint)}) {
		if err != nil {
			return err
		}
		return claimedBy(s, known.Name, true, "")
	}
	if c.Name == "" {
		return nil
	}
	key := storage.StringKey(strings.ToLower(c.Name))
	server, err := serversByName.Find(s, key)
	if err != nil || server != nil && server.Fingerprint == c.Fingerprint {
		return err
	}
	cluster, err := clustersByName.Find(s, key)
	switch {
	case err != nil:
		return err
	case cluster != nil: // the loop above found the one with this fingerprint
		return fmt.Errorf("name %q: %w", c.Name, ErrClusterTaken)
	case server != nil:
		return fmt.Errorf("name %q: %w", c.Name, ErrNameTaken)
	}
	return nil
}

// adopt records a server, unless it is recorded, and returns its name.
func (t *Tx) adopt(a *Adoption, s *AdoptedServer, at time.Time) (string, error) {
	fingerprint := Fingerprint(s.Certificate)
	known, err := byFingerprint.Find(t, storage.StringKey(fingerprint))
	if err != nil {
		return "", err
	}
	switch {
	case known == nil:
	case known.Cluster == a.Cluster && (a.Cluster == "" || known.ServedFingerprint == Fingerprint(a.Certificate)):
		return known.Name, nil
	default:
		// Only the cluster tells that this is the certificate of its member. A cluster must not get the record of another
		// server, or the trust in that server.
		return "", fmt.Errorf("server %q is registered with the certificate of %q; if it is a member of the cluster, add it (AddClusterMembers): %w", known.Name, cmp.Or(s.Name, s.Suggested, s.MemberName), ErrIdentityTaken)
	}
	if err := t.nameServer(a, s, fingerprint); err != nil {
		return "", err
	}
	server := &Server{ID: uuid.NewString(), Name: s.Name, ConnectionURL: s.ConnectionURL, Channel: a.Channel,
		Certificate: EncodeCertificate(s.Certificate), Fingerprint: fingerprint, CreatedAt: at, RegisteredAt: at, LastUpdated: at}
	if err := t.insertPending(server, at); err != nil {
		return "", err
	}
	if s.MemberName != "" {
		err := t.modifyState(s.Name, func(state *lifecycle.ServerState) error {
			state.MemberName = s.MemberName
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	return s.Name, t.Record(event.Event{At: at, Kind: event.ServerAdopted, Server: s.Name, Cluster: a.Cluster,
		Reason: fmt.Sprintf("at %s, certificate %.12s", s.ConnectionURL, fingerprint)})
}

// adoptCluster records the cluster, or returns its earlier record. Errors: ErrClusterTaken.
func (t *Tx) adoptCluster(a *Adoption, at time.Time) (*Cluster, error) {
	fingerprint := Fingerprint(a.Certificate)
	known, err := clustersByName.Find(t, storage.StringKey(strings.ToLower(a.Cluster)))
	if err != nil {
		return nil, err
	}
	if known != nil {
		if known.Fingerprint != fingerprint {
			return nil, fmt.Errorf("cluster name %q: %w", a.Cluster, ErrClusterTaken)
		}
		return known, nil
	}
	cluster := &Cluster{ID: uuid.NewString(), Name: a.Cluster, Channel: a.Channel, Status: ClusterReady, CreatedAt: at, LastUpdated: at,
		Certificate: EncodeCertificate(a.Certificate), Fingerprint: fingerprint}
	if err := clusters.Insert(t, cluster); err != nil {
		return nil, err
	}
	return cluster, t.Record(event.Event{At: at, Kind: event.ClusterCreated, Cluster: a.Cluster, Reason: fmt.Sprintf("adopted with %d servers, channel %s", len(a.Servers), a.Channel)})
}
