package lifecycle

import (
	"fmt"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

// wholePolls is how many polls in a row must read everything to clear the warning that a server is partly unreadable.
const wholePolls = 3

// judgeWarnings decides which warnings the observation gives cause for.
func (t *Transition) judgeWarnings(o Observation, policy Policy) {
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
		if o.Facts != nil && (len(o.Notes) > 0 || len(o.Unread) == 0) { // a part that was not read may still be too large
			judge(warning.Facts, len(o.Notes) > 0, strings.Join(o.Notes, "; "))
		}
		// A light poll does not try everything, and one poll that reads everything is not enough to clear the warning.
		if len(o.Unread) > 0 || t.Contact.Whole >= wholePolls {
			judge(warning.Unreadable, len(o.Unread) > 0, "could not be read, so the old values are kept: "+strings.Join(o.Unread, "; "))
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
		// In the first seconds after its registration a server does not trust the control plane yet.
		if t.Contact.Failures >= policy.OfflineThreshold {
			judge(warning.Untrusted, true, o.Failure.Message)
		}
	}
}
