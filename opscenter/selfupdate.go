package opscenter

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/storage"
)

// Cause is why a server sends a self update. The names are those of Operations Center's API.
type Cause string

const (
	CauseNetworkConfigChanged         Cause = "network-config-changed" // also: empty
	CauseSystemIsReady                Cause = "system-is-ready"
	CauseOSUpdateApplied              Cause = "os-update-applied"
	CauseApplicationUpdateApplied     Cause = "application-update-applied"
	CauseNetworkInterfaceStateChanged Cause = "network-interface-state-changed"
	CauseStorageConfigChanged         Cause = "storage-config-changed"
	CauseSystemRebootTriggered        Cause = "system-reboot-triggered"
	CauseSystemShutdownTriggered      Cause = "system-shutdown-triggered"
	CauseSuspendTriggered             Cause = "suspend-triggered"
	CauseSecureBootUpdateApplied      Cause = "secure-boot-update-applied"
)

// Causes lists all causes.
var Causes = []Cause{CauseNetworkConfigChanged, CauseSystemIsReady, CauseOSUpdateApplied, CauseApplicationUpdateApplied,
	CauseNetworkInterfaceStateChanged, CauseStorageConfigChanged, CauseSystemRebootTriggered, CauseSystemShutdownTriggered,
	CauseSuspendTriggered, CauseSecureBootUpdateApplied}

// SelfUpdate is what a registered server says of itself.
type SelfUpdate struct {
	// ConnectionURL may be empty: unchanged.
	ConnectionURL string
	Cause         Cause
}

// SelfUpdate takes in what the server with that certificate says of itself. A server that
// goes down on purpose is offline from now on, and is expected back from a reboot; each other
// cause asks for a poll at once, or, where one was asked for just now, a little later. Causes of newer releases are accepted, and change nothing
// but when the server was last seen.
//
// Errors: ErrNoCertificate, ErrUnknownCertificate, ErrInvalidURL, ErrTooLong, ErrTooOften.
func (r *Registry) SelfUpdate(ctx context.Context, certificate *x509.Certificate, update SelfUpdate) error {
	if err := checkCertificate(certificate); err != nil {
		return err
	}
	if update.Cause == "" {
		update.Cause = CauseNetworkConfigChanged
	}
	fingerprint := Fingerprint(certificate)
	// Strangers are turned away without keeping writers waiting.
	info, err := r.ServerByFingerprint(ctx, fingerprint)
	if err != nil {
		return err
	}
	if !update.Cause.known() {
		r.seen(info.ID, now())
		r.log.WarnContext(ctx, "self update with an unknown cause", "server", info.Name, "cause", truncate.Name(string(update.Cause)))
		return nil
	}
	if update.ConnectionURL != "" {
		if err := checkURL("connection URL", update.ConnectionURL); err != nil {
			return err
		}
		if update.ConnectionURL != info.ConnectionURL {
			if err := r.allowURL("connection URL", update.ConnectionURL); err != nil {
				return err
			}
		}
	}
	at := now()
	news := update.ConnectionURL != "" && update.ConnectionURL != info.ConnectionURL || update.Cause.ofPower() ||
		update.Cause == CauseSystemIsReady && info.State.Announced != nil
	verdict := r.judgeUpdate(info.ID, update.Cause, news)
	if verdict.refuse {
		return fmt.Errorf("server %q: self update %s: %w", info.Name, update.Cause, ErrTooOften)
	}
	if !verdict.store && verdict.poll < 0 {
		r.seen(info.ID, at)
		return nil
	}
	var server *Server
	var list []Event
	back := false
	err = r.update(ctx, func(tx *writing) (err error) {
		list = nil
		server, err = byFingerprint.Find(tx, storage.StringKey(fingerprint))
		if err != nil {
			return err
		}
		if server == nil {
			return ErrUnknownCertificate
		}
		moved := update.ConnectionURL != "" && update.ConnectionURL != server.ConnectionURL
		if moved {
			changed := *server
			changed.ConnectionURL, changed.LastUpdated = update.ConnectionURL, at
			if err := servers.Put(tx, &changed); err != nil {
				return err
			}
			list = append(list, Event{At: at, Kind: EventConnectionURLChanged, Server: server.Name, Reason: fmt.Sprintf("%s: now %s, was %s", update.Cause, update.ConnectionURL, server.ConnectionURL)})
		}
		state, err := states.Get(tx, nameKey(server.Name))
		if err != nil {
			return err
		}
		t := r.applyCause(*state, update.Cause, at, verdict)
		back = update.Cause == CauseSystemIsReady && state.Announced != nil
		if moved || back {
			t.State.Unproven = t.State.Unproven || moved && server.shares()
			t.State.NotBefore = at // polls begun before asked elsewhere, or read a part before the reboot
		}
		if err := tx.putState(&t.State); err != nil {
			return err
		}
		list = append(list, t.Events...)
		return r.record(tx, list...)
	})
	if err != nil {
		r.forgetUpdate(info.ID)
		return err
	}
	r.setContact(server.ID, func(c *Contact) {
		c.LastSeen = at
		if update.Cause == CauseSystemIsReady {
			c.Failures = 0
		}
		if back {
			c.Good = 0
		}
	})
	r.logEvents(ctx, list)
	return nil
}

// ofPower reports whether a server that says so is about to be down.
func (c Cause) ofPower() bool {
	return c == CauseSystemRebootTriggered || c == CauseSystemShutdownTriggered || c == CauseSuspendTriggered
}

func (c Cause) known() bool {
	for _, known := range Causes {
		if c == known {
			return true
		}
	}
	return false
}

// applyCause changes a server's state as a self update tells.
func (r *Registry) applyCause(state ServerState, cause Cause, at time.Time, verdict verdict) Transition {
	t := Transition{State: state}
	next := &t.State
	switch cause {
	case CauseSystemRebootTriggered:
		next.Announced = &Announcement{At: at, Deadline: at.Add(r.options.RebootTimeout)}
		if op := next.Operation; op != nil && op.Action == ActionReboot && op.Deadline.After(next.Announced.Deadline) {
			next.Announced.Deadline = op.Deadline // it was given more time
		}
		t.to(at, StatusOffline, DetailRebooting, "the server said that it reboots")
	case CauseSystemShutdownTriggered, CauseSuspendTriggered:
		before, op := next.Announced, next.Operation
		next.Announced = &Announcement{At: at, Unasked: true}
		switch {
		case op != nil && op.Action == ActionReboot && before != nil: // by us, who wait for it to be back
			next.Announced.Unasked, next.Announced.Deadline = false, before.Deadline
		case before != nil && !before.Unasked && before.Deadline.IsZero(): // by us
			next.Announced.Unasked = false
		}
		t.to(at, StatusOffline, DetailShutDown, fmt.Sprintf("the server said so: %s", cause))
	default:
		if cause == CauseSecureBootUpdateApplied {
			next.KeyWaits = true
		}
		if verdict.store {
			t.event(at, EventSelfUpdate, string(cause))
		}
		if verdict.poll >= 0 {
			next.PollRequested = at.Add(verdict.poll)
		}
		if cause == CauseSystemIsReady && next.Announced != nil {
			// It was down, and is back: its word settles what a poll might be in doubt about.
			next.Announced = &Announcement{At: time.Unix(0, 0).UTC(), WentDown: true, Deadline: next.Announced.Deadline}
		}
	}
	next.LastUpdated = at
	return t
}
