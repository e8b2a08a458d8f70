package opscenter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage"
)

// Server is who a server is, and what its operators want of it.
type Server struct {
	// ID is given by the Registry, and never changes.
	ID   string
	Name string

	// ConnectionURL is where the control plane reaches it; PublicConnectionURL where users
	// do, if that differs.
	ConnectionURL       string
	PublicConnectionURL string
	// PublicURLTrusted: an operator has set PublicConnectionURL, or has said that it is right: a publicly trusted
	// certificate for its host is accepted. One that the server gave itself extends no trust.
	PublicURLTrusted bool `json:",omitempty"`

	Channel     string
	Description string
	Properties  map[string]string

	// Certificate is the identity: what the server presented when it registered (PEM), and
	// presents when it is connected to. Empty until then.
	Certificate string
	// Fingerprint of the certificate, SHA-256 in hexadecimal digits.
	Fingerprint string
	// ServedFingerprint is of a certificate that is accepted beside it when the server is
	// connected to, its cluster's, say. See Registry.AcceptCertificate.
	ServedFingerprint string
	// FormerServed is what was accepted so before it became a member of a cluster, whose
	// certificate took its place: it is accepted again when it leaves.
	FormerServed string `json:",omitempty"`
	// ServedByPoll: what is accepted was found to be a cluster's by polls, and no operator has said that this server
	// is its member: it counts only where what answers tells this server's machine ID.
	ServedByPoll bool `json:",omitempty"`
	// SystemUUID and MachineID tell the machine; empty where there is none.
	SystemUUID string
	MachineID  string

	// Cluster is the name of the cluster the server is a member of.
	Cluster string

	// ReinstallAllowed lets the machine register once more with another certificate.
	ReinstallAllowed bool

	CreatedAt    time.Time
	RegisteredAt time.Time // zero until then
	LastUpdated  time.Time
}

// ServerInfo is a server with what is known of it at one moment.
type ServerInfo struct {
	Server
	State lifecycle.ServerState
	// LastSeen is when the server was last in touch, either way.
	LastSeen time.Time
	// Failures is how many polls failed in a row since, and GoodPolls how many found it ready,
	// and could read all of it, since an action on it last began or ended.
	Failures  int
	GoodPolls int
	// Available is the version of each component that the server's channel offers it. Read only.
	Available map[string]string
	// SecureBootKeys is how many Secure Boot keys the update brings that the channel offers: each that the server has not
	// yet takes a reboot before everything else.
	SecureBootKeys int
}

// Outdated returns, per component that needs an update, the version to update to.
func (i *ServerInfo) Outdated() map[string]string { return i.State.Versions.Outdated(i.Available) }

// NeedsUpdate reports whether the channel has a newer version of any component.
func (i *ServerInfo) NeedsUpdate() bool { return len(i.Outdated()) > 0 }

// NeedsReboot reports whether a reboot is required.
func (i *ServerInfo) NeedsReboot() bool { return i.State.Versions.NeedsReboot() }

// InMaintenance reports whether the server is evacuated, or on the way there or back.
func (i *ServerInfo) InMaintenance() bool { return i.State.Maintenance != lifecycle.NotInMaintenance }

// Recommendation returns the recommended action. It is computed when asked for, never stored.
func (i *ServerInfo) Recommendation() lifecycle.Recommendation {
	return i.State.Recommend(i.Available)
}

// OnIncusOS returns ErrNotApplicable for a server that is known not to be on IncusOS: what needs
// the operating system can't be done with it.
func (i *ServerInfo) OnIncusOS() error {
	if i.State.Versions.OS.Plain {
		return i.notOnIncusOS()
	}
	return nil
}

func (i *ServerInfo) notOnIncusOS() error {
	return fmt.Errorf("server %q is not on IncusOS: %w", i.Name, ErrNotApplicable)
}

