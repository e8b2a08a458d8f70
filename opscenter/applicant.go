package opscenter

import (
	"errors"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/storage"
)

// applicant is a server that registers itself. All values of its Registration are checked and in canonical form.
type applicant struct {
	Registration
	fingerprint string // of the certificate
	unnamed     bool   // the name is the system UUID
	// pollAfter is the delay of the poll that a repeat causes. Below 0: none.
	pollAfter time.Duration
}

// checkRegistration returns the applicant of a registration. Errors: the validation errors of Register.
func (r *Registry) checkRegistration(reg Registration) (*applicant, error) {
	if err := checkCertificate(reg.Certificate); err != nil {
		return nil, err
	}
	var err error
	if reg.Token, err = tokenID(reg.Token); err != nil {
		return nil, err
	}
	if err := checkServerName(reg.Name); err != nil {
		return nil, err
	}
	if err := checkURL("connection URL", reg.ConnectionURL); err != nil {
		return nil, err
	}
	if err := errors.Join(r.allowURL("connection URL", reg.ConnectionURL), r.allowURL("public connection URL", reg.PublicConnectionURL)); err != nil {
		return nil, err
	}
	if err := checkLength("channel", reg.Channel, MaxLabelLength); err != nil {
		return nil, err
	}
	unnamed := reg.SystemUUID != "" && strings.EqualFold(reg.Name, reg.SystemUUID) // a placeholder, too
	if reg.SystemUUID, err = normalSystemUUID(reg.SystemUUID); err != nil {
		return nil, err
	}
	if reg.MachineID, err = normalMachineID(reg.MachineID); err != nil {
		return nil, err
	}
	err = checkSpec(&ServerSpec{Description: reg.Description, Properties: reg.Properties, PublicConnectionURL: reg.PublicConnectionURL})
	if err != nil {
		return nil, err
	}
	return &applicant{Registration: reg, fingerprint: Fingerprint(reg.Certificate), unnamed: unnamed}, nil
}

// standing is the rows that an applicant has in the store.
type standing struct {
	// server is the record that the registration takes over. nil: the machine is new.
	server *Server
	// repeat: server is registered with the certificate of the applicant.
	repeat bool
	// token admits the applicant. nil: a repeat.
	token *Token
	// sharing are the other servers with its system UUID. Empty: a repeat.
	sharing []*Server
}

// lookUp returns the standing of an applicant. Errors: those of the token; ErrIdentityTaken, with the server that the
// applicant conflicts with.
func lookUp(tx storage.ReadTx, a *applicant, at time.Time) (out standing, err error) {
	out.server, err = byFingerprint.Find(tx, storage.StringKey(a.fingerprint))
	if err != nil || out.server != nil {
		out.repeat = out.server != nil
		return out, err
	}
	if out.token, err = findToken(tx, a.Token, at); err != nil {
		return out, err
	}
	out.server, out.sharing, err = takenOver(tx, a.Name, a.SystemUUID, a.MachineID)
	return out, err
}
