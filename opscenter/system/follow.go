package system

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/network"
)

// pursuit is the memory of follow between two probes of a server.
type pursuit struct {
	// answer delivers the server's answer. Nil: the answer has come, or this process has not sent the request.
	answer   chan error
	secrets  []string // removed from the server's error texts
	reported bool     // see evidence
	settled  bool     // see evidence
	// good is the URL at which every probe since that time found the server as it should be.
	good  string
	since time.Time
	// raw and former remember the last comparison, which is slow by design.
	raw    string
	former bool
}

// follow probes the server of a network change until the change has ended. The request is under way, or was
// sent by an earlier process, or may never have been sent.
func (m *Manager) follow(ctx context.Context, c *Change, w *pursuit) error {
	if w.answer == nil { // resumed
		if c.SentAt.IsZero() {
			return m.outcome(ctx, c, m.end(ctx, c, StatusNotSent, "", "the control plane stopped before it asked the server"))
		}
		if least := m.now().Add(m.options.Grace); c.hidden.GiveUpAt.Before(least) {
			c.hidden.GiveUpAt = least
		}
	}
	for {
		live := ctx
		if w.answer != nil {
			live = context.WithoutCancel(ctx)
		}
		err := m.step(live, c, w)
		if c.Status.Final() || err != nil {
			return m.outcome(ctx, c, err)
		}
		timer := time.NewTimer(m.options.Interval)
		select {
		case answer := <-w.answer:
			w.answer = nil
			err = m.answered(context.WithoutCancel(ctx), c, w, answer)
		case <-timer.C:
		case <-live.Done():
			err = ctx.Err()
		}
		timer.Stop()
		if c.Status.Final() || err != nil {
			return m.outcome(ctx, c, err)
		}
	}
}

// outcome returns the error of a change that is no longer followed: that of its end, or ErrOutcomeUnknown.
func (m *Manager) outcome(ctx context.Context, c *Change, err error) error {
	if c.Status.Final() {
		return c.Err()
	}
	return fmt.Errorf("%s of server %q goes on: %w: %w", c.Section, c.Server, opscenter.ErrOutcomeUnknown, errors.Join(err, ctx.Err()))
}

// answered stores the server's answer. Errors are those of a store for which a retry is no help.
func (m *Manager) answered(ctx context.Context, c *Change, w *pursuit, answer error) error {
	changed := *c
	if c.Status == StatusSending {
		changed.Status = StatusWaiting
	}
	reason := ""
	if answer != nil {
		reason = scrubbed(answer.Error(), w.secrets)
	}
	switch {
	case answer == nil:
		changed.hidden.Applied, changed.Reason = true, "the server has accepted it"
	case errors.Is(answer, opscenter.ErrRefused):
		return m.ignoreRetryable(ctx, m.end(ctx, c, StatusRefused, "", reason))
	case errors.Is(answer, ErrFailed):
		// The server may have the new configuration. It undoes the change after the confirmation timeout.
		changed.hidden.Failed, changed.Reason = reason, reason
		if c.Timeout > 0 {
			changed.Status = StatusRollingBack
		}
	case !errors.Is(answer, opscenter.ErrOutcomeUnknown):
		return m.ignoreRetryable(ctx, m.end(ctx, c, StatusNotSent, "", reason))
	default:
		changed.Reason = "the answer was lost: " + reason
	}
	err := m.store(ctx, &changed)
	*c = changed // even if the store failed: this process knows the answer
	return m.ignoreRetryable(ctx, err)
}

// scrubbed removes secrets from a server's error text.
func scrubbed(text string, secrets []string) string {
	for _, secret := range secrets {
		if len(secret) >= minSecret {
			text = strings.ReplaceAll(text, secret, string(network.Hidden))
		}
	}
	return truncate.Text(text, maxReason)
}

// minSecret is the least length of a secret that is removed from texts, in bytes.
const minSecret = 4

// steady reports whether each probe has found the server as it should be for long enough, see Options.Steady.
func (m *Manager) steady(c *Change, w *pursuit, good string) bool {
	at := time.Now()
	if good != w.good {
		w.good, w.since = good, at
	}
	long := m.options.Steady
	if c.Timeout > 0 {
		long = min(long, c.Timeout/4)
	}
	return good != "" && at.Sub(w.since) >= long
}

