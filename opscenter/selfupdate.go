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

// SelfUpdate is what a registered server says of itself.
type SelfUpdate struct {
	// ConnectionURL may be empty: unchanged.
	ConnectionURL string
	Cause         lifecycle.Cause
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
		update.Cause = lifecycle.CauseNetworkConfigChanged
	}
	fingerprint := Fingerprint(certificate)
	// Strangers are turned away without keeping writers waiting.
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
	verdict := r.presence.JudgeSelfUpdate(info.ID, update.Cause, news)
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
			t.State.NotBefore = at // polls begun before asked elsewhere, or read a part before the reboot
		}
		if err := tx.putState(&t.State); err != nil {
			return err
		}
		list = append(list, t.Events...)
		return tx.Record(list...)
	})
	if err != nil {
		r.presence.ForgetSelfUpdate(info.ID)
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
