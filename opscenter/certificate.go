package opscenter

import (
	"context"
	"fmt"
	"time"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage"
)

// The control plane verifies a server by the certificate that it registered with. The same server may present another
// certificate in two cases. A member of an Incus cluster presents the cluster's certificate. An operator accepts it once
// for the cluster. Then it is accepted of each member. A server with a publicly trusted certificate presents that for
// the host of its public URL: it is verified by its chain.

// AcceptCertificate accepts a second certificate of a server, beside the one that it registered with. That one stays its
// identity. fingerprint is SHA-256 in hexadecimal digits. It replaces the certificate that was accepted before; an empty
// fingerprint takes that back. Other members of the same cluster that present the certificate are accepted, too.
//
// warning.Certificate tells when this is needed, and State.Presented has the fingerprint. Compare it with the one that
// the server itself shows. Errors: ErrNotFound, ErrInvalidCertificate; ErrIdentityTaken if another server is registered
// with the certificate.
func (r *Registry) AcceptCertificate(ctx context.Context, name, fingerprint string) error {
	fingerprint, err := checkFingerprint(fingerprint)
	if err != nil {
		return fmt.Errorf("server %q: %w", truncate.Name(name), err)
	}
	at := r.now()
	return r.Write(ctx, func(tx *Tx) error {
		server, err := servers.Get(tx, nameKey(name))
		if err != nil {
			return notFound("server", name, err)
		}
		if server.FormerServed != "" { // it is not accepted again when the server leaves its cluster
			changed := *server
			changed.FormerServed = ""
			if err := servers.Put(tx, &changed); err != nil {
				return err
			}
		}
		if fingerprint != "" && fingerprint != server.Fingerprint {
			other, err := byFingerprint.Find(tx, storage.StringKey(fingerprint))
			if err != nil {
				return err
			}
			if other != nil {
				return fmt.Errorf("server %q: the certificate is that of server %q: %w", truncate.Name(name), other.Name, ErrIdentityTaken)
			}
		}
		return r.acceptCertificate(tx, name, fingerprint, byOperator, at)
	})
}

// Reasons of the event of an accepted certificate.
const (
	byOperator = "by an operator"
	byPoll     = "as its cluster's"
)

func (r *Registry) acceptCertificate(tx *Tx, name, fingerprint, why string, at time.Time) error {
	server, err := servers.Get(tx, nameKey(name))
	if err != nil {
		return notFound("server", name, err)
	}
	changed := *server
	changed.ServedFingerprint, changed.LastUpdated = fingerprint, at
	changed.ServedByPoll = why == byPoll && server.Cluster == ""
	if err := servers.Put(tx, &changed); err != nil {
		return err
	}
	if err := tx.requestPoll(name, at, true); err != nil {
		return err
	}
	if changed.ServedByPoll {
		if err := tx.modifyState(name, func(s *lifecycle.ServerState) error {
			s.Unproven = true
			return nil
		}); err != nil {
			return err
		}
	}
	return tx.Record(event.Event{At: at, Kind: event.CertificateAccepted, Server: name,
		Reason: fmt.Sprintf("certificate %.12s is accepted %s, was %.12s", fingerprint, why, server.ServedFingerprint)})
}

// followed returns the fingerprint that a server presents and that is not accepted, if it is accepted of another member
// of its cluster. A cluster's certificate is made with the cluster: until an operator accepts it of one member, nothing
// tells that it is the cluster's.
func (r *Registry) followed(tx storage.ReadTx, o *observed) (string, error) {
	if o.Failure == nil || o.Failure.Kind != lifecycle.FailureCertificate || o.Presented == "" {
		return "", nil
	}
	server, err := servers.Get(tx, nameKey(o.name))
	if err != nil || server.ServedFingerprint == o.Presented {
		return "", err
	}
	if server.Cluster == "" {
		_, accept, err := r.discovered(tx, server, o)
		return accept, err
	}
	if cluster, err := clusters.Find(tx, nameKey(server.Cluster)); err != nil || cluster != nil && cluster.Fingerprint == o.Presented {
		return o.Presented, err
	}
	for member, err := range serversByCluster.Scan(tx, storage.Range{Prefix: storage.StringKey(server.Cluster)}) {
		if err != nil {
			return "", err
		}
		if member.ID != server.ID && member.ServedFingerprint == o.Presented {
			return o.Presented, nil
		}
	}
	return "", nil
}
