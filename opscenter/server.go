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

// Server is the identity of a server, and the intent of its operators.
type Server struct {
	// ID comes from the Registry, and never changes.
	ID   string
	Name string

	// ConnectionURL is where the control plane reaches the server. PublicConnectionURL is where users reach it, if that
	// differs.
	ConnectionURL       string
	PublicConnectionURL string
	// PublicURLTrusted: an operator has set or confirmed PublicConnectionURL. A publicly trusted certificate for its host
	// is then accepted. A URL that the server gave itself extends no trust.
	PublicURLTrusted bool `json:",omitempty"`

	Channel     string
	Description string
	Properties  map[string]string

	// Certificate is the identity of the server (PEM). The server presented it when it registered, and presents it when
	// the control plane connects. Empty: it has not registered.
	Certificate string
	// Fingerprint of the certificate, SHA-256 in hexadecimal digits.
	Fingerprint string
	// ServedFingerprint is the fingerprint of a second certificate that is accepted of the server, for example its
	// cluster's. See Registry.AcceptCertificate.
	ServedFingerprint string
	// FormerServed is the ServedFingerprint from before the server joined its cluster. It is accepted again when the
	// server leaves.
	FormerServed string `json:",omitempty"`
	// ServedByPoll: polls found ServedFingerprint to be a cluster's, and no operator has confirmed that the server is a
	// member. It is accepted only together with this server's machine ID.
	ServedByPoll bool `json:",omitempty"`
	// SystemUUID and MachineID identify the machine. Empty: not known.
	SystemUUID string
	MachineID  string

	// Cluster is the name of the cluster the server is a member of.
	Cluster string

	// ReinstallAllowed allows one registration of the machine with another certificate.
	ReinstallAllowed bool

	CreatedAt    time.Time
	RegisteredAt time.Time // zero: it has not registered
	LastUpdated  time.Time
}

// ServerInfo is a server with its state at one moment.
type ServerInfo struct {
	Server
	State lifecycle.ServerState
	// LastSeen is the time of the last contact with the server, in either direction.
	LastSeen time.Time
	// Failures is how many polls in a row have failed. GoodPolls is how many polls in a row found the server ready and
	// read everything, since an action on it last began or ended.
	Failures  int
	GoodPolls int
	// Available is the version of each component that the channel offers the server. Read only.
	Available map[string]string
	// SecureBootKeys is how many Secure Boot keys the offered update has. Each key that the server lacks takes a reboot
	// before all else.
	SecureBootKeys int
}

// Outdated returns the available version of each component that needs an update.
func (i *ServerInfo) Outdated() map[string]string { return i.State.Versions.Outdated(i.Available) }

// NeedsUpdate reports whether the channel has a newer version of any component.
func (i *ServerInfo) NeedsUpdate() bool { return len(i.Outdated()) > 0 }

// NeedsReboot reports whether a reboot is required.
func (i *ServerInfo) NeedsReboot() bool { return i.State.Versions.NeedsReboot() }

// InMaintenance reports whether the server is evacuated, or is evacuating or restoring.
func (i *ServerInfo) InMaintenance() bool { return i.State.Maintenance != lifecycle.NotInMaintenance }

// Recommendation returns the recommended action. It is computed at each call, and never stored.
func (i *ServerInfo) Recommendation() lifecycle.Recommendation {
	return i.State.Recommend(i.Available)
}

// OnIncusOS returns ErrNotApplicable for a server that is known to run without IncusOS. Updates, reboots and the system
// configuration need IncusOS.
func (i *ServerInfo) OnIncusOS() error {
	if i.State.Versions.OS.Plain {
		return i.notOnIncusOS()
	}
	return nil
}

func (i *ServerInfo) notOnIncusOS() error {
	return fmt.Errorf("server %q is not on IncusOS: %w", i.Name, ErrNotApplicable)
}

// Target returns the values that a client needs to connect to the server for actions. While State.Unproven is set, it
// accepts only the certificate that the server registered with: another machine may answer at the address.
func (i *ServerInfo) Target() Target {
	out := i.ProbeTarget()
	if i.State.Unproven {
		out.ServedFingerprint, out.PublicConnectionURL = "", ""
	}
	return out
}

