package opscenter

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/internal/presence"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage"
)

// Registration is the request of a server that registers itself.
type Registration struct {
	// Token is the secret that admits the server.
	Token string
	// Certificate from the TLS handshake. It is the identity of the server from then on.
	Certificate *x509.Certificate

	Name                string
	ConnectionURL       string
	PublicConnectionURL string // may be empty
	Channel             string // the token's goes before it; an unknown one is ignored
	Description         string
	Properties          map[string]string
	SystemUUID          string // may be empty
	MachineID           string // may be empty

	// RemoteAddr is the address that the request came from, for events.
	RemoteAddr string

	unnamed     bool   // the name is the system UUID
	decidedName string // by Options.Admit, for a new server
	verdict     presence.SelfUpdate
}

// Registered is the outcome of a registration.
type Registered struct {
	// Name of the server's record. It may differ from the name in the request.
	Name string
	// Repeat: the server was registered already. The registration spent no use of the token.
	Repeat bool
}

// Register admits a server.
//
// A known certificate from the same machine is a repeat. It gets the same answer, and spends no use of the token. The
// token may be used up. The status of the server stays as it is.
//
// Any other registration spends one use of the token, in the transaction that records the server. A known machine with
// another certificate is refused with ErrIdentityTaken and an event. It is admitted if an operator allowed that
// (AllowReinstall) or expects the machine (PreRegister). Two machine IDs with one system UUID are two machines: the
// second one is admitted, and warning.SharedUUID names both.
//
// Errors: ErrTokenMalformed, ErrTokenUnknown, ErrTokenExpired, ErrTokenExhausted; ErrNoCertificate,
// ErrInvalidCertificate, ErrInvalidName, ErrInvalidURL, ErrInvalidMachineID, ErrInvalidSystemUUID, ErrTooLong;
// ErrIdentityTaken, ErrIdentityChanged, ErrNameTaken, ErrNotAdmitted. ErrTooOften for repeats, see
// Options.SelfUpdateInterval, and while too many registrations are judged.
func (r *Registry) Register(ctx context.Context, reg Registration) (Registered, error) {
	if err := r.checkRegistration(&reg); err != nil {
		return Registered{}, err
	}
	at := r.now()
	// A repeat counts as a self update.
	known, err := r.serverByFingerprint(ctx, Fingerprint(reg.Certificate))
	switch {
	case errors.Is(err, ErrUnknownCertificate):
	case err != nil:
		return Registered{}, err
	default:
		reg.verdict = r.presence.SelfUpdates.Judge(known.ID, lifecycle.CauseNetworkConfigChanged, reg.ConnectionURL != known.ConnectionURL)
		if reg.verdict.Refuse {
			return Registered{}, fmt.Errorf("server %q registers again: %w", known.Name, ErrTooOften)
		}
	}
	outcome, err := r.registerJudged(ctx, reg, at)
	if err != nil {
		if known != nil {
			r.presence.SelfUpdates.Forget(known.ID)
		}
		return Registered{}, err
	}
	r.presence.Change(outcome.server.ID, func(c *lifecycle.Contact) {
		if !outcome.repeat {
			*c = lifecycle.Contact{Acting: c.Acting} // the rest was of an earlier installation
		}
		c.LastSeen = at
	})
	return Registered{Name: outcome.server.Name, Repeat: outcome.repeat}, nil
}

// maxJudgements is how often a registration is judged again because its record changed meanwhile.
const maxJudgements = 3

// registerJudged lets Options.Admit judge a registration, and carries it out as decided.
func (r *Registry) registerJudged(ctx context.Context, reg Registration, at time.Time) (out registering, err error) {
	for range maxJudgements {
		at = r.now() // the last judgement may have taken long
		var judged *admission
		given := reg
		if r.options.Admit != nil {
			if judged, err = r.admit(ctx, reg, at); err != nil {
				return out, err
			}
			at = r.now()
			if judged != nil {
				judged.applyTo(&given)
			}
		}
		err = r.Write(ctx, func(tx *Tx) error {
			if out, err = r.register(tx, given, at); err != nil {
				return err
			}
			if err := tx.Record(out.events...); err != nil {
				return err
			}
			return tx.settle(judged, &out, at)
		})
		if !errors.Is(err, errJudgedOther) {
			if judged != nil && judged.Name != "" && errors.Is(err, ErrNameTaken) {
				err = fmt.Errorf("%w: %w", ErrNotAdmitted, err)
			}
			break
		}
	}
	if errors.Is(err, errJudgedOther) {
		err = fmt.Errorf("%w: %w", ErrNotAdmitted, err)
	}
	if errors.Is(err, ErrIdentityTaken) || errors.Is(err, ErrIdentityChanged) || errors.Is(err, ErrNotAdmitted) {
		r.refused(ctx, out.server, reg, err)
	}
	if errors.Is(err, ErrNotAdmitted) {
		err = ErrNotAdmitted // the reason is for the operator, in the event
	}
	return out, err
}

