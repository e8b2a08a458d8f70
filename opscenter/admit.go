package opscenter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"time"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/storage"
)

// Candidate is a server that a token would admit, for Options.Admit.
type Candidate struct {
	// Registration of the server, without the token.
	Registration
	// Admitting is the token, without its UUID, which is a secret.
	Admitting Token
	// Known is the server whose record the candidate would take over: a pre-registered server, or one whose
	// reinstallation is allowed. nil: the candidate is new.
	Known *ServerInfo
	// Again: the candidate is Known, with its certificate, and tells its system UUID or machine ID for the first time. It
	// needs no token. Only a refusal has an effect.
	Again bool
}

// Decision is the answer of Options.Admit. The zero value admits the candidate as the token alone does.
type Decision struct {
	// Refuse is the reason of a refusal. Empty: the candidate is admitted.
	Refuse string
	// Name of a new server, instead of the candidate's own. A known server keeps its name.
	Name string
	// Channel of the server, instead of the token's. It must exist.
	Channel string
	// Properties are added to the candidate's, and replace those of the same name.
	Properties map[string]string
	// Cluster is the cluster whose record the server joins, and whose channel it then follows. See AddClusterMembers. It
	// must exist. The server's Incus joins the Incus cluster only when cluster.Manager.AddServers is called.
	Cluster string
}

// Defaults of Options for admissions.
const (
	defaultAdmitTimeout = 10 * time.Second
	// maxAdmissions is how many candidates are judged at a time. More are refused with ErrTooOften.
	maxAdmissions = 64
)

// candidate returns the candidate of a registration that a token would admit. nil: a server registers again and tells
// nothing new, or the transaction refuses the registration.
func (r *Registry) candidate(ctx context.Context, a *applicant, at time.Time) (out *Candidate, err error) {
	err = r.Read(ctx, func(tx *Snapshot) error {
		out = nil
		found, err := lookUp(tx, a, at)
		if errors.Is(err, ErrIdentityTaken) {
			return nil // the transaction refuses it, with an event
		}
		if err != nil {
			return err
		}
		if found.repeat && !found.server.learns(a.SystemUUID, a.MachineID) {
			return nil
		}
		made := Candidate{Registration: a.Registration, Again: found.repeat}
		made.Token = ""
		if !found.repeat {
			made.Admitting = *found.token
			made.Admitting.UUID = ""
		}
		if found.server != nil {
			if !found.repeat && found.server.Certificate != "" && !found.server.ReinstallAllowed {
				return nil // as above
			}
			if made.Known, err = r.load(tx, found.server); err != nil {
				return err
			}
		}
		out = &made
		return nil
	})
	return out, err
}

// admission is a decision, and the record that it was about. The zero value: there was nothing to decide.
type admission struct {
	Decision
	judged bool
	known  *Server // whose record the candidate takes over; nil: it is new
}

// errJudgedOther: the registration differs from the one that Options.Admit judged.
var errJudgedOther = fmt.Errorf("%w: the registration changed while it was judged", ErrNotAdmitted)

// errManyJudged: maxAdmissions registrations are being judged already. It is an ErrTooOften.
var errManyJudged = fmt.Errorf("%d registrations are being judged already: %w", maxAdmissions, ErrTooOften)

// learns reports whether the record lacks the system UUID or machine ID.
func (s *Server) learns(systemUUID, machineID string) bool {
	return s.SystemUUID == "" && systemUUID != "" || s.MachineID == "" && machineID != ""
}

// admit asks Options.Admit about an applicant. The transaction applies the decision. Errors: ErrNotAdmitted with the
// reason, errManyJudged.
func (r *Registry) admit(ctx context.Context, a *applicant) (admission, error) {
	if r.options.Admit == nil {
		return admission{}, nil
	}
	c, err := r.candidate(ctx, a, r.now())
	if err != nil || c == nil {
		return admission{}, err
	}
	out := admission{judged: true}
	if c.Known != nil {
		out.known = &c.Known.Server
	}
	out.Decision, err = r.judge(ctx, *c)
	switch {
	case errors.Is(err, errManyJudged):
		return out, err
	case err == nil && out.Refuse != "":
		err = errors.New(truncate.Name(out.Refuse))
	case err == nil:
		err = out.check()
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrNotAdmitted, err)
	}
	return out, err
}

// check refuses an invalid decision before the transaction begins.
func (d *Decision) check() error {
	if d.Name != "" {
		if err := checkServerName(d.Name); err != nil {
			return err
		}
	}
	return checkProperties(d.Properties)
}

// judge calls Options.Admit, and waits at most Options.AdmitTimeout for its answer. A panic is an error.
func (r *Registry) judge(ctx context.Context, c Candidate) (Decision, error) {
	select {
	case r.admissions <- struct{}{}:
	default:
		return Decision{}, errManyJudged
	}
	outer := ctx
	ctx, cancel := context.WithTimeout(ctx, r.options.AdmitTimeout)
	defer cancel()
	type verdict struct {
		Decision
		error
	}
	done := make(chan verdict, 1) // the answer may come after the timeout
	go func() {
		defer func() { <-r.admissions }() // a call that does not end keeps its place
		defer func() {
			if p := recover(); p != nil {
				r.log.ErrorContext(ctx, "Options.Admit panicked", "panic", p, "stack", string(debug.Stack()))
				done <- verdict{error: errors.New("the registration could not be judged: Options.Admit panicked")}
			}
		}()
		d, err := r.options.Admit(ctx, c)
		done <- verdict{d, err}
	}()
	select {
	case v := <-done:
		return v.Decision, v.error
	case <-ctx.Done():
		if err := outer.Err(); err != nil {
			return Decision{}, fmt.Errorf("the request ended before the registration was judged: %w", err)
		}
		return Decision{}, fmt.Errorf("the registration was not judged within %s: %w", r.options.AdmitTimeout, ctx.Err())
	}
}

// properties returns the given properties together with those of the decision.
func (d *Decision) properties(given map[string]string) map[string]string {
	if len(d.Properties) == 0 {
		return given
	}
	out := map[string]string{}
	maps.Copy(out, given)
	maps.Copy(out, d.Properties)
	return out
}

// settle applies the decision to the enrolment of an admitted server. It returns errJudgedOther if the registration was
// not judged, or was judged for another record.
func (r *Registry) settle(tx storage.ReadTx, judged admission, out *enrolment) error {
	if r.options.Admit == nil || out.repeat && !out.learned() {
		return nil
	}
	same := judged.judged && (judged.known == nil) == (out.before == nil)
	if !same || out.before != nil && out.before.ID != judged.known.ID {
		return errJudgedOther
	}
	if out.repeat {
		return nil
	}
	if judged.Channel != "" {
		if err := channelExists(tx, judged.Channel); err != nil {
			return fmt.Errorf("%w: %w", ErrNotAdmitted, err)
		}
		out.server.Channel = judged.Channel
	}
	out.server.Properties = judged.properties(out.server.Properties)
	if err := checkProperties(out.server.Properties); err != nil {
		return fmt.Errorf("%w: %w", ErrNotAdmitted, err)
	}
	out.cluster = judged.Cluster
	return nil
}
