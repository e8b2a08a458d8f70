package opscenter

import (
	"fmt"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage"
)

// identified is the record that a registration with a new certificate belongs to.
type identified struct {
	// machine is the record of the machine. nil: there is none.
	machine *Server
	// sharing are the records of other machines with its system UUID.
	sharing []*Server
}

// identify finds the record of a machine with a new certificate. A machine ID tells machines apart. Cheap boards and some
// hypervisors give all their machines one system UUID. Therefore records with different machine IDs are different
// machines. If one side has no machine ID, one system UUID is one machine.
//
// A machine that was installed again has another machine ID. Its system UUID identifies it if an operator allowed that
// (AllowReinstall) or expects it (PreRegister). If other machines have the same UUID, the machine must also come under
// its name.
//
// Errors: ErrIdentityTaken; machine is then the record that the registration conflicts with.
func identify(tx storage.ReadTx, name, systemUUID, machineID string) (out identified, err error) {
	if machineID != "" {
		if out.machine, err = byMachineID.Find(tx, storage.StringKey(machineID)); err != nil {
			return out, err
		}
	}
	var free []*Server // records that the machine may take over by its system UUID
	var unclear *Server
	for holder, err := range withSystemUUID(tx, systemUUID) {
		switch {
		case err != nil:
			return out, err
		case out.machine != nil && holder.ID == out.machine.ID:
		case out.machine == nil && (holder.Certificate != "" && holder.ReinstallAllowed || holder.Certificate == "" && !differs(holder.MachineID, machineID)):
			free = append(free, holder)
		case holder.MachineID == "" || machineID == "":
			unclear = holder
		default:
			out.sharing = append(out.sharing, holder)
		}
	}
	switch {
	case len(free) == 1 && len(out.sharing) > 0 && free[0].Certificate != "" && !strings.EqualFold(free[0].Name, name):
		// Another machine with that UUID could take its place. Therefore it must come under its name.
		out.sharing = append(out.sharing, free[0])
	case len(free) == 1 && unclear != nil && !strings.EqualFold(free[0].Name, name):
		out.machine = unclear
		return out, fmt.Errorf("server %q: %w", unclear.Name, ErrIdentityTaken)
	case len(free) == 1:
		out.machine = free[0]
	case len(free) > 1:
		for _, holder := range free {
			if strings.EqualFold(holder.Name, name) {
				out.machine = holder
			} else {
				out.sharing = append(out.sharing, holder)
			}
		}
		if out.machine == nil {
			out.machine = free[0]
			return out, fmt.Errorf("servers %s have its system UUID, and the machine may take over each: allow it for one only: %w", namesOf(free), ErrIdentityTaken)
		}
	case unclear != nil && (out.machine == nil || out.machine.Certificate == "" || out.machine.ReinstallAllowed):
		out.machine = unclear
		return out, fmt.Errorf("server %q: %w", unclear.Name, ErrIdentityTaken)
	}
	return out, nil
}

// withSystemUUID yields the servers with a system UUID. It yields none for an empty one.
func withSystemUUID(tx storage.ReadTx, systemUUID string) func(func(*Server, error) bool) {
	if systemUUID == "" {
		return func(func(*Server, error) bool) {}
	}
	return bySystemUUID.Scan(tx, storage.Range{Prefix: storage.StringKey(systemUUID)})
}

// takenOver returns the server whose record a registration takes over, nil if it is new, and the servers with its system
// UUID.
func takenOver(tx storage.ReadTx, name, systemUUID, machineID string) (machine *Server, sharing []*Server, err error) {
	found, err := identify(tx, name, systemUUID, machineID)
	if err != nil {
		return found.machine, nil, err
	}
	if found.machine == nil {
		if found.machine, err = knownByName(tx, name); err != nil {
			return nil, nil, err
		}
	}
	return found.machine, found.sharing, nil
}

// knownByName returns the server of that name, if only its name can identify its machine. That is a server that may be
// installed again and has no system UUID: its machine ID ended with the old installation. Or it is a server that was
// pre-registered by its name alone.
func knownByName(tx storage.ReadTx, name string) (*Server, error) {
	server, err := serversByName.Find(tx, storage.StringKey(strings.ToLower(name)))
	switch {
	case err != nil || server == nil:
		return nil, err
	case server.Certificate == "" && server.SystemUUID == "" && server.MachineID == "",
		server.Certificate != "" && server.ReinstallAllowed && server.SystemUUID == "":
		return server, nil
	}
	return nil, nil
}

