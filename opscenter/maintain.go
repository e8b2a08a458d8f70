package opscenter

import (
	"fmt"
	"time"

	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage"
)

// Move records that a server is reached at another connection URL. why goes into the event. Errors: ErrInvalidURL,
// ErrTooLong; storage.ErrConflict if the server was removed.
func (t *Tx) Move(server *ServerInfo, url, why string) error {
	if err := checkURL("connection URL", url); err != nil {
		return err
	}
	if err := t.registry.allowURL("connection URL", url); err != nil {
		return err
	}
	known, err := byID.Find(t, storage.StringKey(server.ID))
	if err != nil {
		return err
	}
	if known == nil {
		return fmt.Errorf("server %q was removed: %w", server.Name, storage.ErrConflict)
	}
	if known.ConnectionURL == url {
		return nil
	}
	at := t.now()
	changed := *known
	changed.ConnectionURL, changed.LastUpdated = url, at
	if err := servers.Put(t, &changed); err != nil {
		return err
	}
	if err := requestPoll(t, known.Name, at, true); err != nil {
		return err
	}
	return t.Record(event.Event{At: at, Kind: event.ConnectionURLChanged, Server: known.Name, Reason: fmt.Sprintf("%s: now %s, was %s", why, url, known.ConnectionURL)})
}

// SetUpdateSettings records that a server has accepted these update settings. Polls that began before do not overwrite
// them. Errors: storage.ErrConflict if the server was removed.
func (t *Tx) SetUpdateSettings(server *ServerInfo, settings lifecycle.UpdateSettings) error {
	at := t.now()
	state, err := stateOf(t, server)
	if err != nil {
		return err
	}
	changed := *state
	changed.Update, changed.PollRequested, changed.NotBefore, changed.LastUpdated = &settings, at, at, at
	return t.putState(&changed)
}

// AllowReinstall allows one registration of the machine with another certificate, or forbids it, as
// Registry.AllowReinstall does. It ignores a server that was removed.
func (t *Tx) AllowReinstall(server *ServerInfo, allow bool, why string) error {
	known, err := byID.Find(t, storage.StringKey(server.ID))
	if err != nil || known == nil || known.ReinstallAllowed == allow {
		return err
	}
	at := t.now()
	changed := *known
	changed.ReinstallAllowed, changed.LastUpdated = allow, at
	if err := servers.Put(t, &changed); err != nil {
		return err
	}
	return t.Record(event.Event{At: at, Kind: event.ReinstallAllowed, Server: known.Name, Reason: fmt.Sprintf("another certificate is accepted once: %t: %s", allow, why)})
}

// RevokeToken deletes a token, as Registry.RevokeToken does. It ignores a token that was deleted already.
func (t *Tx) RevokeToken(id string) error {
	token, err := tokens.Find(t, storage.StringKey(id))
	if err != nil || token == nil {
		return err
	}
	return t.deleteToken(token, "")
}

// UsableUntil returns an error unless a token still admits a server at a time. Errors: ErrTokenUnknown, ErrTokenExpired,
// ErrTokenExhausted.
func (s *Snapshot) UsableUntil(id string, at time.Time) error {
	_, err := findToken(s, id, at)
	return err
}
