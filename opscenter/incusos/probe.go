package incusos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/internal/release"
	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/internal/facts"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// readyUptime is the uptime from which a server counts as ready, if its IncusOS release has no
// system_is_ready.
const readyUptime = 120 * time.Second

// Limits of values that a server sends.
const (
	maxMessage      = 500 // bytes of an error
	maxText         = 256 // bytes of a name or a version
	maxApplications = 64
	// factsRead bounds the size of a part of the facts, as a multiple of the size that is kept (such as
	// lifecycle.MaxHardwareSize). A part over the latter is reduced, and for that has to be read as a whole.
	factsRead = 4
)

// notIncusOS is the error of newer Incus daemons for /os/ requests if they do not run on IncusOS.
const notIncusOS = "System isn't running IncusOS"

func notOnIncusOS(err error) bool {
	return isStatus(err, http.StatusBadRequest) && strings.Contains(err.Error(), notIncusOS)
}

// Probe observes a server: it reads type, versions, status and, unless target.Light is set, the facts
// (hardware, network, security, storage). It implements poller.Prober. With target.Light, it takes the applications
// from target.Versions. It reads them if the version of the OS, the update channel or the update status differs, if
// target.Updating is set, or if a known value is missing.
//
// Probe returns no error. If the server could not be observed at all, the observation has a Failure with
// kind and reason. If parts could not be read, Unread names them, and their values are nil. ctx bounds the
// whole call.
func (c *Client) Probe(ctx context.Context, target opscenter.Target) lifecycle.Observation {
	o := lifecycle.Observation{Server: target.Name, ID: target.ID, At: time.Now().UTC().Round(0), Light: target.Light}
	begun := time.Now()
	if err := c.probe(ctx, target, &o); err != nil {
		o.Failure = failure(err)
		if ctx.Err() != nil && o.Failure.Kind == lifecycle.FailureAnswer {
			o.Failure.Kind = lifecycle.FailureTimeout // ctx cut the answer off
		}
		var refused *certificateError
		if errors.As(err, &refused) {
			o.Presented = refused.presented
		}
	}
	o.Took = time.Since(begun)
	return o
}

func (c *Client) probe(ctx context.Context, target opscenter.Target, o *lifecycle.Observation) error {
	peer, err := c.fleet.peer(target)
	if err != nil {
		return err
	}
	p := &probe{peer: peer, o: o, light: target.Light, updating: target.Updating, kind: target.Type, known: target.Versions, knownStatus: target.UpdateStatus, member: target.MemberName, keepSecrets: c.options.KeepSecrets, fingerprint: target.Fingerprint, machine: target.MachineID}
	p.ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if used, ok := info.Conn.(*conn); ok {
			o.Presented, o.Trust = used.presented, used.trust
		}
	}})
	var root osRoot
	switch err := p.get("/os/1.0", &root); {
	case err == nil:
		p.incusOS(root.Environment)
		return nil
	case isStatus(err, http.StatusNotFound), notOnIncusOS(err):
		return p.plainIncus()
	default:
		return err
	}
}

// probe is one observation of one server.
type probe struct {
	peer        *peer
	ctx         context.Context // of this call
	o           *lifecycle.Observation
	light       bool                    // do not read facts
	updating    bool                    // an update is in progress: read versions after its status
	kind        lifecycle.ServerType    // known from before
	known       *lifecycle.Versions     // likewise
	knownStatus *lifecycle.UpdateStatus // likewise
	member      string                  // name in its cluster, known from before
	keepSecrets bool
	fingerprint string // of the server's own certificate
	machine     string // machine ID
	proven      bool   // the answer is from this machine, not from another member of its cluster
}