// mayTakeOver returns ErrIdentityTaken unless a machine with a new certificate may take over a record: it is
// pre-registered, or an operator allows the machine to register again.
func mayTakeOver(tx storage.ReadTx, machine *Server, systemUUID, machineID string) error {
	announced := machine.Certificate == ""
	if !announced && !machine.ReinstallAllowed {
		return fmt.Errorf("server %q: %w", machine.Name, ErrIdentityTaken)
	}
	if differs(machine.SystemUUID, systemUUID) || (announced && differs(machine.MachineID, machineID)) {
		return fmt.Errorf("server %q has another system UUID or machine ID: %w", machine.Name, ErrIdentityTaken)
	}
	if machineID == "" {
		return nil
	}
	other, err := byMachineID.Find(tx, storage.StringKey(machineID))
	if err != nil {
		return err
	}
	if other != nil && other.ID != machine.ID {
		return fmt.Errorf("its machine ID is that of server %q: %w", other.Name, ErrIdentityTaken)
	}
	return nil
}

// differs reports whether both values are known and differ.
func differs(have, said string) bool { return have != "" && said != "" && have != said }

// learned checks the system UUID and machine ID that a registered server tells for the first time. It returns the other
// machines with its system UUID. Errors: ErrIdentityTaken; taken is then the server that has them already.
func learned(tx storage.ReadTx, known, changed *Server) (sharing []*Server, taken *Server, err error) {
	is := func(other *Server) error {
		return fmt.Errorf("server %q says it is the machine of server %q: %w", known.Name, other.Name, ErrIdentityTaken)
	}
	if changed.MachineID != known.MachineID {
		other, err := byMachineID.Find(tx, storage.StringKey(changed.MachineID))
		if err != nil {
			return nil, nil, err
		}
		if other != nil && other.ID != known.ID {
			return nil, other, is(other)
		}
	}
	if changed.SystemUUID == known.SystemUUID {
		return nil, nil, nil
	}
	for other, err := range withSystemUUID(tx, changed.SystemUUID) {
		switch {
		case err != nil:
			return nil, nil, err
		case other.ID == known.ID:
		case other.MachineID == "" || changed.MachineID == "":
			return nil, other, is(other)
		default:
			sharing = append(sharing, other)
		}
	}
	return sharing, nil, nil
}

// maxNamed bounds how many servers a message names.
const maxNamed = 3

func namesOf(list []*Server) string {
	var names []string
	for _, s := range list[:min(len(list), maxNamed)] {
		names = append(names, fmt.Sprintf("%q", s.Name))
	}
	text := strings.Join(names, ", ")
	if len(list) > maxNamed {
		text += " and others"
	}
	return text
}

// warnShared raises the warning that a server shares its system UUID with others. Their records stay as they are. Each
// later server gets a warning of its own.
func (t *Tx) warnShared(server *Server, sharing []*Server, at time.Time) error {
	if len(sharing) == 0 {
		return nil
	}
	return t.raise(server.Name, server.ID, warning.Input{Kind: warning.SharedUUID, Message: truncate.Text(sharedMessage(server, sharing), lifecycle.MaxReason)}, at)
}

func sharedMessage(server *Server, sharing []*Server) string {
	return fmt.Sprintf("server %q has the system UUID %s of %s; their machine IDs and certificates differ. "+
		"If the board or the hypervisor gives every machine that UUID, acknowledge this. "+
		"If it is the same machine, installed again without leave, remove the old record. Or remove this record, and allow the reinstallation of the old one before the machine registers again.",
		server.Name, server.SystemUUID, namesOf(sharing))
}

// unshared clears the warning of the last server with a system UUID, when another one is removed.
func (r *Registry) unshared(tx *Tx, removed *Server, at time.Time) error {
	var left []*Server
	for other, err := range withSystemUUID(tx, removed.SystemUUID) {
		if err != nil {
			return err
		}
		if other.ID != removed.ID {
			left = append(left, other)
		}
		if len(left) > 1 {
			return nil
		}
	}
	if len(left) == 0 {
		return nil
	}
	return tx.clear(left[0].Name, left[0].ID, warning.SharedUUID, at, "no other server has its system UUID any more")
}
