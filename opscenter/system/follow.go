package system

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/network"
)

// watch is what is known of a server while it is looked for.
type watch struct {
	// answer is where the answer of the server comes; nil: it has come, or nobody waits for it.
	answer  chan error
	secrets []string // to be kept out of what it says
	said    bool     // see evidence
	settled bool
	// good is where it was as it should be at every look since a moment.
	good  string
	since time.Time
	// raw and former remember the last comparison, which is slow by design.
	raw    string
	former bool
}

// follow sees a change through whose server is asked, or was, or may have been.
func (m *Manager) follow(ctx context.Context, c *Change, w *watch) error {
	if w.answer == nil { // taken up
		if c.SentAt.IsZero() {
			return m.over(ctx, c, m.end(ctx, c, StatusNotSent, "", "the control plane ended before it asked the server"))
		}
		if least := now().Add(m.options.Grace); c.hidden.GiveUpAt.Before(least) {
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
			return m.over(ctx, c, err)
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
			return m.over(ctx, c, err)
		}
	}
}

// over is the error of a change that is not followed any longer.
func (m *Manager) over(ctx context.Context, c *Change, err error) error {
	if c.Status.Final() {
		return c.Err()
	}
	return fmt.Errorf("%s of server %q goes on: %w: %w", c.Section, c.Server, opscenter.ErrOutcomeUnknown, errors.Join(err, ctx.Err()))
}

// answered takes in what the server has answered. Errors are those of the store, where that won't help.
func (m *Manager) answered(ctx context.Context, c *Change, w *watch, answer error) error {
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
		return m.pause(ctx, m.end(ctx, c, StatusRefused, "", reason))
	case errors.Is(answer, ErrFailed):
		// It may have the new configuration, and counts: it undoes the change when the time is up.
		changed.hidden.Failed, changed.Reason = reason, reason
		if c.Timeout > 0 {
			changed.Status = StatusRollingBack
		}
	case !errors.Is(answer, opscenter.ErrOutcomeUnknown):
		return m.pause(ctx, m.end(ctx, c, StatusNotSent, "", reason))
	default:
		changed.Reason = "the answer was lost: " + reason
	}
	err := m.store(ctx, &changed)
	*c = changed // whatever the store says: this process knows
	return m.pause(ctx, err)
}

// scrubbed takes secrets out of what a server says.
func scrubbed(text string, secrets []string) string {
	for _, secret := range secrets {
		if len(secret) >= minSecret {
			text = strings.ReplaceAll(text, secret, string(network.Hidden))
		}
	}
	return shortened(text)
}

// minSecret is the least length of a secret that is looked for in texts, in bytes.
const minSecret = 4

// steady reports whether a server has been as it should be for long enough.
func (m *Manager) steady(c *Change, w *watch, good string) bool {
	at := now()
	if good != w.good {
		w.good, w.since = good, at
	}
	long := m.options.Steady
	if c.Timeout > 0 {
		long = min(long, c.Timeout/4)
	}
	return good != "" && at.Sub(w.since) >= long
}

// step looks for the server, and does what is to be done.
func (m *Manager) step(ctx context.Context, c *Change, w *watch) error {
	var info *opscenter.ServerInfo
	err := m.registry.Read(ctx, func(s *opscenter.Snapshot) (err error) {
		info, err = s.ServerByID(c.ServerID)
		return err
	})
	switch {
	case errors.Is(err, opscenter.ErrNotFound):
		return m.pause(ctx, m.end(ctx, c, StatusLost, "", "the server was removed"))
	case err != nil:
		return m.pause(ctx, err)
	case c.hidden.Fingerprint != "" && info.Fingerprint != c.hidden.Fingerprint:
		return m.pause(ctx, m.end(ctx, c, StatusLost, "", "the server was installed anew"))
	}
	if !w.said && !c.hidden.Applied {
		if w.said, err = m.hasSaid(ctx, c, info.Name); err != nil {
			return m.pause(ctx, err)
		}
	}
	found := m.lookAll(ctx, c, info, w)
	if ctx.Err() != nil {
		return nil
	}
	next := decide(c, evidence{found: found, current: info.ConnectionURL, said: w.said, settled: w.settled}, now())
	if steady := m.steady(c, w, next.good); next.good != "" && !steady && !w.settled {
		return nil
	}
	switch {
	case next.status != "":
		c.hidden.Seen = next.seen
		return m.pause(ctx, m.end(ctx, c, next.status, next.url, next.reason))
	case next.confirm != "":
		if !c.hidden.Confirming {
			if err := m.note(ctx, c, StatusConfirming, next.reason); err != nil {
				return m.pause(ctx, err)
			}
		}
		target := info.ProbeTarget()
		target.ConnectionURL, target.PublicConnectionURL = next.confirm, ""
		bounded, cancel := context.WithTimeout(ctx, m.options.LookTimeout)
		defer cancel()
		if err := m.os.ConfirmNetwork(bounded, target); err == nil || errors.Is(err, ErrNothingPending) {
			w.settled = true // confirmed, now or before, or undone: the next look tells
		}
	case c.Status != StatusRollingBack && !c.hidden.RollBackAt.IsZero() && !now().Before(c.hidden.RollBackAt):
		return m.pause(ctx, m.note(ctx, c, StatusRollingBack, notConfirmed+next.reason))
	case c.Status == StatusWaiting && next.reason != stillFormer:
		c.Reason = next.reason // stored with the next status
	}
	return nil
}

// hasSaid reports whether the server has sent a self update that its network has changed, since it was asked.
func (m *Manager) hasSaid(ctx context.Context, c *Change, name string) (bool, error) {
	list, err := m.registry.Events(ctx, opscenter.EventFilter{Server: name, After: c.hidden.Events, Limit: opscenter.MaxPageSize})
	for _, e := range list {
		if e.Kind == event.SelfUpdate && e.Reason == string(lifecycle.CauseNetworkConfigChanged) && !e.At.Before(c.SentAt) {
			return true, nil
		}
	}
	return false, err
}

// pause makes of a store that refuses for now a reason to try again; one that is closed, or the end of ctx, is not.
func (m *Manager) pause(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil || !retryable(err) {
		return err
	}
	m.log.ErrorContext(ctx, "a change could not be stored, and is tried again", "error", err)
	return nil
}

func (m *Manager) note(ctx context.Context, c *Change, status Status, reason string) error {
	changed := *c
	changed.Status, changed.Reason = status, reason
	changed.hidden.Confirming = c.hidden.Confirming || status == StatusConfirming
	if err := m.store(ctx, &changed); err != nil {
		return err
	}
	*c = changed
	return nil
}

// lookAll looks for a server everywhere it may be, at once.
func (m *Manager) lookAll(ctx context.Context, c *Change, info *opscenter.ServerInfo, w *watch) []seen {
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
			if s.sight, s.err = m.os.Look(ctx, target); s.err != nil {
				return
			}
			if s.sight.Network == nil || s.sight.Network.Config == nil {
				s.err = errors.New("it tells no network configuration")
				return
			}
			if s.sight.anotherThan(c.hidden.MachineID) {
				s.err = errors.New("it is another machine")
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

// compare says whether the configuration of a sight is the former one, or ours, or another.
func (m *Manager) compare(c *Change, s *seen, w *watch) error {
	raw, err := s.sight.Network.Config.Encode()
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
	unmet, err := network.Unmet(s.sight.Network.Config, wanted, c.Differences)
	s.foreign = strings.Join(unmet[:min(len(unmet), 5)], ", ")
	return err
}
