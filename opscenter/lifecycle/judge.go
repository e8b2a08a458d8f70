package lifecycle

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

// The parts of Apply that doubt what they see: certificates, servers that go up and down, and
// what is worth a warning.

// presented takes in which certificate the server presented. A new one is never passed over
// in silence.
func (t *Transition) presented(o Observation) {
	next := &t.State
	if o.Presented == "" || o.Presented == next.Presented {
		return
	}
	before := next.Presented
	next.Presented = o.Presented
	refused := o.Failure != nil && o.Failure.Kind == FailureCertificate
	switch {
	case refused:
		next.StatusReason = truncate.Text(o.Failure.Message, MaxReason)
		t.event(o.At, event.CertificateChanged, fmt.Sprintf("presents certificate %.12s, which is not accepted: %s", o.Presented, o.Failure.Message))
	case before != "" || o.Trust != "":
		why := "the one it registered with"
		if o.Trust != "" {
			why = o.Trust
		}
		if o.Failure == nil && next.Status == StatusReady && next.StatusDetail == DetailNone {
			next.StatusReason = reasonReady // and no longer the alarm
		}
		t.event(o.At, event.CertificateChanged, fmt.Sprintf("presents certificate %.12s, which is accepted: %s", o.Presented, why))
	}
}

// outage notes that the server became unresponsive, and whether it does so too often.
func (t *Transition) outage(at time.Time, policy Policy) {
	next := &t.State
	if policy.FlapThreshold <= 0 || policy.FlapThreshold == math.MaxInt {
		return
	}
	recent := []time.Time{}
	for _, one := range next.Outages {
		if age := at.Sub(one); age >= 0 && age < policy.FlapWindow {
			recent = append(recent, one)
		}
	}
	recent = append(recent, at)
	if extra := len(recent) - policy.FlapThreshold; extra > 0 {
		recent = recent[extra:]
	}
	next.Outages = recent
	if len(recent) >= policy.FlapThreshold && next.FlappingSince.IsZero() {
		next.FlappingSince = at
		t.event(at, event.Flapping, fmt.Sprintf("became unresponsive %d times within %s: held offline until it is steady for %s", len(recent), policy.FlapWindow, policy.FlapSteady))
	}
}

// held reports whether an answering server is held offline, because it goes up and down.
func (t *Transition) held(o Observation, policy Policy) bool {
	next := &t.State
	if next.FlappingSince.IsZero() {
		return false
	}
	if next.Status == StatusOffline && o.At.Sub(t.Contact.AnsweringSince) < policy.FlapSteady {
		if next.StatusDetail != DetailUnresponsive {
			t.to(o.At, StatusOffline, DetailUnresponsive, "answers, but goes up and down: held until it is steady")
		}
		return true
	}
	t.steady(o.At, fmt.Sprintf("has answered for %s", policy.FlapSteady))
	return false
}

// wholePolls is how many polls in a row must read all for a server to be no longer partly unreadable.
const wholePolls = 3

// steadilyDown ends the flapping of a server that simply stays down.
func (t *Transition) steadilyDown(o Observation, policy Policy) {
	if !t.State.FlappingSince.IsZero() && o.At.Sub(t.Contact.FirstFailure) >= policy.FlapSteady {
		t.steady(o.At, fmt.Sprintf("has not answered for %s", policy.FlapSteady))
	}
}

func (t *Transition) steady(at time.Time, why string) {
	t.State.FlappingSince, t.State.Outages = time.Time{}, nil
	t.event(at, event.Steady, "no longer up and down: "+why)
}

// warn says which warnings the server deserves.
func (t *Transition) warn(o Observation, policy Policy) {
	s := &t.State
	judge := func(kind warning.Kind, holds bool, message string) {
		t.Judged = append(t.Judged, kind)
		if holds {
			t.Warnings = append(t.Warnings, warning.Input{Kind: kind, Message: truncate.Text(message, MaxReason)})
		}
	}
	judge(warning.Flapping, !s.FlappingSince.IsZero(), "goes up and down; held offline since "+s.FlappingSince.Format(time.RFC3339))
	if o.Failure == nil {
		judge(warning.Unreachable, false, "")
		judge(warning.Certificate, false, "")
		judge(warning.Identity, false, "")
		judge(warning.Untrusted, false, "")
		judge(warning.BackupImage, s.Versions.OS.BackupImage, fmt.Sprintf("runs os %s from its backup image: os %s did not boot, and is not installed again", s.Versions.OS.Version, s.Versions.OS.VersionNext))
		if o.Facts != nil && (len(o.Notes) > 0 || len(o.Unread) == 0) { // a part that was not read may be too large still
			judge(warning.Facts, len(o.Notes) > 0, strings.Join(o.Notes, "; "))
		}
		// A light poll did not try all; and one whole poll between others that are not is no end of it.
		if len(o.Unread) > 0 || t.Contact.Whole >= wholePolls {
			judge(warning.Unreadable, len(o.Unread) > 0, "could not be read, and is kept as it was: "+strings.Join(o.Unread, "; "))
		}
		return
	}
	down := s.Status == StatusOffline && s.StatusDetail == DetailUnresponsive
	judge(warning.Unreachable, down, o.Failure.Message)
	if op := s.Operation; o.Presented != "" && (op == nil || op.Action != ActionFactoryReset) {
		judge(warning.Certificate, o.Failure.Kind == FailureCertificate, o.Failure.Message)
	}
	if o.Failure.Kind == FailureIdentity {
		judge(warning.Identity, true, o.Failure.Message)
	}
	if o.Failure.Kind == FailureUntrusted {
		// For some seconds after a registration that is as it should be.
		if t.Contact.Failures >= policy.OfflineThreshold {
			judge(warning.Untrusted, true, o.Failure.Message)
		}
	}
}

// Steady reports whether nothing is under way on a server, and nothing is in doubt: then the
// same observation finds nothing new the next time.
func (t *Transition) Steady() bool {
	s := &t.State
	return s.Status == StatusReady && s.StatusDetail == DetailNone && s.Announced == nil && s.Operation == nil &&
		s.FlappingSince.IsZero() && t.Contact.Failures == 0 && t.Contact.Acting == 0 && len(t.Warnings) == 0 && len(t.Events) == 0
}

// Clears reports whether the kind was judged, and is not deserved.
func (t *Transition) Clears(kind warning.Kind) bool {
	return slices.Contains(t.Judged, kind) && !slices.ContainsFunc(t.Warnings, func(w warning.Input) bool { return w.Kind == kind })
}