func (r *Registry) checkRegistration(reg *Registration) (err error) {
	if err := checkCertificate(reg.Certificate); err != nil {
		return err
	}
	if reg.Token, err = tokenID(reg.Token); err != nil {
		return err
	}
	if err := checkServerName(reg.Name); err != nil {
		return err
	}
	if err := checkURL("connection URL", reg.ConnectionURL); err != nil {
		return err
	}
	if err := errors.Join(r.allowURL("connection URL", reg.ConnectionURL), r.allowURL("public connection URL", reg.PublicConnectionURL)); err != nil {
		return err
	}
	if err := checkLength("channel", reg.Channel, MaxLabelLength); err != nil {
		return err
	}
	reg.unnamed = reg.SystemUUID != "" && strings.EqualFold(reg.Name, reg.SystemUUID) // a placeholder, too
	if reg.SystemUUID, err = normalSystemUUID(reg.SystemUUID); err != nil {
		return err
	}
	if reg.MachineID, err = normalMachineID(reg.MachineID); err != nil {
		return err
	}
	return r.checkSpec(&ServerSpec{Description: reg.Description, Properties: reg.Properties, PublicConnectionURL: reg.PublicConnectionURL})
}

// registering is the result of one run of register.
type registering struct {
	server *Server
	// tookOver is the ID of the server whose record the registration took over. Empty: none.
	tookOver string
	// learned: a repeat told a system UUID or machine ID for the first time.
	learned bool
	repeat  bool
	events  []event.Event
}

func (r *Registry) register(tx *Tx, reg Registration, at time.Time) (registering, error) {
	known, err := byFingerprint.Find(tx, storage.StringKey(Fingerprint(reg.Certificate)))
	if err != nil {
		return registering{}, err
	}
	if known != nil {
		return r.registerAgain(tx, known, reg, at)
	}
	token, err := useToken(tx, reg.Token, at)
	if err != nil {
		return registering{}, err
	}
	machine, sharing, err := takenOver(tx, reg)
	if err != nil {
		return registering{server: machine}, err
	}
	var out registering
	if machine == nil {
		out, err = r.registerNew(tx, token, reg, len(sharing) > 0, at)
	} else {
		out, err = r.registerKnownMachine(tx, machine, token, reg, at)
	}
	if err != nil {
		return out, err
	}
	return out, r.warnShared(tx, out.server, sharing, at)
}

// takenOver returns the server whose record a registration takes over, nil if it is new, and the servers with its system
// UUID.
func takenOver(tx storage.ReadTx, reg Registration) (machine *Server, sharing []*Server, err error) {
	found, err := identify(tx, reg.Name, reg.SystemUUID, reg.MachineID)
	if err != nil {
		return found.machine, nil, err
	}
	if found.machine == nil {
		if found.machine, err = knownByName(tx, reg); err != nil {
			return nil, nil, err
		}
	}
	return found.machine, found.sharing, nil
}

// knownByName returns the server of that name, if only its name can identify its machine. That is a server that may be
// installed again and has no system UUID: its machine ID ended with the old installation. Or it is a server that was
// pre-registered by its name alone.
func knownByName(tx storage.ReadTx, reg Registration) (*Server, error) {
	server, err := serversByName.Find(tx, storage.StringKey(strings.ToLower(reg.Name)))
	switch {
	case err != nil || server == nil:
		return nil, err
	case server.Certificate == "" && server.SystemUUID == "" && server.MachineID == "",
		server.Certificate != "" && server.ReinstallAllowed && server.SystemUUID == "":
		return server, nil
	}
	return nil, nil
}

