package opscenter

import (
	"context"
	"crypto/x509"
	"fmt"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage"
)

// SelfUpdate is a message of a registered server about itself.
type SelfUpdate struct {
	// ConnectionURL is the new address of the server. Empty: unchanged.
	ConnectionURL string
	Cause         lifecycle.Cause
}

// SelfUpdate records a message of the server with that certificate. An empty cause is
// lifecycle.CauseNetworkConfigChanged. A server that goes down on purpose is offline from then on, and a reboot sets a
// deadline for its return. Every other cause asks for a poll: at once, or after Options.SelfUpdateInterval if one was
// asked for shortly before. An unknown cause, as of a newer release, only sets the time when the server was last seen.
//
// Errors: ErrNoCertificate, ErrUnknownCertificate, ErrInvalidURL, ErrTooLong, ErrTooOften.
func (r *Registry) SelfUpdate(ctx context.Context, certificate *x509.Certificate, update SelfUpdate) error {
	if err := checkCertificate(certificate); err != nil {
		return err
	}
	if update.Cause == "" {
		update.Cause = lifecycle.CauseNetworkConfigChanged
	}
	fingerprint := Fingerprint(certificate)
	// A View refuses strangers without delaying writers.
	info, err := r.serverByFingerprint(ctx, fingerprint)
	if err != nil {
		return err
	}
	if !update.Cause.Known() {
		r.presence.Change(info.ID, func(c *lifecycle.Contact) { c.LastSeen = r.now() })
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
	at := r.now()
	news := update.ConnectionURL != "" && update.ConnectionURL != info.ConnectionURL || update.Cause.GoesDown() ||
		update.Cause == lifecycle.CauseSystemIsReady && info.State.Announced != nil
	verdict := r.presence.SelfUpdates.Judge(info.ID, update.Cause, news)
	if verdict.Refuse {
		return fmt.Errorf("server %q: self update %s: %w", info.Name, update.Cause, ErrTooOften)
	}
	if !verdict.Store && verdict.Poll < 0 {
		r.presence.Change(info.ID, func(c *lifecycle.Contact) { c.LastSeen = at })
		return nil
	}
	var server *Server
	var list []event.Event
	back := false
	err = r.Write(ctx, func(tx *Tx) (err error) {
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
			list = append(list, event.Event{At: at, Kind: event.ConnectionURLChanged, Server: server.Name, Reason: fmt.Sprintf("%s: now %s, was %s", update.Cause, update.ConnectionURL, server.ConnectionURL)})
		}
		state, err := states.Get(tx, nameKey(server.Name))
		if err != nil {
			return err
		}
		t := lifecycle.Tell(*state, update.Cause, lifecycle.Telling{At: at, Event: verdict.Store, Poll: verdict.Poll, RebootTimeout: r.options.RebootTimeout})
		back = update.Cause == lifecycle.CauseSystemIsReady && state.Announced != nil
		if moved || back {
			t.State.Unproven = t.State.Unproven || moved && server.shares()
			t.State.NotBefore = at // earlier polls used another address, or read a part before the reboot
		}
		if err := tx.putState(&t.State); err != nil {
			return err
		}
		list = append(list, t.Events...)
		return tx.Record(list...)
	})
	if err != nil {
		r.presence.SelfUpdates.Forget(info.ID)
		return err
	}
	r.presence.Change(server.ID, func(c *lifecycle.Contact) {
		c.LastSeen = at
		if update.Cause == lifecycle.CauseSystemIsReady {
			c.Failures = 0
		}
		if back {
			c.Good = 0
		}
	})
	return nil
}
