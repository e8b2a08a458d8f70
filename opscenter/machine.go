package opscenter

import (
	"fmt"

	"github.com/opscenter-go/sdk/storage"
)

// A record is of one machine. A server that registers chooses its address, and may choose that of another server. The
// machine that answers there must be the machine that registered. Otherwise an action on one record would reach the
// machine of another. These certificates are accepted:
//
//	presented                          accepted
//	its own certificate                always: only its machine has the key
//	its cluster's, by an operator's    if what answers tells this machine ID, or none (older releases); and is the
//	word (Adopt, CreateCluster, ...)   member that this record is of
//	its cluster's, found by polls      if what answers tells this machine ID
//	(Options.AdoptMembers)
//	one that an operator accepted      as its cluster's by an operator's word
//	one that is publicly trusted       for the host of a public URL that an operator has set, and if what answers
//	                                   tells this machine ID, or none
//	another record's own               never
//	any but its own                    never, if what answers tells the machine ID of another record
//
// Where no machine ID was told at the registration, it is learned from a poll that shows the server's own certificate.
// What is refused so is a failure (FailureIdentity) and a warning (WarningIdentity): nothing is done to a server that
// is not ready.

// anotherMachine says why what answers is not the machine of the server; empty: nothing speaks against it. proven: it
// is certain that it is.
func (r *Registry) anotherMachine(tx storage.ReadTx, o *observed) (why string, proven bool, err error) {
	if o.Failure != nil {
		return "", false, nil
	}
	server, err := servers.Get(tx, nameKey(o.name))
	if err != nil {
		return "", false, err
	}
	if o.Presented == "" || o.Presented == server.Fingerprint {
		return "", true, nil // whatever it says: it has the key
	}
	machineID, err := normalMachineID(o.MachineID)
	if err != nil {
		machineID = "" // what is none tells nothing
	}
	if machineID != "" {
		other, err := byMachineID.Find(tx, storage.StringKey(machineID))
		if err != nil {
			return "", false, err
		}
		if other != nil && other.ID != server.ID {
			return fmt.Sprintf("at %s answers the machine of server %q (machine ID %s)", server.ConnectionURL, other.Name, machineID), false, nil
		}
	}
	other, err := byFingerprint.Find(tx, storage.StringKey(o.Presented))
	if err != nil {
		return "", false, err
	}
	switch {
	case other != nil && other.ID != server.ID:
		return fmt.Sprintf("at %s the certificate of server %q is presented", server.ConnectionURL, other.Name), false, nil
	case differs(server.MachineID, machineID):
		return fmt.Sprintf("at %s a machine with the ID %s answers, and the server registered with %s", server.ConnectionURL, machineID, server.MachineID), false, nil
	case server.ServedByPoll && (machineID == "" || server.MachineID == ""):
		return "it presents a cluster's certificate, and nothing tells whether it is the machine that registered: if it is a member of the cluster, add it (AddClusterMembers)", false, nil
	}
	proven = machineID != "" && machineID == server.MachineID
	why, err = r.anotherMember(tx, server, o, proven)
	// Which member it is, only what runs Incus can say; where it could not, nothing is certain.
	return why, proven || o.MemberName != nil || server.Cluster == "", err
}

// anotherMember says of which server the member is that answers with a cluster's certificate; empty: of no other one.
// proven: it is the machine that registered.
func (r *Registry) anotherMember(tx storage.ReadTx, server *Server, o *observed, proven bool) (string, error) {
	if o.MemberName == nil || *o.MemberName == "" || proven && *o.MemberName == o.state.MemberName {
		return "", nil
	}
	cluster := server.Cluster
	if cluster == "" {
		for known, err := range clustersByFingerprint.Scan(tx, storage.Range{Prefix: storage.StringKey(o.Presented)}) {
			if err != nil {
				return "", err
			}
			cluster = known.Name
			break
		}
	}
	if cluster == "" {
		return "", nil
	}
	for member, err := range serversByCluster.Scan(tx, storage.Range{Prefix: storage.StringKey(cluster)}) {
		if err != nil {
			return "", err
		}
		if member.ID == server.ID {
			continue
		}
		state, err := states.Get(tx, nameKey(member.Name))
		if err != nil {
			return "", err
		}
		if state.MemberName == *o.MemberName {
			return fmt.Sprintf("at %s answers member %q of cluster %q, which is server %q", server.ConnectionURL, *o.MemberName, cluster, member.Name), nil
		}
	}
	return "", nil
}

// learn returns the machine ID that a server tells with its own certificate, where none is recorded of it; empty: none.
func (r *Registry) learn(tx storage.ReadTx, o *observed) (string, error) {
	machineID, err := normalMachineID(o.MachineID)
	if o.Failure != nil || err != nil || machineID == "" {
		return "", nil
	}
	server, err := servers.Get(tx, nameKey(o.name))
	if err != nil || server.MachineID != "" || o.Presented != server.Fingerprint {
		return "", err
	}
	other, err := byMachineID.Find(tx, storage.StringKey(machineID))
	if err != nil || other != nil {
		return "", err
	}
	return machineID, nil
}

// refuse makes a failure of an observation of another machine: nothing that it tells is of this one.
func (o *observed) refuse(why string) {
	o.Observation = Observation{Server: o.Server, ID: o.ID, At: o.At, Took: o.Took, Light: o.Light, Presented: o.Presented,
		Failure: &Failure{Kind: FailureIdentity, Message: cutTo(why, maxReason)}}
	o.found, o.parts = digest{}, factsDigest{}
}

// shares reports whether a certificate is accepted of the server that others may present, too.
func (s *Server) shares() bool { return s.ServedFingerprint != "" || s.PublicURLTrusted }