// registerAgain handles a registration with a certificate that is registered already.
func (r *Registry) registerAgain(tx *Tx, known *Server, reg Registration, at time.Time) (registering, error) {
	out := registering{server: known, repeat: true, learned: known.learns(&reg)}
	if out.learned {
		out.tookOver = known.ID
	}
	if differs(known.SystemUUID, reg.SystemUUID) || differs(known.MachineID, reg.MachineID) {
		return out, fmt.Errorf("server %q: %w", known.Name, ErrIdentityChanged)
	}
	changed := *known
	if changed.SystemUUID == "" {
		changed.SystemUUID = reg.SystemUUID
	}
	if changed.MachineID == "" {
		changed.MachineID = reg.MachineID
	}
	// An ID that it tells for the first time may belong to another server.
	sharing, taken, err := learned(tx, known, &changed)
	if err != nil {
		if taken != nil {
			out.server = taken
		}
		return out, err
	}
	changed.ConnectionURL = reg.ConnectionURL
	if changed.ConnectionURL != known.ConnectionURL {
		out.events = append(out.events, event.Event{At: at, Kind: event.ConnectionURLChanged, Server: known.Name, Reason: "registered again, now at " + changed.ConnectionURL})
	}
	if changed.ConnectionURL != known.ConnectionURL || changed.SystemUUID != known.SystemUUID || changed.MachineID != known.MachineID {
		changed.LastUpdated = at
		if err := servers.Put(tx, &changed); err != nil {
			return out, err
		}
	}
	out.server = &changed
	if err := r.warnShared(tx, &changed, sharing, at); err != nil {
		return out, err
	}
	// A server may register again after a boot. Therefore it is polled.
	if reg.verdict.Poll >= 0 {
		moved := changed.ConnectionURL != known.ConnectionURL
		if err := requestPoll(tx, known.Name, at.Add(reg.verdict.Poll), moved); err != nil {
			return out, err
		}
		if moved && known.shares() {
			if err := tx.modifyState(known.Name, func(s *lifecycle.ServerState) error {
				s.Unproven = true
				return nil
			}); err != nil {
				return out, err
			}
		}
	}
	return out, nil
}

// differs reports whether both values are known and differ.
func differs(have, said string) bool { return have != "" && said != "" && have != said }

// registerNew records a new server. shared: other servers have its system UUID.
func (r *Registry) registerNew(tx *Tx, token *Token, reg Registration, shared bool, at time.Time) (registering, error) {
	if reg.decidedName != "" {
		reg.Name, reg.unnamed = reg.decidedName, false
	}
	err := nameFree(tx, reg.Name, "")
	if reg.unnamed && reg.MachineID != "" && (shared || errors.Is(err, ErrNameTaken) && reg.SystemUUID == "") {
		// IncusOS names a server by its system UUID until it has a host name. If that UUID is shared, the machine ID
		// is the name.
		reg.Name = reg.MachineID
		err = nameFree(tx, reg.Name, "")
	}
	if err != nil {
		return registering{}, err
	}
	channel, err := r.channelFor(tx, token.Channel, reg.Channel)
	if err != nil {
		return registering{}, err
	}
	server := &Server{
		ID: uuid.NewString(), Name: reg.Name,
		ConnectionURL: reg.ConnectionURL, PublicConnectionURL: reg.PublicConnectionURL,
		Channel: channel, Description: reg.Description, Properties: cloneProperties(reg.Properties),
		Certificate: EncodeCertificate(reg.Certificate), Fingerprint: Fingerprint(reg.Certificate),
		SystemUUID: reg.SystemUUID, MachineID: reg.MachineID,
		CreatedAt: at, RegisteredAt: at, LastUpdated: at,
	}
	if err := tx.insertPending(server, at); err != nil {
		return registering{}, err
	}
	out := registering{server: server, events: []event.Event{{At: at, Kind: event.ServerRegistered, Server: server.Name,
		Reason: fmt.Sprintf("admitted by %s from %s, certificate %.12s", token.label(), reg.RemoteAddr, server.Fingerprint)}}}
	return out, nil
}

