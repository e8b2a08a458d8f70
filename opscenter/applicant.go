package opscenter

import (
	"errors"
	"strings"
	"time"
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