// Target returns what is needed to connect to the server.
//
// While State.Unproven is set, only the certificate that the server registered with is accepted: nothing is done at an
// address where another machine may answer.
func (i *ServerInfo) Target() Target {
	out := i.ProbeTarget()
	if i.State.Unproven {
		out.ServedFingerprint, out.PublicConnectionURL = "", ""
	}
	return out
}

// ProbeTarget is the Target for those that only look, and judge by RecordObservations whom they have found.
func (i *ServerInfo) ProbeTarget() Target {
	public := i.PublicConnectionURL
	if !i.PublicURLTrusted {
		public = ""
	}
	return Target{Name: i.Name, ID: i.ID, ConnectionURL: i.ConnectionURL, PublicConnectionURL: public,
		Fingerprint: i.Fingerprint, ServedFingerprint: i.ServedFingerprint, Type: i.State.Type, MemberName: i.State.MemberName, MachineID: i.MachineID,
		OSVersion: i.State.Versions.OS.Version, Updating: i.State.Operation != nil && i.State.Operation.Action == lifecycle.ActionUpdate}
}

// Target is what is needed to connect to a server.
type Target struct {
	Name          string
	ID            string
	ConnectionURL string
	// PublicConnectionURL names the host for which a publicly trusted certificate is accepted, too.
	PublicConnectionURL string
	// Fingerprint of the certificate the server must present, and of another that is accepted
	// beside it; SHA-256 in hexadecimal digits.
	Fingerprint       string
	ServedFingerprint string
	Type              lifecycle.ServerType
	MemberName        string // in its Incus cluster
	MachineID         string // that it registered with; empty: not known
	// Light asks a Prober to leave out the facts.
	Light bool
	// Updating asks a Prober to read the versions after it has read the UpdateStatus.
	Updating bool
	// OSVersion is the version of the operating system that was seen last; empty: none.
	OSVersion string
}

// info joins a server with its state.
func (r *Registry) info(server *Server, state *lifecycle.ServerState, channel *Channel) *ServerInfo {
	out := &ServerInfo{Server: *server}
	if state != nil {
		out.State = *state
	}
	out.Available = channel.Offers(out.State.Architecture)
	if channel != nil {
		out.SecureBootKeys = channel.SecureBootKeys
	}
	out.LastSeen = out.State.LastSeen
	c := r.presence.Contact(server.ID)
	out.Failures, out.GoodPolls = c.Failures, c.Good
	if !c.LastSeen.IsZero() {
		out.LastSeen = c.LastSeen
	}
	return out
}

func (r *Registry) load(tx storage.ReadTx, server *Server) (*ServerInfo, error) {
	state, err := states.Find(tx, nameKey(server.Name))
	if err != nil {
		return nil, err
	}
	channel, err := available(tx, server.Channel)
	if err != nil {
		return nil, err
	}
	return r.info(server, state, channel), nil
}

