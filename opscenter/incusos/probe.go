package incusos

import (
	"bytes"
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

	"github.com/lxc/incus/v6/shared/api"

	"github.com/opscenter-go/sdk/internal/jsonfilter"
	"github.com/opscenter-go/sdk/internal/release"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/internal/facts"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// readyUptime is when a server counts as ready that does not say whether it is (IncusOS
// releases without system_is_ready).
const readyUptime = 120 * time.Second

// Limits of what is taken from a server's word.
const (
	maxMessage      = 500 // bytes of an error
	maxText         = 256 // bytes of a name or a version
	maxApplications = 64
	maxAhead        = 256 << 10 // bytes of room made for an answer before it comes
	// factsRead is how many times the size that is kept of a part of the facts (lifecycle.MaxHardwareSize and the
	// others) is read of it: what is too large can be reduced only as a whole.
	factsRead = 4
)

// notIncusOS is what a newer Incus daemon that is not on IncusOS answers to /os/ requests.
const notIncusOS = "System isn't running IncusOS"

func notOnIncusOS(err error) bool {
	return isStatus(err, http.StatusBadRequest) && strings.Contains(err.Error(), notIncusOS)
}

// Probe asks a server how it is, and reads what the specification lists: type, hardware, OS
// data, version information. It never returns an error: why a server was not reached is part
// of the observation, and so is what could not be read. ctx bounds all of it.
func (c *Client) Probe(ctx context.Context, target opscenter.Target) lifecycle.Observation {
	o := lifecycle.Observation{Server: target.Name, ID: target.ID, At: time.Now().UTC().Round(0), Light: target.Light}
	begun := time.Now()
	if err := c.probe(ctx, target, &o); err != nil {
		o.Failure = failure(err)
		if ctx.Err() != nil && o.Failure.Kind == lifecycle.FailureAnswer {
			o.Failure.Kind = lifecycle.FailureTimeout // cut off in the middle, by us
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
	p := &probe{peer: peer, o: o, light: target.Light, updating: target.Updating, kind: target.Type, member: target.MemberName, keepSecrets: c.options.KeepSecrets, fingerprint: target.Fingerprint, machine: target.MachineID}
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

// probe is one look at one server.
type probe struct {
	peer        *peer
	ctx         context.Context // of this call alone
	o           *lifecycle.Observation
	light       bool                 // no facts
	updating    bool                 // the update status counts
	kind        lifecycle.ServerType // as it was known before
	member      string               // of a cluster, as it was known before
	keepSecrets bool
	fingerprint string // of its own certificate
	machine     string // its ID
	proven      bool   // it is this machine that answers
}

// get reads the metadata of an answer into out. It goes to the transport directly: the Incus
// client sets up TLS anew for each connection, and reads each answer three times over.
func (p *probe) get(path string, out any) error {
	metadata, err := p.raw(path)
	if err != nil {
		return err
	}
	if len(metadata) == 0 || string(metadata) == "null" {
		// It would leave out as it is, and what is not known would look like what is not.
		return fmt.Errorf("GET %s: %w: no metadata", path, errAnswer)
	}
	if err := json.Unmarshal(metadata, out); err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	return nil
}

// object returns the metadata of an answer, which must be an object, as it is.
func (p *probe) object(path string) (json.RawMessage, error) {
	metadata, err := p.raw(path)
	if err == nil && !bytes.HasPrefix(metadata, []byte("{")) {
		return nil, fmt.Errorf("GET %s: %w: no object", path, errAnswer)
	}
	return metadata, err
}

// raw returns the metadata of an answer. Errors of the server are api.StatusErrors.
func (p *probe) raw(path string) (json.RawMessage, error) {
	return p.exchange(http.MethodGet, path, nil)
}

// exchange sends a request, and returns the metadata of the answer.
func (p *probe) exchange(method, path string, body []byte) (json.RawMessage, error) {
	req, err := p.peer.request(p.ctx, method, path, body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	resp, err := p.peer.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusMultipleChoices && resp.StatusCode < http.StatusBadRequest {
		return nil, fmt.Errorf("%s %s: %w", method, path, ErrRedirect)
	}
	var data bytes.Buffer
	// Room for what was announced, as far as that is usual: anybody can announce much.
	data.Grow(int(min(max(resp.ContentLength, 0), maxAhead)) + bytes.MinRead)
	if _, err := data.ReadFrom(resp.Body); err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	var kind, message string
	var code int
	var metadata json.RawMessage
	err = jsonfilter.Members(data.Bytes(), func(key, value []byte) {
		switch string(key) {
		case "type":
			_ = json.Unmarshal(value, &kind)
		case "error":
			_ = json.Unmarshal(value, &message)
		case "error_code":
			_ = json.Unmarshal(value, &code)
		case "metadata":
			metadata = value
		}
	})
	switch {
	case err == nil && kind == string(api.ErrorResponse):
		if code == 0 {
			code = resp.StatusCode
		}
		return nil, fmt.Errorf("%s %s: %w", method, path, api.StatusErrorf(code, "%s", limited(message, maxMessage)))
	case err != nil && resp.StatusCode >= http.StatusBadRequest: // a proxy's own word
		return nil, fmt.Errorf("%s %s: %w%w", method, path, errForeign, api.StatusErrorf(resp.StatusCode, "%s", http.StatusText(resp.StatusCode)))
	case err != nil:
		return nil, fmt.Errorf("%s %s: %w: %w", method, path, errAnswer, err)
	case kind != string(api.SyncResponse):
		return nil, fmt.Errorf("%s %s: %w: type %q", method, path, errAnswer, limited(kind, maxText))
	}
	return metadata, nil
}

var userAgent = []string{"opscenter"}

// try reads one part. What fails is noted; after the end of the context nothing more is tried.
func (p *probe) try(what string, read func() error) bool {
	err := p.ctx.Err()
	if err == nil {
		err = read()
	}
	if err != nil {
		p.unread(what, err)
		return false
	}
	return true
}

func (p *probe) unread(what string, err error) {
	p.o.Unread = append(p.o.Unread, limited(fmt.Sprintf("%s: %v", what, err), maxMessage))
}

// incusOS reads a server that runs IncusOS.
func (p *probe) incusOS(e environment) {
	up := time.Duration(e.Uptime.value)
	p.o.MachineID = limited(e.MachineID.value, maxText)
	// Which member it is any of them would say of any other.
	p.proven = p.o.Presented == p.fingerprint || p.machine != "" && strings.EqualFold(p.o.MachineID, p.machine)
	switch {
	case e.Ready.told:
		p.o.Ready = e.Ready.value
	case e.Uptime.told:
		p.o.Ready = up >= readyUptime
	default:
		p.o.Ready = e.OSVersion.value != "" // it answers; the release tells no more
	}
	if up > 0 {
		p.o.BootedAt = p.o.At.Add(-up)
	}
	versions := &lifecycle.Versions{}
	var update updateSection
	if p.try("update", func() error { return p.get("/os/1.0/system/update", &update) }) {
		p.o.Update, p.o.UpdateStatus = update.settings(), update.status()
		versions.UpdateChannel = limited(update.Config.value.Channel.value, maxText)
	} else {
		p.o.UnreadVersions |= lifecycle.VersionsUpdate
	}
	if p.updating && p.o.UpdateStatus != nil {
		// What the status says has happened is in what is read after it.
		var root osRoot
		if p.try("versions", func() error { return p.get("/os/1.0", &root) }) {
			e = root.Environment
		} else {
			p.o.UnreadVersions |= lifecycle.VersionsOS // those that were read before say nothing of it
		}
	}
	versions.OS = e.version(update)
	if versions.OS.Version == "" {
		p.o.UnreadVersions |= lifecycle.VersionsOS
		p.unread("os_version", fmt.Errorf("%w: it is not told", errAnswer))
	}
	if !p.try("applications", func() (err error) {
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
	p.facts(versions.OS.Version)
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
}

// stillMember reads the status of the member the server was before; in case of doubt it asks
// for all of it again.
func (p *probe) stillMember() bool {
	member, err := readMember(p, p.member)
	if err != nil {
		return false
	}
	maintenance := maintenanceOf(member.Status)
	p.o.MemberName, p.o.Maintenance, p.o.MemberRoles = &p.member, &maintenance, member.roles()
	return true
}

// applications reads the installed applications into versions, and the type they make of the server:
// that of the primary one, which releases before 2026-06-24 tell by its name alone. It returns
// those of which the version could be read, and an error for each of the others.
func (p *probe) applications() (read []lifecycle.ApplicationVersion, kind *lifecycle.ServerType, err error) {
	var paths []string
	if err := p.get("/os/1.0/applications", &paths); err != nil {
		return nil, nil, err
	}
	switch {
	case len(paths) > maxApplications:
		return nil, nil, fmt.Errorf("%w: %d applications, at most %d are taken", errAnswer, len(paths), maxApplications)
	case len(paths) == 0:
		// As right after an update of the OS, or while it is set up: that says nothing of what it is.
		return nil, nil, fmt.Errorf("%w: there are none", errAnswer)
	}
	var all []lifecycle.ApplicationVersion
	var failures []error
	for _, path := range paths {
		name := path[strings.LastIndex(path, "/")+1:]
		var answer struct {
			State told[struct {
				IsPrimary       told[bool]   `json:"is_primary"`
				Version         told[string] `json:"version"`
				FriendlyVersion told[string] `json:"friendly_version"`
			}] `json:"state"`
		}
		err := p.ctx.Err()
		if err == nil {
			err = p.get("/os/1.0/applications/"+url.PathEscape(name), &answer)
		}
		if err == nil && !answer.State.told {
			err = fmt.Errorf("GET %s: %w: no state", path, errAnswer)
		}
		state := answer.State.value
		if err == nil && state.Version.value == "" {
			err = fmt.Errorf("GET %s: %w: no version", path, errAnswer)
		}
		one := lifecycle.ApplicationVersion{Name: limited(name, maxText), Version: limited(state.Version.value, maxText),
			FriendlyVersion: limited(state.FriendlyVersion.value, maxText), Primary: state.IsPrimary.value}
		all = append(all, one)
		if err != nil {
			failures = append(failures, err)
		}
	}
	if found := typeOf(all); found != lifecycle.TypeUnknown || slices.ContainsFunc(all, func(a lifecycle.ApplicationVersion) bool { return a.Primary }) {
		kind = &found
	} else {
		failures = append(failures, fmt.Errorf("%w: none of %d applications is a primary one", errAnswer, len(paths)))
	}
	for _, a := range all {
		if a.Version != "" {
			read = append(read, a)
		}
	}
	return read, kind, errors.Join(failures...)
}

// typeOf returns the type that applications make of a server: that of the one which says that it
// is the primary one, else of the first whose name is a type's, which is marked as the primary one.
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

// facts reads what is large.
func (p *probe) facts(version string) {
	if p.light {
		return
	}
	f := &lifecycle.Facts{}
	defer func() { p.peer.most = 0 }()
	for _, part := range []struct {
		name string
		into *json.RawMessage
		kept int64
	}{{"resources", &f.Hardware, lifecycle.MaxHardwareSize}, {"network", &f.Network, lifecycle.MaxNetworkSize}, {"security", &f.Security, lifecycle.MaxSecuritySize}, {"storage", &f.Storage, lifecycle.MaxStorageSize}} {
		if part.name == "security" && !release.Has(version, release.SecurityReads) {
			continue // to read it there would silence the console's warning about the recovery keys
		}
		p.peer.most = factsRead * part.kept
		p.try(part.name, func() (err error) {
			*part.into, err = p.object("/os/1.0/system/" + part.name)
			return err
		})
	}
	if f.Security != nil {
		p.try("security state", func() error {
			var answer struct {
				State struct {
					Trusted told[bool] `json:"system_state_is_trusted"`
				} `json:"state"`
			}
			if err := json.Unmarshal(f.Security, &answer); err != nil {
				return err
			}
			if answer.State.Trusted.told {
				p.o.SystemStateTrusted = &answer.State.Trusted.value
			}
			return nil
		})
	}
	p.keep(f)
}

// keep adds facts to the observation, without secrets. Hardware and storage have none.
func (p *probe) keep(f *lifecycle.Facts) {
	for _, part := range []*json.RawMessage{&f.Network, &f.Security} {
		if *part == nil || p.keepSecrets {
			continue
		}
		redacted, err := facts.RedactSecrets(*part)
		if err != nil {
			redacted = nil // what can't be read can't be cleaned
			p.o.Unread = append(p.o.Unread, err.Error())
		}
		*part = redacted
	}
	p.o.Facts = f
}

// incusServer is what GET /1.0 of Incus tells.
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

// membership reads which member of an Incus cluster the server is, and whether it is evacuated.
func (p *probe) membership(server *incusServer) error {
	name, maintenance := "", lifecycle.NotInMaintenance
	if server.Environment.ServerClustered {
		name = limited(server.Environment.ServerName, maxText)
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

// member is what is looked at of a cluster's member.
type member struct {
	Status string   `json:"status"`
	Roles  []string `json:"roles"`
}

// maxRoles bounds what is taken of a member's roles.
const maxRoles = 16

func (m *member) roles() []string {
	out := make([]string, 0, len(m.Roles))
	for _, role := range m.Roles[:min(len(m.Roles), maxRoles)] {
		out = append(out, limited(role, maxText))
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

// plainIncus reads an Incus daemon that is not on IncusOS: type incus, and no OS to update.
func (p *probe) plainIncus() error {
	server, err := p.incus()
	if err != nil {
		return err
	}
	p.o.Ready = true
	kind := lifecycle.TypeIncus
	p.o.Type = &kind
	if server.Environment.OSName == lifecycle.OSName { // only its own API is out of order
		p.unread("versions", fmt.Errorf("GET /os/1.0: %w: it is not there", errAnswer))
	} else {
		p.o.Versions = &lifecycle.Versions{
			OS: lifecycle.OSVersion{Name: limited(server.Environment.OSName, maxText), Version: limited(server.Environment.OSVersion, maxText), Plain: true},
			Applications: []lifecycle.ApplicationVersion{{Name: "incus", Version: limited(server.Environment.ServerVersion, maxText),
				FriendlyVersion: limited(server.Environment.ServerVersion, maxText), Primary: true}},
		}
	}
	p.try("cluster membership", func() error { return p.membership(server) })
	if p.light {
		return nil
	}
	f := &lifecycle.Facts{}
	p.try("resources", func() (err error) {
		f.Hardware, err = p.object("/1.0/resources")
		return err
	})
	p.keep(f)
	return nil
}
