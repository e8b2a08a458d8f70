package opscenter

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage"
)

// enrolment is all that a registration stores. decideEnrolment decides it on a snapshot, and store writes it.
type enrolment struct {
	server *Server // as it is stored
	before *Server // its present record, nil for a new server
	// repeat: the certificate is registered already.
	repeat bool
	// token is the token with one use less. nil: a repeat.
	token *Token
	// sharing are the other machines with the system UUID of the server.
	sharing []*Server
	// cluster is the name of the cluster that the server joins. Empty: none.
	cluster string
	// pollAfter is the delay of the poll of a repeat. Below 0: none.
	pollAfter time.Duration
	events    []event.Event
	at        time.Time
}

// moved: the server has another address.
func (e *enrolment) moved() bool { return e.server.ConnectionURL != e.before.ConnectionURL }

// learned: a repeat tells a system UUID or machine ID for the first time.
func (e *enrolment) learned() bool {
	return e.repeat && (e.server.SystemUUID != e.before.SystemUUID || e.server.MachineID != e.before.MachineID)
}

// decideEnrolment decides the rows and events of a registration. If it returns an error, the server of the
// enrolment is the record that the registration conflicts with, nil if there is none.
func (r *Registry) decideEnrolment(tx storage.ReadTx, a *applicant, judged admission, at time.Time) (enrolment, error) {
	found, err := lookUp(tx, a, at)
	if err != nil {
		return enrolment{server: found.server}, err
	}
	var out enrolment
	switch {
	case found.repeat:
		out, err = decideRepeat(tx, a, found.server, at)
	case found.server != nil:
		out, err = decideInstalled(tx, a, found, at)
	default:
		out, err = r.decideNew(tx, a, found, judged.Name, at)
	}
	if err != nil {
		return out, err
	}
	return out, r.settle(tx, judged, &out)
}

// decideRepeat decides about an applicant whose certificate is registered already.
func decideRepeat(tx storage.ReadTx, a *applicant, known *Server, at time.Time) (enrolment, error) {
	if differs(known.SystemUUID, a.SystemUUID) || differs(known.MachineID, a.MachineID) {
		return enrolment{server: known}, fmt.Errorf("server %q: %w", known.Name, ErrIdentityChanged)
	}
	server := *known
	server.SystemUUID = cmp.Or(known.SystemUUID, a.SystemUUID)
	server.MachineID = cmp.Or(known.MachineID, a.MachineID)
	server.ConnectionURL = a.ConnectionURL
	// An ID that it tells for the first time may belong to another server.
	sharing, taken, err := learned(tx, known, &server)
	if err != nil {
		return enrolment{server: cmp.Or(taken, known)}, err
	}
	out := enrolment{server: &server, before: known, repeat: true, sharing: sharing, pollAfter: a.pollAfter, at: at}
	if out.moved() || out.learned() {
		server.LastUpdated = at
	}
	if out.moved() {
		out.events = []event.Event{{At: at, Kind: event.ConnectionURLChanged, Server: known.Name, Reason: "registered again, now at " + server.ConnectionURL}}
	}
	return out, nil
}

// decideInstalled decides about a machine that is pre-registered, or that an operator allows to register again. It refuses
// any other machine that is known with another certificate.
func decideInstalled(tx storage.ReadTx, a *applicant, found standing, at time.Time) (enrolment, error) {
	machine := found.server
	if err := mayTakeOver(tx, machine, a.SystemUUID, a.MachineID); err != nil {
		return enrolment{server: machine}, err
	}
	server := *machine
	server.MachineID = cmp.Or(a.MachineID, machine.MachineID) // each installation has a new one
	server.SystemUUID = cmp.Or(a.SystemUUID, machine.SystemUUID)
	server.Certificate, server.Fingerprint = EncodeCertificate(a.Certificate), a.fingerprint
	server.ConnectionURL, server.ReinstallAllowed, server.ServedFingerprint = a.ConnectionURL, false, ""
	server.FormerServed, server.ServedByPoll = "", false
	server.PublicConnectionURL = cmp.Or(machine.PublicConnectionURL, a.PublicConnectionURL)
	server.RegisteredAt, server.LastUpdated = at, at
	entry := event.Event{At: at, Kind: event.ServerReinstalled, Server: machine.Name,
		Reason: fmt.Sprintf("installed anew, certificate %.12s, was %.12s", server.Fingerprint, machine.Fingerprint)}
	if machine.Certificate == "" {
		entry.Kind = event.ServerRegistered
		entry.Reason = fmt.Sprintf("announced before, admitted by %s from %s, certificate %.12s", found.token.label(), a.RemoteAddr, server.Fingerprint)
	}
	return enrolment{server: &server, before: machine, token: found.token.spent(at), sharing: found.sharing, events: []event.Event{entry}, at: at}, nil
}

