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

// Adoption is an Incus server, or all servers of an Incus cluster, that are taken into the
// registry without having registered themselves.
type Adoption struct {
	// Cluster is the name for its record; empty: one that is free is made of SuggestedCluster.
	Cluster          string
	SuggestedCluster string
	// Certificate that all members present; nil: a server in no cluster.
	Certificate *x509.Certificate
	Servers     []AdoptedServer
	// Channel for them. Default: Registry.DefaultChannel.
	Channel string
}

// AdoptedServer is one of them.
type AdoptedServer struct {
	// Name in the registry; empty: one that is free is made of Suggested, with the cluster's name
	// behind it if need be, as NAME-CLUSTER.
	Name      string
	Suggested string
	// ConnectionURL is where it is reached. That of a server which is recorded already stays.
	ConnectionURL string
	// Certificate is its own, which is its identity.
	Certificate *x509.Certificate
	// MemberName is its name in the cluster; empty without one.
	MemberName string
}

// Adopt records servers that somebody has found trustworthy, all or none: from then on they
// are as those that have registered. Servers that are registered with the same certificates
// already stay as they are, and join the cluster's record. Package opscenter/incusos's
// Client.Adopt does all of it with an Incus trust token.
//
// Which certificate is a member's own is the cluster's word: a server that is registered with
// it already, and is not known as a member, is not touched (ErrIdentityTaken).
//
// Errors: ErrInvalidName, ErrTooLong, ErrInvalidURL, ErrInvalidCertificate, ErrNoCertificate,
// ErrInvalidOptions for other than one server without a cluster, ErrNotFound for a channel; ErrNameTaken, ErrIdentityTaken, ErrClusterTaken by another cluster, ErrClustered, ErrBusy.
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
		a.Servers = slices.Clone(a.Servers) // they are given names
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

// adoptedBefore finds the record there is of the cluster, whose name may be another by now, or
// gives it a name.
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

// freeName makes a name of one that is wished for: what is not allowed in it becomes a hyphen, and
// of the suffixes it gets the first with which it is free.
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

// nameServer gives a server that is adopted its name.
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

// AdoptionCheck is what is known of an Adoption before it is made.
type AdoptionCheck struct {
	// Fingerprint of the certificate that the server, or all members of the cluster, present.
	Fingerprint string
	// Name, Channel, Names and URLs as they are given; empty: none are.
	Name, Channel string
	Names, URLs   []string
}

// CheckAdoption finds what would refuse an Adoption, before a trust token is spent on it. Whether the
// server is in a cluster is not known by then, so the name must do for either: no other cluster and
// no other server may have it. Errors: ErrInvalidName, ErrTooLong, ErrInvalidURL, ErrNotFound for a
// channel, ErrNameTaken, ErrClusterTaken, ErrBusy.
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
	case cluster != nil: // the one with this fingerprint was seen above
		return fmt.Errorf("name %q: %w", c.Name, ErrClusterTaken)
	case server != nil:
		return fmt.Errorf("name %q: %w", c.Name, ErrNameTaken)
	}
	return nil
}

// adopt records a server, unless it is there, and returns its name.
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
		// Whose certificate that is, is only the cluster's word: it must not get hold of somebody
		// else's record, nor of what is accepted from him.
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

// adoptCluster records the cluster, or finds the record there is of it.
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