// step probes the server once, and carries out the decision.
func (m *Manager) step(ctx context.Context, c *Change, w *pursuit) error {
	var info *opscenter.ServerInfo
	err := m.registry.Read(ctx, func(s *opscenter.Snapshot) (err error) {
		info, err = s.ServerByID(c.ServerID)
		return err
	})
	switch {
	case errors.Is(err, opscenter.ErrNotFound):
		return m.ignoreRetryable(ctx, m.end(ctx, c, StatusLost, "", "the server was removed"))
	case err != nil:
		return m.ignoreRetryable(ctx, err)
	case c.hidden.Fingerprint != "" && info.Fingerprint != c.hidden.Fingerprint:
		return m.ignoreRetryable(ctx, m.end(ctx, c, StatusLost, "", "the server was installed anew"))
	}
	if !w.reported && !c.hidden.Applied {
		if w.reported, err = m.hasReported(ctx, c, info.Name); err != nil {
			return m.ignoreRetryable(ctx, err)
		}
	}
	found := m.lookAll(ctx, c, info, w)
	if ctx.Err() != nil {
		return nil
	}
	next := decide(c, evidence{found: found, current: info.ConnectionURL, reported: w.reported, settled: w.settled}, m.now())
	if steady := m.steady(c, w, next.good); next.good != "" && !steady && !w.settled {
		return nil
	}
	switch {
	case next.status != "":
		c.hidden.Seen = next.seen
		return m.ignoreRetryable(ctx, m.end(ctx, c, next.status, next.url, next.reason))
	case next.confirm != "":
		if !c.hidden.Confirming {
			if err := m.storeStatus(ctx, c, StatusConfirming, next.reason); err != nil {
				return m.ignoreRetryable(ctx, err)
			}
		}
		target := info.ProbeTarget()
		target.ConnectionURL, target.PublicConnectionURL = next.confirm, ""
		bounded, cancel := context.WithTimeout(ctx, m.options.LookTimeout)
		defer cancel()
		if err := m.os.ConfirmNetwork(bounded, target); err == nil || errors.Is(err, ErrNothingPending) {
			w.settled = true // confirmed now or before, or undone: the next probe shows which
		}
	case c.Status != StatusRollingBack && !c.hidden.RollBackAt.IsZero() && !m.now().Before(c.hidden.RollBackAt):
		return m.ignoreRetryable(ctx, m.storeStatus(ctx, c, StatusRollingBack, notConfirmed+next.reason))
	case c.Status == StatusWaiting && next.reason != stillFormer:
		c.Reason = next.reason // stored with the next status
	}
	return nil
}

// hasReported reports whether the server, since it was asked, has sent a self update about a changed network.
func (m *Manager) hasReported(ctx context.Context, c *Change, name string) (bool, error) {
	list, err := m.registry.ListEvents(ctx, opscenter.EventFilter{Server: name, After: c.hidden.Events, Limit: opscenter.MaxPageSize})
	for _, e := range list {
		if e.Kind == event.SelfUpdate && e.Reason == string(lifecycle.CauseNetworkConfigChanged) && !e.At.Before(c.SentAt) {
			return true, nil
		}
	}
	return false, err
}

// ignoreRetryable logs and drops an error of the store that the next step may not meet again. It returns
// the error if the store is closed or ctx has ended.
func (m *Manager) ignoreRetryable(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil || !retryable(err) {
		return err
	}
	m.log.ErrorContext(ctx, "a change could not be stored, and is tried again", "error", err)
	return nil
}

// storeStatus stores a new status of a change with its reason.
func (m *Manager) storeStatus(ctx context.Context, c *Change, status Status, reason string) error {
	changed := *c
	changed.Status, changed.Reason = status, reason
	changed.hidden.Confirming = c.hidden.Confirming || status == StatusConfirming
	if err := m.store(ctx, &changed); err != nil {
		return err
	}
	*c = changed
	return nil
}

// lookAll probes a server at all URLs where it may be, at the same time.
func (m *Manager) lookAll(ctx context.Context, c *Change, info *opscenter.ServerInfo, w *pursuit) []seen {
	ctx, cancel := context.WithTimeout(ctx, m.options.LookTimeout)
	defer cancel()
	places := c.places(info.ConnectionURL)
	places = places[:min(len(places), maxPlaces)]
	out := make([]seen, len(places))
	var group sync.WaitGroup
	for i, place := range places {
		group.Go(func() {
			target := info.ProbeTarget()
			target.ConnectionURL, target.PublicConnectionURL, target.MemberName = place, "", c.hidden.MemberName
			s := &out[i]
			s.url = place
			if s.probe, s.err = m.os.Look(ctx, target); s.err != nil {
				return
			}
			if s.probe.Network == nil || s.probe.Network.Config == nil {
				s.err = errors.New("the server reports no network configuration")
				return
			}
			if s.probe.anotherThan(c.hidden.MachineID) {
				s.err = errors.New("another machine answers")
				return
			}
		})
	}
	group.Wait()
	for i := range out {
		if s := &out[i]; s.err == nil {
			s.err = m.compare(c, s, w)
		}
	}
	return out
}

// compare notes whether a probed configuration is the former one, or lacks a part of the wanted one.
func (m *Manager) compare(c *Change, s *seen, w *pursuit) error {
	raw, err := s.probe.Network.Config.Encode()
	if err != nil {
		return err
	}
	if w.raw != string(raw) {
		if w.former, err = c.hidden.Before.is(raw); err != nil {
			return err
		}
		w.raw = string(raw)
	}
	if s.former = w.former; s.former {
		return nil
	}
	wanted, err := network.Decode(c.hidden.Wanted)
	if err != nil {
		return err
	}
	unmet, err := network.Unmet(s.probe.Network.Config, wanted, c.Differences)
	s.foreign = strings.Join(unmet[:min(len(unmet), 5)], ", ")
	return err
}
