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

// A server is connected to by the certificate it registered with. Two things change what it
// presents without changing who it is: as a member of an Incus cluster it answers with the
// cluster's certificate, and with a publicly trusted one if it has got one for the name that
// its users call it by. The second proves itself; the first is accepted by an operator, once
// for the cluster, and then for each of its members.

// AcceptCertificate accepts that a server presents the certificate with that fingerprint,
// SHA-256 in hexadecimal digits, when it is connected to, beside the one it registered with,
// which it is still known by. It takes the place of one that was accepted before; an empty
// fingerprint takes it back. Members of the same cluster that present it are followed. See
// warning.Certificate for when that is needed, and the server's State.Presented for the
// fingerprint: compare it with what the server itself says. Errors: ErrNotFound,
// ErrInvalidCertificate, ErrIdentityTaken for one that another server is registered with.
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
		if server.FormerServed != "" { // what was accepted before is not accepted again
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

// Why a certificate is accepted, as the event says it.
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
	if err := requestPoll(tx, name, at, true); err != nil {
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

// followed returns the fingerprint a server presents, if it is refused so far, but was
// accepted for another member of its cluster. A cluster's certificate is made when the cluster
// is: until an operator accepts it for one member, nothing tells whose it is.
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