// get reads the metadata of an answer into out. It uses the transport directly, because the Incus client
// parses each answer three times.
func (p *probe) get(path string, out any) error {
	a, err := p.receive(http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer a.release()
	metadata, err := a.metadata()
	if err == nil && (len(metadata) == 0 || string(metadata) == "null") {
		// json.Unmarshal would leave out unchanged, and unknown values would look like zero values.
		err = fmt.Errorf("%w: no metadata", errAnswer)
	}
	if err == nil {
		err = json.Unmarshal(metadata, out)
	}
	if err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	return nil
}

// fact reads a part of the facts.
func (p *probe) fact(path string, into *lifecycle.Facts, part facts.Part) error {
	a, err := p.receive(http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer a.release()
	found := false
	err = a.open(func(use func(key, value []byte)) (err error) {
		found, err = facts.Read(into, part, a.body.Bytes(), p.keepSecrets, use)
		return err
	})
	if err == nil && !found {
		err = fmt.Errorf("%w: not an object", errAnswer)
	}
	if err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	return nil
}

var userAgent = []string{"opscenter"}

// try reads one part, and reports whether it succeeded. It notes a failure in Unread. It does not read after the end
// of the context.
func (p *probe) try(part string, read func() error) bool {
	err := p.ctx.Err()
	if err == nil {
		err = read()
	}
	if err != nil {
		p.unread(part, err)
		return false
	}
	return true
}

// unread notes that a part of the observation could not be read.
func (p *probe) unread(part string, err error) {
	p.o.Unread = append(p.o.Unread, truncate.Text(fmt.Sprintf("%s: %v", part, err), maxMessage))
}

// incusOS observes a server that runs IncusOS.
func (p *probe) incusOS(e environment) {
	up := time.Duration(e.Uptime.value)
	p.o.MachineID = truncate.Text(e.MachineID.value, maxText)
	// Any member of a cluster answers requests about any other member. Check which machine answers.
	p.proven = p.o.Presented == p.fingerprint || p.machine != "" && strings.EqualFold(p.o.MachineID, p.machine)
	switch {
	case e.Ready.known:
		p.o.Ready = e.Ready.value
	case e.Uptime.known:
		p.o.Ready = up >= readyUptime
	default:
		p.o.Ready = e.OSVersion.value != "" // the release has neither value, but the server answers
	}
	if up > 0 {
		p.o.BootedAt = p.o.At.Add(-up)
	}
	versions := &lifecycle.Versions{}
	var update updateSection
	if p.try("update", func() error { return p.get("/os/1.0/system/update", &update) }) {
		p.o.Update, p.o.UpdateStatus = update.settings(), update.status()
		versions.UpdateChannel = truncate.Text(update.Config.value.Channel.value, maxText)
	} else {
		p.o.UnreadVersions |= lifecycle.VersionsUpdate
	}
	if p.updating && p.o.UpdateStatus != nil {
		// Versions that are read after the status include all changes that it reports.
		var root osRoot
		if p.try("versions", func() error { return p.get("/os/1.0", &root) }) {
			e = root.Environment
		} else {
			p.o.UnreadVersions |= lifecycle.VersionsOS // versions from before the status may be outdated
		}
	}
	versions.OS = e.version(update)
	if versions.OS.Version == "" {
		p.o.UnreadVersions |= lifecycle.VersionsOS
		p.unread("os_version", fmt.Errorf("%w: no version", errAnswer))
	}
	if p.sameVersions(versions) {
		versions.Applications, p.o.Type = p.known.Applications, &p.kind
	} else if !p.try("applications", func() (err error) {
		versions.Applications, p.o.Type, err = p.applications()
		return err
	}) {
		p.o.UnreadVersions |= lifecycle.VersionsApplications
	}
	kind := p.kind
	if p.o.Type != nil {
		kind = *p.o.Type
	}
	if len(versions.Applications) > 0 || p.o.UnreadVersions != lifecycle.VersionsOS|lifecycle.VersionsApplications|lifecycle.VersionsUpdate {
		p.o.Versions = versions
	}
	if kind == lifecycle.TypeIncus {
		p.try("cluster membership", func() error {
			if p.member != "" && p.proven && p.stillMember() {
				return nil
			}
			server, err := p.incus()
			if err != nil {
				return err
			}
			return p.membership(server)
		})
	}
	// Last: a part that hangs takes all the time that is left.
	p.facts(versions.OS.Version)
}

// sameVersions reports whether a light poll can take the versions of the applications from before: neither the version of the
// OS nor the result of the last check for updates has changed since. Applications are updated by such checks.
func (p *probe) sameVersions(found *lifecycle.Versions) bool {
	now, before := p.o.UpdateStatus, p.knownStatus
	return p.light && !p.updating && p.o.UnreadVersions == 0 && p.known != nil && len(p.known.Applications) > 0 && p.kind != lifecycle.TypeUnknown &&
		found.OS == p.known.OS && found.UpdateChannel == p.known.UpdateChannel &&
		now != nil && before != nil && now.Status == before.Status && !now.LastCheck.IsZero() && now.LastCheck.Equal(before.LastCheck)
}

// stillMember reads the status of the known cluster member. It reports whether that succeeded. If not, the
// caller has to read the name of the member, too.
func (p *probe) stillMember() bool {
	member, err := readMember(p, p.member)
	if err != nil {
		return false
	}
	maintenance := maintenanceOf(member.Status)
	p.o.MemberName, p.o.Maintenance, p.o.MemberRoles = &p.member, &maintenance, member.roles()
	return true
}

// applications reads the versions of the installed applications, and the type of the server. The type is
// that of the primary application. Releases before 2026-06-24 do not mark it: there its name decides. The
// result has the applications with a readable version. The error names the others.
func (p *probe) applications() (read []lifecycle.ApplicationVersion, kind *lifecycle.ServerType, err error) {
	var paths []string
	if err := p.get("/os/1.0/applications", &paths); err != nil {
		return nil, nil, err
	}
	switch {
	case len(paths) > maxApplications:
		return nil, nil, fmt.Errorf("%w: %d applications, more than %d", errAnswer, len(paths), maxApplications)
	case len(paths) == 0:
		// The list is empty during setup, and right after an update of the OS. So the type is unknown.
		return nil, nil, fmt.Errorf("%w: no applications", errAnswer)
	}
	var all []lifecycle.ApplicationVersion
	var failures []error
	for _, path := range paths {
		name := path[strings.LastIndex(path, "/")+1:]
		var answer struct {
			State optional[struct {
				IsPrimary       optional[bool]   `json:"is_primary"`
				Version         optional[string] `json:"version"`
				FriendlyVersion optional[string] `json:"friendly_version"`
			}] `json:"state"`
		}
		err := p.ctx.Err()
		if err == nil {
			err = p.get("/os/1.0/applications/"+url.PathEscape(name), &answer)
		}
		if err == nil && !answer.State.known {
			err = fmt.Errorf("GET %s: %w: no state", path, errAnswer)
		}
		state := answer.State.value
		if err == nil && state.Version.value == "" {
			err = fmt.Errorf("GET %s: %w: no version", path, errAnswer)
		}
		one := lifecycle.ApplicationVersion{Name: truncate.Text(name, maxText), Version: truncate.Text(state.Version.value, maxText),
			FriendlyVersion: truncate.Text(state.FriendlyVersion.value, maxText), Primary: state.IsPrimary.value}
		all = append(all, one)
		if err != nil {
			failures = append(failures, err)
		}
	}
	if found := typeOf(all); found != lifecycle.TypeUnknown || slices.ContainsFunc(all, func(a lifecycle.ApplicationVersion) bool { return a.Primary }) {
		kind = &found
	} else {
		failures = append(failures, fmt.Errorf("%w: none of %d applications is primary", errAnswer, len(paths)))
	}
	for _, a := range all {
		if a.Version != "" {
			read = append(read, a)
		}
	}
	return read, kind, errors.Join(failures...)
}

// typeOf returns the type of a server with these applications. The primary application decides. If none is
// marked as primary, typeOf marks the first application whose name belongs to a type.
func typeOf(applications []lifecycle.ApplicationVersion) lifecycle.ServerType {
	for _, a := range applications {
		if a.Primary {
			return lifecycle.TypeOfApplication(a.Name)
		}
	}
	for i, a := range applications {
		if kind := lifecycle.TypeOfApplication(a.Name); kind != lifecycle.TypeUnknown {
			applications[i].Primary = true
			return kind
		}
	}
	return lifecycle.TypeUnknown
}

// facts reads the large parts: hardware, network, security, storage.
func (p *probe) facts(version string) {
	if p.light {
		return
	}
	f := &lifecycle.Facts{}
	defer func() { p.peer.maxAnswer = 0 }()
	for _, part := range []struct {
		name string
		part facts.Part
		kept int64
	}{{"resources", facts.Hardware, lifecycle.MaxHardwareSize}, {"network", facts.Network, lifecycle.MaxNetworkSize}, {"security", facts.Security, lifecycle.MaxSecuritySize}, {"storage", facts.Storage, lifecycle.MaxStorageSize}} {
		if part.name == "security" && !release.Has(version, release.SecurityReads) {
			continue // on older releases, reading it would silence the console's warning about recovery keys
		}
		p.peer.maxAnswer = factsRead * part.kept
		p.try(part.name, func() error { return p.fact("/os/1.0/system/"+part.name, f, part.part) })
	}
	if f.Security != nil {
		p.try("security state", func() error {
			var answer struct {
				State struct {
					Trusted optional[bool] `json:"system_state_is_trusted"`
				} `json:"state"`
			}
			if err := json.Unmarshal(f.Security, &answer); err != nil {
				return err
			}
			if answer.State.Trusted.known {
				p.o.SystemStateTrusted = &answer.State.Trusted.value
			}
			return nil
		})
	}
	p.o.Facts = f
}

// incusServer is the answer of GET /1.0 of Incus.
type incusServer struct {
	Auth        string `json:"auth"`
	Environment struct {
		OSName          string `json:"os_name"`
		OSVersion       string `json:"os_version"`
		ServerClustered bool   `json:"server_clustered"`
		ServerName      string `json:"server_name"`
		ServerVersion   string `json:"server_version"`
	} `json:"environment"`
}

// incus reads the description of the Incus daemon. It returns an error if that does not trust the control plane.
func (p *probe) incus() (*incusServer, error) {
	server := &incusServer{}
	if err := p.get("/1.0", server); err != nil {
		return nil, err
	}
	if server.Auth != "trusted" {
		return nil, errUntrusted
	}
	return server, nil
}

// membership sets the server's name in its cluster, "" if it is in none, and its maintenance state.
func (p *probe) membership(server *incusServer) error {
	name, maintenance := "", lifecycle.NotInMaintenance
	if server.Environment.ServerClustered {
		name = truncate.Text(server.Environment.ServerName, maxText)
		member, err := readMember(p, name)
		if err != nil {
			return err
		}
		maintenance, p.o.MemberRoles = maintenanceOf(member.Status), member.roles()
	}
	p.o.MemberName, p.o.Maintenance = &name, &maintenance
	return nil
}

// getter reads the metadata of an answer.
type getter interface {
	get(path string, out any) error
}

// member is the part of a cluster member's description that is read.
type member struct {
	Status string   `json:"status"`
	Roles  []string `json:"roles"`
}

// maxRoles is the largest number of a member's roles that is read.
const maxRoles = 16

func (m *member) roles() []string {
	out := make([]string, 0, len(m.Roles))
	for _, role := range m.Roles[:min(len(m.Roles), maxRoles)] {
		out = append(out, truncate.Text(role, maxText))
	}
	slices.Sort(out)
	return out
}

func memberStatus(from getter, name string) (string, error) {
	m, err := readMember(from, name)
	if err != nil {
		return "", err
	}
	return m.Status, nil
}

func readMember(from getter, name string) (*member, error) {
	var member member
	path := "/1.0/cluster/members/" + url.PathEscape(name)
	err := from.get(path, &member)
	if err == nil && member.Status == "" {
		err = fmt.Errorf("GET %s: %w: no status", path, errAnswer)
	}
	return &member, err
}

// maintenanceOf translates the status of a cluster member.
func maintenanceOf(status string) lifecycle.MaintenanceState {
	switch status {
	case "Evacuating":
		return lifecycle.MaintenanceEvacuating
	case "Evacuated":
		return lifecycle.MaintenanceEvacuated
	case "Restoring":
		return lifecycle.MaintenanceRestoring
	}
	return lifecycle.NotInMaintenance // Online, Offline, Blocked
}

// plainIncus observes an Incus daemon without the API of IncusOS. Its type is incus, and its OS gets no updates.
func (p *probe) plainIncus() error {
	server, err := p.incus()
	if err != nil {
		return err
	}
	p.o.Ready = true
	kind := lifecycle.TypeIncus
	p.o.Type = &kind
	if server.Environment.OSName == lifecycle.OSName { // it is on IncusOS, but the API of IncusOS fails
		p.unread("versions", fmt.Errorf("GET /os/1.0: %w: not found", errAnswer))
	} else {
		p.o.Versions = &lifecycle.Versions{
			OS: lifecycle.OSVersion{Name: truncate.Text(server.Environment.OSName, maxText), Version: truncate.Text(server.Environment.OSVersion, maxText), Plain: true},
			Applications: []lifecycle.ApplicationVersion{{Name: "incus", Version: truncate.Text(server.Environment.ServerVersion, maxText),
				FriendlyVersion: truncate.Text(server.Environment.ServerVersion, maxText), Primary: true}},
		}
	}
	p.try("cluster membership", func() error { return p.membership(server) })
	if p.light {
		return nil
	}
	f := &lifecycle.Facts{}
	p.try("resources", func() error { return p.fact("/1.0/resources", f, facts.Hardware) })
	p.o.Facts = f
	return nil
}