// ProbeTarget is the Target of polls. They may reach another machine, because Observer.Record judges which machine
// answered.
func (i *ServerInfo) ProbeTarget() Target {
	public := i.PublicConnectionURL
	if !i.PublicURLTrusted {
		public = ""
	}
	versions := i.State.Versions // a copy: a Target is kept for long, and its server is not
	return Target{Name: i.Name, ID: i.ID, ConnectionURL: i.ConnectionURL, PublicConnectionURL: public, Versions: &versions, UpdateStatus: i.State.UpdateStatus,
		Fingerprint: i.Fingerprint, ServedFingerprint: i.ServedFingerprint, Type: i.State.Type, MemberName: i.State.MemberName, MachineID: i.MachineID,
		OSVersion: i.State.Versions.OS.Version, Updating: i.State.Operation != nil && i.State.Operation.Action == lifecycle.ActionUpdate}
}

// Target is the values that a client needs to connect to a server.
type Target struct {
	Name          string
	ID            string
	ConnectionURL string
	// PublicConnectionURL names the host for which a publicly trusted certificate is accepted, too. Empty: none.
	PublicConnectionURL string
	// Fingerprint is that of the certificate that the server must present. A certificate with ServedFingerprint is
	// accepted, too. Both are SHA-256 in hexadecimal digits.
	Fingerprint       string
	ServedFingerprint string
	Type              lifecycle.ServerType
	MemberName        string // in its Incus cluster
	MachineID         string // of the record; empty: not known
	// Light asks a Prober to leave out the facts.
	Light bool
	// Updating asks a Prober to read the versions after it has read the UpdateStatus.
	Updating bool
	// OSVersion is the last known version of the operating system. Empty: not known.
	OSVersion string
	// Versions and UpdateStatus are the last known ones, for a Light poll: read only. nil: not known.
	Versions     *lifecycle.Versions
	UpdateStatus *lifecycle.UpdateStatus
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

// Server returns a server by its name. Errors: ErrNotFound.
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

// ServerByFingerprint returns the server that is registered with the certificate of a fingerprint, SHA-256 in hexadecimal
// digits. Errors: ErrUnknownCertificate.
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

// ServerSpec is the part of a server that an operator sets.
type ServerSpec struct {
	Description         string
	Properties          map[string]string
	PublicConnectionURL string
	// PublicURLTrusted accepts a publicly trusted certificate for the host of PublicConnectionURL. A URL that an operator
	// changes is always trusted.
	PublicURLTrusted bool
	// ConnectionURL is where the control plane reaches the server. Empty: the present one. Servers tell their own, and
	// may change it later.
	ConnectionURL string
	// Channel must exist. Empty: the present one; for a new server, Channels.Default.
	Channel string
}

// spec returns the part of the server that an operator has set.
func (s *Server) spec() ServerSpec {
	return ServerSpec{Description: s.Description, Properties: cloneProperties(s.Properties), PublicConnectionURL: s.PublicConnectionURL, PublicURLTrusted: s.PublicURLTrusted, ConnectionURL: s.ConnectionURL, Channel: s.Channel}
}

// EditServer changes the part of a server that an operator sets. edit gets the server as it is, and its spec to change.
// An error of edit ends the edit. edit may be called more than once. After a change of the connection URL the server is
// polled at once. Errors: ErrNotFound, the validation errors, those of edit; ErrClustered if the channel differs from
// that of its cluster.
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
		if err := checkSpec(&spec); err != nil {
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

// AllowReinstall allows one registration of the machine with another certificate, as after a new installation. With allow
// false it forbids that again. Errors: ErrNotFound.
func (r *Registry) AllowReinstall(ctx context.Context, name string, allow bool) error {
	return r.Write(ctx, func(tx *Tx) error {
		server, err := servers.Get(tx, nameKey(name))
		if err != nil {
			return notFound("server", name, err)
		}
		changed := *server
		changed.ReinstallAllowed, changed.LastUpdated = allow, tx.Now()
		if err := servers.Put(tx, &changed); err != nil {
			return err
		}
		return tx.Record(event.Event{At: changed.LastUpdated, Kind: event.ReinstallAllowed, Server: name, Reason: fmt.Sprintf("another certificate is accepted once: %t", allow)})
	})
}

// AllowReinstall allows one registration of the machine with another certificate, or forbids it, as
// Registry.AllowReinstall does. It ignores a server that was removed.
func (t *Tx) AllowReinstall(server *ServerInfo, allow bool, why string) error {
	known, err := byID.Find(t, storage.StringKey(server.ID))
	if err != nil || known == nil || known.ReinstallAllowed == allow {
		return err
	}
	at := t.Now()
	changed := *known
	changed.ReinstallAllowed, changed.LastUpdated = allow, at
	if err := servers.Put(t, &changed); err != nil {
		return err
	}
	return t.Record(event.Event{At: at, Kind: event.ReinstallAllowed, Server: known.Name, Reason: fmt.Sprintf("another certificate is accepted once: %t: %s", allow, why)})
}

// Move records that a server is reached at another connection URL. why goes into the event. Errors: ErrInvalidURL,
// ErrTooLong; storage.ErrConflict if the server was removed.
func (t *Tx) Move(server *ServerInfo, url, why string) error {
	if err := checkURL("connection URL", url); err != nil {
		return err
	}
	if err := t.registry.allowURL("connection URL", url); err != nil {
		return err
	}
	known, err := byID.Find(t, storage.StringKey(server.ID))
	if err != nil {
		return err
	}
	if known == nil {
		return fmt.Errorf("server %q was removed: %w", server.Name, storage.ErrConflict)
	}
	if known.ConnectionURL == url {
		return nil
	}
	at := t.Now()
	changed := *known
	changed.ConnectionURL, changed.LastUpdated = url, at
	if err := servers.Put(t, &changed); err != nil {
		return err
	}
	if err := t.requestPoll(known.Name, at, true); err != nil {
		return err
	}
	return t.Record(event.Event{At: at, Kind: event.ConnectionURLChanged, Server: known.Name, Reason: fmt.Sprintf("%s: now %s, was %s", why, url, known.ConnectionURL)})
}

// SetUpdateSettings records that a server has accepted these update settings. Polls that began before do not overwrite
// them. Errors: storage.ErrConflict if the server was removed.
func (t *Tx) SetUpdateSettings(server *ServerInfo, settings lifecycle.UpdateSettings) error {
	at := t.Now()
	state, err := stateOf(t, server)
	if err != nil {
		return err
	}
	changed := *state
	changed.Update, changed.PollRequested, changed.NotBefore, changed.LastUpdated = &settings, at, at, at
	return t.putState(&changed)
}

// RenameServer gives a server another name. check, unless nil, gets the server as it is: its error ends the renaming.
// Callers use it for optimistic locking. Errors: ErrNotFound, ErrInvalidName, ErrNameTaken, ErrClustered, those of check;
// ErrNotReady while an action is under way.
func (r *Registry) RenameServer(ctx context.Context, name, to string, check func(*ServerInfo) error) error {
	if err := checkServerName(to); err != nil {
		return err
	}
	entry := event.Event{At: r.now(), Kind: event.ServerRenamed, Server: to, Reason: "was " + name}
	return r.Write(ctx, func(tx *Tx) error { // the presence goes by IDs
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
}

// nameFree returns ErrNameTaken if another server than id has the name. It ignores the case of letters.
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

// DeleteServer removes a server with its state, facts and warnings. Its events stay. A server that registers again is
// admitted as a new one. force removes a lost server although a rollout or a change has claimed it: the operation goes on
// without it. Errors: ErrNotFound, ErrClustered; ErrBusy while a rollout or a change has claimed it, unless forced.
func (r *Registry) DeleteServer(ctx context.Context, name string, force bool) error {
	entry := event.Event{At: r.now(), Kind: event.ServerDeleted, Server: name, Reason: "removed by an operator"}
	return r.Write(ctx, func(tx *Tx) error {
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
}

// PreRegistration is a server that is expected to register.
type PreRegistration struct {
	ServerSpec
	Name string
	// SystemUUID or MachineID identifies the server when it registers. Without either its name does.
	SystemUUID string
	MachineID  string
}

// PreRegister records a server before it registers, with status unregistered. When a machine with that system UUID or
// machine ID registers, with any valid token, it becomes this server under this name. If neither is given, a server that
// registers with that name does. Errors: ErrInvalidName and the other validation errors, ErrNotFound for a channel,
// ErrNameTaken, ErrIdentityTaken.
func (r *Registry) PreRegister(ctx context.Context, a PreRegistration) (*ServerInfo, error) {
	err := errors.Join(checkSpec(&a.ServerSpec), r.allowURL("connection URL", a.ConnectionURL), r.allowURL("public connection URL", a.PublicConnectionURL))
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