// insertPending stores a server that was not reached yet, and asks for its first poll.
func (t *Tx) insertPending(server *Server, at time.Time) error {
	if err := servers.Insert(t, server); err != nil {
		return err
	}
	return t.putState(&lifecycle.ServerState{Name: server.Name, ID: server.ID, Status: lifecycle.StatusPending, StatusDetail: lifecycle.DetailRegistering,
		StatusReason: "registered, not reached so far", StatusSince: at, Type: lifecycle.TypeUnknown, LastSeen: at, LastUpdated: at, PollRequested: at})
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

// registerKnownMachine gives a certificate to a machine that is pre-registered, or that an operator allows to register
// again. It refuses any other machine.
func (r *Registry) registerKnownMachine(tx *Tx, machine *Server, token *Token, reg Registration, at time.Time) (registering, error) {
	out := registering{server: machine}
	announced := machine.Certificate == ""
	if !announced && !machine.ReinstallAllowed {
		return out, fmt.Errorf("server %q: %w", machine.Name, ErrIdentityTaken)
	}
	if differs(machine.SystemUUID, reg.SystemUUID) || (announced && differs(machine.MachineID, reg.MachineID)) {
		return out, fmt.Errorf("server %q has another system UUID or machine ID: %w", machine.Name, ErrIdentityTaken)
	}
	changed := *machine
	// Each installation has a new machine ID.
	if reg.MachineID != "" {
		if other, err := byMachineID.Find(tx, storage.StringKey(reg.MachineID)); err != nil {
			return out, err
		} else if other != nil && other.ID != machine.ID {
			return out, fmt.Errorf("its machine ID is that of server %q: %w", other.Name, ErrIdentityTaken)
		}
		changed.MachineID = reg.MachineID
	}
	if reg.SystemUUID != "" {
		changed.SystemUUID = reg.SystemUUID
	}
	changed.Certificate, changed.Fingerprint = EncodeCertificate(reg.Certificate), Fingerprint(reg.Certificate)
	changed.ConnectionURL, changed.ReinstallAllowed, changed.ServedFingerprint = reg.ConnectionURL, false, ""
	changed.FormerServed, changed.ServedByPoll = "", false
	if changed.PublicConnectionURL == "" {
		changed.PublicConnectionURL = reg.PublicConnectionURL
	}
	changed.RegisteredAt, changed.LastUpdated = at, at
	if err := servers.Put(tx, &changed); err != nil {
		return out, err
	}
	entry := event.Event{At: at, Kind: event.ServerReinstalled, Server: machine.Name,
		Reason: fmt.Sprintf("installed anew, certificate %.12s, was %.12s", changed.Fingerprint, machine.Fingerprint)}
	if announced {
		entry.Kind = event.ServerRegistered
		entry.Reason = fmt.Sprintf("announced before, admitted by %s from %s, certificate %.12s", token.label(), reg.RemoteAddr, changed.Fingerprint)
	}
	out.server, out.tookOver, out.events = &changed, machine.ID, []event.Event{entry}
	err := tx.modifyState(machine.Name, func(s *lifecycle.ServerState) error {
		s.Status, s.StatusDetail, s.StatusReason, s.StatusSince = lifecycle.StatusPending, lifecycle.DetailRegistering, "registered, not reached so far", at
		s.Announced, s.Operation, s.Maintenance, s.MemberName = nil, nil, lifecycle.NotInMaintenance, ""
		s.PollRequested, s.LastUpdated, s.NotBefore = at, at, at
		s.Presented, s.Outages, s.FlappingSince, s.Unproven = "", nil, time.Time{}, false
		s.Stopped, s.MemberRoles, s.LastOperation, s.BootedAt = nil, nil, nil, time.Time{}
		return nil
	})
	if err != nil {
		return out, err
	}
	return out, nil
}

// recordTimeout bounds the wait for the store to take an event.
const recordTimeout = 10 * time.Second

// refusalRate is how many refused registrations are recorded per second, and refusalBurst how many at once. The holder of a
// valid token could otherwise fill the log with refusals.
const (
	refusalRate  = 1
	refusalBurst = 20
)

// refused records a refused registration.
func (r *Registry) refused(ctx context.Context, server *Server, reg Registration, why error) {
	if !r.refusals.Allow() {
		r.unrecorded.Add(1)
		return
	}
	more := ""
	if n := r.unrecorded.Swap(0); n > 0 {
		more = fmt.Sprintf("; %d more were refused before, and not recorded one by one", n)
	}
	entry := event.Event{At: r.now(), Kind: event.RegistrationRefused,
		Reason: fmt.Sprintf("from %s as %q with certificate %.12s: %v", reg.RemoteAddr, reg.Name, Fingerprint(reg.Certificate), why) + more}
	if server != nil {
		entry.Server = server.Name
	}
	// The client may close the connection before the event is stored.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	err := r.Write(ctx, func(tx *Tx) error { return tx.Record(entry) })
	if err != nil {
		r.log.ErrorContext(ctx, "an event could not be stored", "kind", entry.Kind, "server", entry.Server, "reason", entry.Reason, "error", err)
	}
}

// RequestPoll asks the poller for a poll of servers out of turn. It ignores servers that do not exist.
func (h Observer) RequestPoll(ctx context.Context, names ...string) error {
	at := h.registry.now()
	return h.registry.Write(ctx, func(tx *Tx) error {
		for _, name := range names {
			if err := requestPoll(tx, name, at, false); err != nil && !isNotFound(err) {
				return err
			}
		}
		return nil
	})
}

// requestPoll asks for a poll out of turn. moved: the server has another address, and polls that began before do not
// count.
func requestPoll(tx *Tx, name string, at time.Time, moved bool) error {
	return tx.modifyState(name, func(s *lifecycle.ServerState) error {
		s.PollRequested = at
		if moved {
			s.NotBefore = at
		}
		return nil
	})
}