// Server returns a server by name, or ErrNotFound.
func (r *Registry) Server(ctx context.Context, name string) (out *ServerInfo, err error) {
	err = r.store.View(ctx, func(tx storage.ReadTx) error {
		server, err := servers.Get(tx, nameKey(name))
		if err != nil {
			return notFound("server", name, err)
		}
		out, err = r.load(tx, server)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// ServerByFingerprint returns the server with that certificate, by its SHA-256 fingerprint in hexadecimal digits, or
// ErrUnknownCertificate.
func (s *Snapshot) ServerByFingerprint(fingerprint string) (*ServerInfo, error) {
	server, err := byFingerprint.Find(s, storage.StringKey(strings.ToLower(fingerprint)))
	if err != nil {
		return nil, err
	}
	if server == nil {
		return nil, ErrUnknownCertificate
	}
	return s.registry.load(s, server)
}

func (r *Registry) serverByFingerprint(ctx context.Context, fingerprint string) (out *ServerInfo, err error) {
	err = r.Read(ctx, func(s *Snapshot) error {
		out, err = s.ServerByFingerprint(fingerprint)
		return err
	})
	return out, err
}

// ServerSpec is what an operator says of a server.
type ServerSpec struct {
	Description         string
	Properties          map[string]string
	PublicConnectionURL string
	// PublicURLTrusted accepts a publicly trusted certificate for the host of PublicConnectionURL. For one that an
	// operator gives anew it is always so.
	PublicURLTrusted bool
	// ConnectionURL is where the control plane reaches it; empty: as it is. Servers tell it
	// themselves, and may tell another one later.
	ConnectionURL string
	// Channel must exist. Empty: as it is; of a new server, Registry.DefaultChannel.
	Channel string
}

func (r *Registry) checkSpec(spec *ServerSpec) error {
	if err := checkLength("description", spec.Description, MaxDescriptionLength); err != nil {
		return err
	}
	if err := checkProperties(spec.Properties); err != nil {
		return err
	}
	if spec.ConnectionURL != "" {
		if err := checkURL("connection URL", spec.ConnectionURL); err != nil {
			return err
		}
	}
	if spec.PublicConnectionURL != "" {
		if err := checkURL("public connection URL", spec.PublicConnectionURL); err != nil {
			return err
		}
	}
	return nil
}

// spec is what an operator has said of the server so far.
func (s *Server) spec() ServerSpec {
	return ServerSpec{Description: s.Description, Properties: cloneProperties(s.Properties), PublicConnectionURL: s.PublicConnectionURL, PublicURLTrusted: s.PublicURLTrusted, ConnectionURL: s.ConnectionURL, Channel: s.Channel}
}

// EditServer changes what an operator says of a server: edit is called with the server as it is, and
// with what was said of it so far, to be changed; an error of it ends the update. It may be
// called more than once. A server at another connection URL is polled there at once. Errors: ErrNotFound, the validation
// errors, ErrClustered for another channel than its cluster's.
func (r *Registry) EditServer(ctx context.Context, name string, edit func(*ServerInfo, *ServerSpec) error) error {
	return r.Write(ctx, func(tx *Tx) error {
		server, err := servers.Get(tx, nameKey(name))
		if err != nil {
			return notFound("server", name, err)
		}
		info, err := r.load(tx, server)
		if err != nil {
			return err
		}
		spec := server.spec()
		if err := edit(info, &spec); err != nil {
			return err
		}
		if err := r.checkSpec(&spec); err != nil {
			return fmt.Errorf("server %q: %w", truncate.Name(name), err)
		}
		if spec.PublicConnectionURL != server.PublicConnectionURL {
			if err := r.allowURL("public connection URL", spec.PublicConnectionURL); err != nil {
				return fmt.Errorf("server %q: %w", truncate.Name(name), err)
			}
		}
		spec.Channel = cmp.Or(spec.Channel, server.Channel)
		if server.Channel != spec.Channel {
			if server.Cluster != "" {
				return fmt.Errorf("server %q follows the channel of cluster %q: %w", name, server.Cluster, ErrClustered)
			}
			if err := channelExists(tx, spec.Channel); err != nil {
				return err
			}
		}
		changed := *server
		changed.Description, changed.Properties = spec.Description, cloneProperties(spec.Properties)
		changed.PublicConnectionURL, changed.Channel, changed.LastUpdated = spec.PublicConnectionURL, spec.Channel, r.now()
		changed.PublicURLTrusted = spec.PublicConnectionURL != "" && (spec.PublicURLTrusted || spec.PublicConnectionURL != server.PublicConnectionURL)
		if err := servers.Put(tx, &changed); err != nil {
			return err
		}
		if err := tx.Record(event.Event{At: changed.LastUpdated, Kind: event.ServerUpdated, Server: name, Reason: "edited, channel " + spec.Channel}); err != nil {
			return err
		}
		if spec.ConnectionURL == "" || spec.ConnectionURL == server.ConnectionURL {
			return nil
		}
		return tx.Move(info, spec.ConnectionURL, "by an operator")
	})
}

// AllowReinstall lets the machine register once more with another certificate, as it does
// after it was installed anew; or takes that back.
func (r *Registry) AllowReinstall(ctx context.Context, name string, allow bool) error {
	return r.edit(ctx, name, nil, func(_ storage.WriteTx, server *Server) (*event.Event, error) {
		server.ReinstallAllowed = allow
		return &event.Event{Kind: event.ReinstallAllowed, Reason: fmt.Sprintf("another certificate is accepted once: %t", allow)}, nil
	})
}

// edit changes a server's record.
func (r *Registry) edit(ctx context.Context, name string, check func(*ServerInfo) error, change func(storage.WriteTx, *Server) (*event.Event, error)) error {
	var entry *event.Event
	err := r.Write(ctx, func(tx *Tx) error {
		entry = nil
		server, err := servers.Get(tx, nameKey(name))
		if err != nil {
			return notFound("server", name, err)
		}
		if check != nil {
			info, err := r.load(tx, server)
			if err != nil {
				return err
			}
			if err := check(info); err != nil {
				return err
			}
		}
		changed := *server
		if entry, err = change(tx, &changed); err != nil {
			return err
		}
		changed.LastUpdated = r.now()
		entry.At, entry.Server = changed.LastUpdated, name
		if err := servers.Put(tx, &changed); err != nil {
			return err
		}
		return tx.Record(*entry)
	})
	return err
}

// RenameServer gives a server another name. check, unless nil, is called with the server as
// it is, and an error of it ends the renaming: for optimistic locking. Errors: ErrNotFound,
// ErrInvalidName, ErrNameTaken, ErrClustered; ErrNotReady while an action is under way.
func (r *Registry) RenameServer(ctx context.Context, name, to string, check func(*ServerInfo) error) error {
	if err := checkServerName(to); err != nil {
		return err
	}
	entry := event.Event{At: r.now(), Kind: event.ServerRenamed, Server: to, Reason: "was " + name}
	err := r.Write(ctx, func(tx *Tx) error { // what the memory has is by ID
		server, err := servers.Get(tx, nameKey(name))
		if err != nil {
			return notFound("server", name, err)
		}
		if server.Cluster != "" {
			return fmt.Errorf("server %q can't be renamed: %w (%s)", name, ErrClustered, server.Cluster)
		}
		info, err := r.load(tx, server)
		if err != nil {
			return err
		}
		if info.State.Operation != nil {
			return fmt.Errorf("server %q can't be renamed: %s is under way: %w", name, info.State.Operation.Action, ErrNotReady)
		}
		if check != nil {
			if err := check(info); err != nil {
				return err
			}
		}
		if to == name {
			return nil
		}
		if err := nameFree(tx, to, server.ID); err != nil {
			return err
		}
		err = servers.Modify(tx, nameKey(name), func(s *Server) error {
			s.Name, s.LastUpdated = to, entry.At
			return nil
		})
		if err != nil {
			return err
		}
		err = states.Modify(tx, nameKey(name), func(s *lifecycle.ServerState) error {
			s.Name = to
			return nil
		})
		if err != nil {
			return err
		}
		return tx.Record(entry)
	})
	return err
}

// nameFree returns ErrNameTaken if another server than id has the name, in any case of its letters.
func nameFree(tx storage.ReadTx, name, id string) error {
	holder, err := serversByName.Find(tx, storage.StringKey(strings.ToLower(name)))
	if err != nil {
		return err
	}
	if holder != nil && holder.ID != id {
		return fmt.Errorf("server name %q: %w", name, ErrNameTaken)
	}
	return nil
}

// DeleteServer removes a server with all that is known of it but its events. A server that registers again is admitted as
// a new one. force removes a server that will not come back, although a rollout or a change holds it: they go on without
// it. Errors: ErrNotFound, ErrClustered; ErrBusy while a rollout or a change holds it, unless forced.
func (r *Registry) DeleteServer(ctx context.Context, name string, force bool) error {
	entry := event.Event{At: r.now(), Kind: event.ServerDeleted, Server: name, Reason: "removed by an operator"}
	err := r.Write(ctx, func(tx *Tx) error {
		server, err := servers.Get(tx, nameKey(name))
		if err != nil {
			return notFound("server", name, err)
		}
		if server.Cluster != "" {
			return fmt.Errorf("server %q can't be removed: %w (%s): take it out of its cluster first, by force if it is lost", name, ErrClustered, server.Cluster)
		}
		if err := claimedBy(tx, server.ID, false, ""); err != nil && !(force && errors.Is(err, ErrBusy)) {
			return fmt.Errorf("server %q can't be removed: %w; by force it can, if it will not come back", name, err)
		}
		if err := servers.Delete(tx, nameKey(name)); err != nil {
			return err
		}
		if err := r.unshared(tx, server, entry.At); err != nil {
			return err
		}
		if err := states.Delete(tx, nameKey(name)); err != nil {
			return err
		}
		if err := deleteFacts(tx, server.ID); err != nil {
			return err
		}
		if err := tx.clearAll(name, server.ID, entry.At); err != nil {
			return err
		}
		return tx.Record(entry)
	})
	return err
}

// Announcing is a server that is expected to register.
type PreRegistration struct {
	ServerSpec
	Name string
	// SystemUUID or MachineID, by which the server is known when it registers. Without either it is
	// known by its name.
	SystemUUID string
	MachineID  string
}

// PreRegister records a server before it registers itself, with status unregistered. When a
// machine with that system UUID or machine ID registers, with any valid token, it becomes
// this server, under this name. So does, if neither was given, one that registers with that name.
// Errors: ErrInvalidName and the other validation errors, ErrNotFound for a channel, ErrNameTaken,
// ErrIdentityTaken.
func (r *Registry) PreRegister(ctx context.Context, a PreRegistration) (*ServerInfo, error) {
	err := errors.Join(r.checkSpec(&a.ServerSpec), r.allowURL("connection URL", a.ConnectionURL), r.allowURL("public connection URL", a.PublicConnectionURL))
	if err != nil {
		return nil, err
	}
	a.Channel = cmp.Or(a.Channel, r.Channels().Default())
	if err := checkServerName(a.Name); err != nil {
		return nil, err
	}
	if a.SystemUUID, err = normalSystemUUID(a.SystemUUID); err != nil {
		return nil, err
	}
	if a.MachineID, err = normalMachineID(a.MachineID); err != nil {
		return nil, err
	}
	at := r.now()
	server := &Server{ID: uuid.NewString(), Name: a.Name, ConnectionURL: a.ConnectionURL, PublicConnectionURL: a.PublicConnectionURL, PublicURLTrusted: a.PublicConnectionURL != "",
		Channel: a.Channel, Description: a.Description, Properties: cloneProperties(a.Properties),
		SystemUUID: a.SystemUUID, MachineID: a.MachineID, CreatedAt: at, LastUpdated: at}
	state := &lifecycle.ServerState{Name: a.Name, ID: server.ID, Status: lifecycle.StatusUnregistered, StatusReason: "announced by an operator",
		StatusSince: at, Type: lifecycle.TypeUnknown, LastUpdated: at}
	entry := event.Event{At: at, Kind: event.ServerAnnounced, Server: a.Name, Reason: "expected to register itself"}
	var out *ServerInfo
	err = r.Write(ctx, func(tx *Tx) error {
		if err := channelExists(tx, a.Channel); err != nil {
			return err
		}
		if err := nameFree(tx, a.Name, ""); err != nil {
			return err
		}
		found, err := identify(tx, "", a.SystemUUID, a.MachineID)
		if found.machine != nil && (err == nil || errors.Is(err, ErrIdentityTaken)) {
			return fmt.Errorf("the machine is known as server %q: %w", found.machine.Name, ErrIdentityTaken)
		}
		if err != nil {
			return err
		}
		if err := servers.Insert(tx, server); err != nil {
			return err
		}
		if err := tx.putState(state); err != nil {
			return err
		}
		if out, err = r.load(tx, server); err != nil {
			return err
		}
		return tx.Record(entry)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
