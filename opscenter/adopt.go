package opscenter

import (
	"context"
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/opscenter-go/sdk/storage"
)

// Adoption is an Incus server, or all servers of an Incus cluster, that are taken into the
// registry without having registered themselves.
type Adoption struct {
	// Cluster is the name for its record; empty: a server in no cluster.
	Cluster string
	// Certificate that all members present; nil without a cluster.
	Certificate *x509.Certificate
	Servers     []AdoptedServer
	// Channel for them. Default: Options.DefaultChannel.
	Channel string
}

// AdoptedServer is one of them.
type AdoptedServer struct {
	Name          string
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
// Errors: ErrInvalidName, ErrInvalidURL, ErrInvalidCertificate, ErrNoCertificate, ErrNotFound
// for a channel; ErrNameTaken, ErrIdentityTaken, ErrClusterTaken by another cluster, ErrClustered, ErrBusy.
func (r *Registry) Adopt(ctx context.Context, a Adoption) error {
	if a.Channel == "" {
		a.Channel = r.options.DefaultChannel
	}
	if len(a.Servers) == 0 || a.Cluster == "" && len(a.Servers) != 1 {
		return fmt.Errorf("%d servers, and no cluster: %w", len(a.Servers), ErrInvalidOptions)
	}
	if a.Cluster != "" {
		if err := checkObjectName("cluster", a.Cluster); err != nil {
			return err
		}
		if err := checkCertificate(a.Certificate); err != nil {
			return fmt.Errorf("cluster %q: %w", a.Cluster, err)
		}
	}
	for _, s := range a.Servers {
		if err := checkServerName(s.Name); err != nil {
			return err
		}
		if err := checkURL("connection URL", s.ConnectionURL); err != nil {
			return fmt.Errorf("server %q: %w", s.Name, err)
		}
		if err := checkCertificate(s.Certificate); err != nil {
			return fmt.Errorf("server %q: %w", s.Name, err)
		}
		if err := checkLength("member name", s.MemberName, MaxNameLength); err != nil {
			return err
		}
	}
	at := now()
	return r.Write(ctx, func(tx *Tx) error {
		if err := channelExists(tx, a.Channel); err != nil {
			return err
		}
		a := a
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
		if a.Cluster == "" {
			return nil
		}
		cluster, err := tx.adoptCluster(&a, at)
		if err != nil {
			return err
		}
		return tx.join(cluster, at, "adopted", names...)
	})
}

// adoptedBefore finds the record there is of the cluster: its name may be another by now.
func (t *Tx) adoptedBefore(a *Adoption) error {
	if a.Cluster == "" {
		return nil
	}
	for known, err := range clustersByFingerprint.Scan(t, storage.Range{Prefix: storage.StringKey(Fingerprint(a.Certificate))}) {
		if err != nil {
			return err
		}
		a.Cluster = known.Name
		break
	}
	return nil
}

// CheckAdoption tells whether an Adoption of who presents a certificate with that fingerprint can
// have that name and channel, as far as that can be known before it is made; both may be empty.
// The name must be no other cluster's, and no server's that is in none: nobody could tell them apart in an
// inventory. Errors: ErrInvalidName, ErrNotFound for a channel, ErrNameTaken, ErrClusterTaken.
func (r *Registry) CheckAdoption(ctx context.Context, fingerprint, name, channel string) error {
	if name != "" {
		if err := checkObjectName("cluster", name); err != nil && checkServerName(name) != nil {
			return err
		}
	}
	return r.Read(ctx, func(s *Snapshot) error {
		if channel != "" {
			if err := channelExists(s, channel); err != nil {
				return err
			}
		}
		if name == "" {
			return nil
		}
		key := storage.StringKey(strings.ToLower(name))
		server, err := serversByName.Find(s, key)
		if err != nil || server != nil && server.Fingerprint == fingerprint {
			return err
		}
		cluster, err := clustersByName.Find(s, key)
		switch {
		case err != nil:
			return err
		case cluster != nil && cluster.Fingerprint != fingerprint:
			return fmt.Errorf("name %q: %w", name, ErrClusterTaken)
		case cluster == nil && server != nil && server.Cluster == "":
			return fmt.Errorf("name %q: %w", name, ErrNameTaken)
		}
		return nil
	})
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
		return "", fmt.Errorf("server %q is registered with the certificate of %q; if it is a member of the cluster, add it (AddClusterMembers): %w", known.Name, s.Name, ErrIdentityTaken)
	}
	if err := nameFree(t, s.Name, ""); err != nil {
		return "", err
	}
	server := &Server{ID: uuid.NewString(), Name: s.Name, ConnectionURL: s.ConnectionURL, Channel: a.Channel,
		Certificate: EncodeCertificate(s.Certificate), Fingerprint: fingerprint, CreatedAt: at, RegisteredAt: at, LastUpdated: at}
	if err := t.writing.insertPending(server, at); err != nil {
		return "", err
	}
	if s.MemberName != "" {
		err := t.writing.modifyState(s.Name, func(state *ServerState) error {
			state.MemberName = s.MemberName
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	return s.Name, t.Record(Event{At: at, Kind: EventServerAdopted, Server: s.Name, Cluster: a.Cluster,
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
	return cluster, t.Record(Event{At: at, Kind: EventClusterCreated, Cluster: a.Cluster, Reason: fmt.Sprintf("adopted with %d servers, channel %s", len(a.Servers), a.Channel)})
}
