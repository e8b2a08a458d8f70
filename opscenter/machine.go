package opscenter

import (
	"fmt"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter/internal/facts"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage"
)

// A record is of one machine. A server that registers chooses its address, and may choose that of another server. The
// machine that answers there must be the machine that registered. Otherwise an action on one record would reach the
// machine of another. These certificates are accepted:
//
//	presented                          accepted
//	its own certificate                always: only its machine has the key
//	its cluster's, set by an operator  if the machine tells this machine ID, or none (older releases), and is the
//	(Adopt, CreateCluster, ...)        member of this record
//	its cluster's, found by polls      if the machine tells this machine ID
//	(Options.AdoptMembers)
//	one that an operator accepted      as its cluster's, set by an operator
//	one that is publicly trusted       for the host of a public URL that an operator has set, and if the machine
//	                                   tells this machine ID, or none
//	another record's own               never
//	any but its own                    never, if the machine tells the machine ID of another record
//
// If a registration told no machine ID, a poll that shows the server's own certificate tells it. A refused machine is a
// failure (lifecycle.FailureIdentity) and a warning (warning.Identity). The control plane does nothing to such a server,
// because it is not ready.

// recognition is the judgement on the machine that answered a poll.
type recognition struct {
	// refused is the reason why it is not the machine of the server. Empty: it may be.
	refused string
	// proven: it is certainly the machine of the server.
	proven bool
	// learned is its machine ID, if the record has none.
	learned string
}

// recognize judges whether the machine that answered is the machine of the server.
func (r *Registry) recognize(tx storage.ReadTx, o *observed) (recognition, error) {
	if o.Failure != nil {
		return recognition{}, nil
	}
	server, err := servers.Get(tx, nameKey(o.name))
	if err != nil {
		return recognition{}, err
	}
	machineID, err := normalMachineID(o.MachineID)
	if err != nil {
		machineID = "" // an invalid ID tells nothing
	}
	var holder *Server // of the machine ID
	own := o.Presented == "" || o.Presented == server.Fingerprint
	if machineID != "" && machineID != server.MachineID && (!own || server.MachineID == "") {
		if holder, err = byMachineID.Find(tx, storage.StringKey(machineID)); err != nil {
			return recognition{}, err
		}
	}
	if own { // only its machine has the key
		out := recognition{proven: true}
		if server.MachineID == "" && holder == nil && o.Presented != "" {
			out.learned = machineID
		}
		return out, nil
	}
	other, err := byFingerprint.Find(tx, storage.StringKey(o.Presented))
	if err != nil {
		return recognition{}, err
	}
	switch {
	case holder != nil:
		return recognition{refused: fmt.Sprintf("at %s answers the machine of server %q (machine ID %s)", server.ConnectionURL, holder.Name, machineID)}, nil
	case other != nil && other.ID != server.ID:
		return recognition{refused: fmt.Sprintf("at %s the certificate of server %q is presented", server.ConnectionURL, other.Name)}, nil
	case differs(server.MachineID, machineID):
		return recognition{refused: fmt.Sprintf("at %s a machine with the ID %s answers, but the server registered with %s", server.ConnectionURL, machineID, server.MachineID)}, nil
	case server.ServedByPoll && (machineID == "" || server.MachineID == ""):
		return recognition{refused: "it presents a cluster's certificate, and its machine ID is not known: if it is a member of the cluster, add it (AddClusterMembers)"}, nil
	}
	out := recognition{proven: machineID != "" && machineID == server.MachineID}
	if out.refused, err = r.anotherMember(tx, server, o, out.proven); err != nil {
		return recognition{}, err
	}
	// Only Incus tells which member answered. Without the member name nothing is proven.
	out.proven = out.proven || o.MemberName != nil || server.Cluster == ""
	return out, nil
}

// anotherMember returns a refusal if the member that answered with a cluster's certificate is another server of the
// cluster. Empty: it is not. proven: the machine is the one that registered.
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

// refuse turns an observation of another machine into a failure. Its values are not those of this server.
func (o *observed) refuse(why string) {
	o.Observation = lifecycle.Observation{Server: o.Server, ID: o.ID, At: o.At, Took: o.Took, Light: o.Light, Presented: o.Presented,
		Failure: &lifecycle.Failure{Kind: lifecycle.FailureIdentity, Message: truncate.Text(why, lifecycle.MaxReason)}}
	o.found, o.parts = facts.Digest{}, facts.Sums{}
}

// shares reports whether the control plane accepts a certificate of the server that other machines may present, too.
func (s *Server) shares() bool { return s.ServedFingerprint != "" || s.PublicURLTrusted }