// decideNew decides about an applicant whose machine is new. name, unless empty, is its name instead of its own.
func (r *Registry) decideNew(tx storage.ReadTx, a *applicant, found standing, name string, at time.Time) (enrolment, error) {
	name, err := freeName(tx, a, name, len(found.sharing) > 0)
	if err != nil {
		return enrolment{}, err
	}
	channel, err := r.channelFor(tx, found.token.Channel, a.Channel)
	if err != nil {
		return enrolment{}, err
	}
	server := &Server{
		ID: uuid.NewString(), Name: name,
		ConnectionURL: a.ConnectionURL, PublicConnectionURL: a.PublicConnectionURL,
		Channel: channel, Description: a.Description, Properties: cloneProperties(a.Properties),
		Certificate: EncodeCertificate(a.Certificate), Fingerprint: a.fingerprint,
		SystemUUID: a.SystemUUID, MachineID: a.MachineID,
		CreatedAt: at, RegisteredAt: at, LastUpdated: at,
	}
	entry := event.Event{At: at, Kind: event.ServerRegistered, Server: name,
		Reason: fmt.Sprintf("admitted by %s from %s, certificate %.12s", found.token.label(), a.RemoteAddr, a.fingerprint)}
	return enrolment{server: server, token: found.token.spent(at), sharing: found.sharing, events: []event.Event{entry}, at: at}, nil
}

// freeName returns the name of a new server: the decided one, unless that is empty, or its own. shared: other servers have
// its system UUID. Errors: ErrNameTaken.
func freeName(tx storage.ReadTx, a *applicant, decided string, shared bool) (string, error) {
	if decided != "" {
		err := nameFree(tx, decided, "")
		if errors.Is(err, ErrNameTaken) {
			err = fmt.Errorf("%w: %w", ErrNotAdmitted, err)
		}
		return decided, err
	}
	err := nameFree(tx, a.Name, "")
	if a.unnamed && a.MachineID != "" && (shared || errors.Is(err, ErrNameTaken) && a.SystemUUID == "") {
		// IncusOS names a server by its system UUID until it has a host name. If that UUID is shared, the machine ID
		// is the name.
		return a.MachineID, nameFree(tx, a.MachineID, "")
	}
	return a.Name, err
}

// channelFor returns the first of the wanted channels that exists, else the default channel.
func (r *Registry) channelFor(tx storage.ReadTx, wanted ...string) (string, error) {
	for _, name := range wanted {
		if name == "" {
			continue
		}
		found, err := channels.Find(tx, storage.StringKey(name))
		if err != nil {
			return "", err
		}
		if found != nil {
			return name, nil
		}
	}
	return r.Channels().Default(), nil
}

// store writes the enrolment.
func (e *enrolment) store(tx *Tx) error {
	if e.token != nil {
		if err := tokens.Put(tx, e.token); err != nil {
			return err
		}
	}
	if err := e.storeServer(tx); err != nil {
		return err
	}
	if err := tx.warnShared(e.server, e.sharing, e.at); err != nil {
		return err
	}
	if err := tx.Record(e.events...); err != nil {
		return err
	}
	return e.joinCluster(tx)
}

func (e *enrolment) storeServer(tx *Tx) error {
	if e.before == nil {
		return tx.insertPending(e.server, e.at)
	}
	if !e.repeat || e.moved() || e.learned() {
		if err := servers.Put(tx, e.server); err != nil {
			return err
		}
	}
	switch {
	case !e.repeat:
		return tx.modifyState(e.server.Name, e.beginAnew)
	case e.pollAfter >= 0:
		return tx.modifyState(e.server.Name, e.pollAgain)
	}
	return nil
}

// insertPending stores a server that was not reached yet, and asks for its first poll.
func (t *Tx) insertPending(server *Server, at time.Time) error {
	if err := servers.Insert(t, server); err != nil {
		return err
	}
	return t.putState(&lifecycle.ServerState{Name: server.Name, ID: server.ID, Status: lifecycle.StatusPending, StatusDetail: lifecycle.DetailRegistering,
		StatusReason: "registered, not reached so far", StatusSince: at, Type: lifecycle.TypeUnknown, LastSeen: at, LastUpdated: at, PollRequested: at})
}

// beginAnew changes the state of a machine that was installed anew.
func (e *enrolment) beginAnew(s *lifecycle.ServerState) error {
	s.Status, s.StatusDetail, s.StatusReason, s.StatusSince = lifecycle.StatusPending, lifecycle.DetailRegistering, "registered, not reached so far", e.at
	s.Announced, s.Operation, s.Maintenance, s.MemberName = nil, nil, lifecycle.NotInMaintenance, ""
	s.PollRequested, s.LastUpdated, s.NotBefore = e.at, e.at, e.at
	s.Presented, s.Outages, s.FlappingSince, s.Unproven = "", nil, time.Time{}, false
	s.Stopped, s.MemberRoles, s.LastOperation, s.BootedAt = nil, nil, nil, time.Time{}
	return nil
}

// pollAgain changes the state of a server that registers again. It may do so after a boot. Therefore it is polled.
func (e *enrolment) pollAgain(s *lifecycle.ServerState) error {
	s.PollRequested = e.at.Add(e.pollAfter)
	if e.moved() {
		s.NotBefore = s.PollRequested // polls that began before do not count
		s.Unproven = s.Unproven || e.before.shares()
	}
	return nil
}

// joinCluster makes the server a member of the cluster that Options.Admit chose for it.
func (e *enrolment) joinCluster(tx *Tx) error {
	if e.cluster == "" {
		return nil
	}
	cluster, err := tx.Snapshot().Cluster(e.cluster)
	if err == nil {
		err = tx.join(cluster, e.at, "as its registration was judged", e.server.Name)
	}
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrClustered) || errors.Is(err, ErrBusy) {
		err = fmt.Errorf("%w: %w", ErrNotAdmitted, err)
	}
	return err
}
