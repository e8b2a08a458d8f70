package lifecycle

import (
	"fmt"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter/event"
)

// The parts of Apply that doubt what they see: certificates, servers that go up and down, and
// what is worth a warning.

// noteCertificate takes in which certificate the server presented. A new one is never passed over
// in silence.
func (t *Transition) noteCertificate(o Observation) {
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
		t.addEvent(o.At, event.CertificateChanged, fmt.Sprintf("presents certificate %.12s, which is not accepted: %s", o.Presented, o.Failure.Message))
	case before != "" || o.Trust != "":
		why := "the one it registered with"
		if o.Trust != "" {
			why = o.Trust
		}
		if o.Failure == nil && next.Status == StatusReady && next.StatusDetail == DetailNone {
			next.StatusReason = reasonReady // and no longer the alarm
		}
		t.addEvent(o.At, event.CertificateChanged, fmt.Sprintf("presents certificate %.12s, which is accepted: %s", o.Presented, why))
	}
}
