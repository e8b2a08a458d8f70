package lifecycle

import (
	"fmt"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter/event"
)

// noteCertificate stores which certificate the server presented. Each change of it makes an event.
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
		why := "the server registered with it"
		if o.Trust != "" {
			why = o.Trust
		}
		if o.Failure == nil && next.Status == StatusReady && next.StatusDetail == DetailNone {
			next.StatusReason = reasonReady // it still told of a refused certificate
		}
		t.addEvent(o.At, event.CertificateChanged, fmt.Sprintf("presents certificate %.12s, which is accepted: %s", o.Presented, why))
	}
}
