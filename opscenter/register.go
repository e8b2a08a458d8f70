package opscenter

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage"
)

// Registration is the request of a server that registers itself.
type Registration struct {
	// Token is the secret that admits the server.
	Token string
	// Certificate from the TLS handshake. It is the identity of the server from then on.
	Certificate *x509.Certificate

	Name                string
	ConnectionURL       string
	PublicConnectionURL string // may be empty
	Channel             string // the token's goes before it; an unknown one is ignored
	Description         string
	Properties          map[string]string
	SystemUUID          string // may be empty
	MachineID           string // may be empty

	// RemoteAddr is the address that the request came from, for events.
	RemoteAddr string
}

// Registered is the outcome of a registration.
type Registered struct {
	// Name of the server's record. It may differ from the name in the request.
	Name string
	// Repeat: the server was registered already. The registration spent no use of the token.
	Repeat bool
}

// Register admits a server.
//
// A known certificate from the same machine is a repeat. It gets the same answer, and spends no use of the token. The
// token may be used up. The status of the server stays as it is.
//
// Any other registration spends one use of the token, in the transaction that records the server. A known machine with
// another certificate is refused with ErrIdentityTaken and an event. It is admitted if an operator allowed that
// (AllowReinstall) or expects the machine (PreRegister). Two machine IDs with one system UUID are two machines: the
// second one is admitted, and warning.SharedUUID names both.
//
// Errors: ErrTokenMalformed, ErrTokenUnknown, ErrTokenExpired, ErrTokenExhausted; ErrNoCertificate,
// ErrInvalidCertificate, ErrInvalidName, ErrInvalidURL, ErrInvalidMachineID, ErrInvalidSystemUUID, ErrTooLong;
// ErrIdentityTaken, ErrIdentityChanged, ErrNameTaken, ErrNotAdmitted. ErrTooOften for repeats, see
// Options.SelfUpdateInterval, and while too many registrations are judged.
func (r *Registry) Register(ctx context.Context, reg Registration) (Registered, error) {
	a, err := r.checkRegistration(reg)
	if err != nil {
		return Registered{}, err
	}
	at := r.now()
	known, err := r.limitRepeat(ctx, a)
	if err != nil {
		return Registered{}, err
	}
	outcome, err := r.enrol(ctx, a)
	if err != nil {
		if known != nil {
			r.presence.SelfUpdates.Forget(known.ID)
		}
		return Registered{}, err
	}
	r.presence.Change(outcome.server.ID, func(c *lifecycle.Contact) {
		if !outcome.repeat {
			*c = lifecycle.Contact{Acting: c.Acting} // the rest was of an earlier installation
		}
		c.LastSeen = at
	})
	return Registered{Name: outcome.server.Name, Repeat: outcome.repeat}, nil
}

// limitRepeat limits how often a server registers again: each time counts as a self update. It returns the server with the
// certificate of the applicant, nil if there is none. Errors: ErrTooOften.
func (r *Registry) limitRepeat(ctx context.Context, a *applicant) (known *Server, err error) {
	err = r.store.View(ctx, func(tx storage.ReadTx) error {
		known, err = byFingerprint.Find(tx, storage.StringKey(a.fingerprint))
		return err
	})
	if err != nil || known == nil {
		return nil, err
	}
	verdict := r.presence.SelfUpdates.Judge(known.ID, lifecycle.CauseNetworkConfigChanged, a.ConnectionURL != known.ConnectionURL)
	if verdict.Refuse {
		return nil, fmt.Errorf("server %q registers again: %w", known.Name, ErrTooOften)
	}
	a.pollAfter = verdict.Poll
	return known, nil
}

// maxJudgements is how often a registration is judged again because its record changed meanwhile.
const maxJudgements = 3

// enrol lets Options.Admit judge an applicant, and stores the decision. It records a refusal as an event.
func (r *Registry) enrol(ctx context.Context, a *applicant) (out enrolment, err error) {
	var judged admission
	for range maxJudgements {
		if judged, err = r.admit(ctx, a); err != nil {
			out = enrolment{server: judged.known}
			break
		}
		at := r.now() // the judgement may have taken long
		err = r.Write(ctx, func(tx *Tx) error {
			if out, err = r.decideEnrolment(tx, a, judged, at); err != nil {
				return err
			}
			return out.store(tx)
		})
		if !errors.Is(err, errJudgedOther) {
			break
		}
	}
	if errors.Is(err, ErrIdentityTaken) || errors.Is(err, ErrIdentityChanged) || errors.Is(err, ErrNotAdmitted) || errors.Is(err, errManyJudged) {
		r.recordRefusal(ctx, out.server, a, err)
	}
	if errors.Is(err, ErrNotAdmitted) && judged.Refuse == "" {
		err = ErrNotAdmitted // the reason is for the operator, in the event
	}
	return out, err
}

// recordTimeout bounds the wait for the store to take an event.
const recordTimeout = 10 * time.Second

// refusalRate is how many refused registrations are recorded per second, and refusalBurst how many at once. The holder of a
// valid token could otherwise fill the log with refusals.
const (
	refusalRate  = 1
	refusalBurst = 20
)

// recordRefusal records a refused registration. server is the record that it is about, nil if there is none.
func (r *Registry) recordRefusal(ctx context.Context, server *Server, a *applicant, why error) {
	if !r.refusals.Allow() {
		r.unrecorded.Add(1)
		return
	}
	more := ""
	if n := r.unrecorded.Swap(0); n > 0 {
		more = fmt.Sprintf("; %d more were refused before, and not recorded one by one", n)
	}
	entry := event.Event{At: r.now(), Kind: event.RegistrationRefused,
		Reason: fmt.Sprintf("from %s as %q with certificate %.12s: %v", a.RemoteAddr, a.Name, a.fingerprint, why) + more}
	if server != nil {
		entry.Server = server.Name
	}
	// The client may close the connection before the event is stored.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	err := r.Write(ctx, func(tx *Tx) error { return tx.Record(entry) })
	if err != nil {
		r.log.ErrorContext(ctx, "an event could not be stored", "kind", entry.Kind, "server", entry.Server, "reason", entry.Reason, "error", err)
	}
}
