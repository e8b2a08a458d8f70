package incusostest

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/opscenter-go/sdk/internal/release"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// Probe implements poller.Prober. It returns the observation that incusos.Client makes over the network, but without
// facts, which would take most of the time.
func (f *Fleet) Probe(ctx context.Context, t opscenter.Target) lifecycle.Observation {
	o := lifecycle.Observation{Server: t.Name, ID: t.ID, At: time.Now().UTC().Round(0), Light: t.Light}
	var s *Server
	if s, o.Presented, o.Failure = f.reach(ctx, t); s != nil {
		s.observe(&o)
	}
	o.Took = time.Since(o.At)
	return o
}

// observe sets the values of an observation.
func (s *Server) observe(o *lifecycle.Observation) {
	s.observeMember(o)
	s.mu.Lock()
	defer s.mu.Unlock()
	kind := lifecycle.TypeIncus
	if o.Type = &kind; s.options.Plain {
		o.Ready, o.Versions = true, &lifecycle.Versions{OS: lifecycle.OSVersion{Name: "Debian GNU/Linux", Version: "12", Plain: true},
			Applications: []lifecycle.ApplicationVersion{{Name: "incus", Version: "7.3", FriendlyVersion: "7.3", Primary: true}}}
		return
	}
	if s.supports(release.MachineID) {
		o.MachineID = s.state.machineID
	}
	o.Ready = s.state.ready || !s.options.LegacyReady && !s.supports(release.Ready)
	if s.options.LegacyReady || s.supports(release.NextVersion) {
		up := time.Since(s.state.bootedAt).Truncate(time.Second)
		if up > 0 {
			o.BootedAt = o.At.Add(-up)
		}
		if s.options.LegacyReady {
			o.Ready = up >= 2*time.Minute
		}
	}
	u := s.state.update
	if n, err := u.CheckFrequency.Nanoseconds(); err == nil && u.CheckFrequency != release.Never && !s.supports(release.FrequencyText) {
		u.CheckFrequency = release.Frequency(time.Duration(n).String())
	}
	o.Update = &lifecycle.UpdateSettings{AutoReboot: u.AutoReboot, Channel: u.Channel, CheckFrequency: string(u.CheckFrequency)}
	o.UpdateStatus = &lifecycle.UpdateStatus{Status: s.state.updateState}
	if !s.state.lastCheck.IsZero() {
		o.UpdateStatus.LastCheck = s.state.lastCheck.UTC().Truncate(time.Second)
	}
	o.Versions = &lifecycle.Versions{UpdateChannel: u.Channel, OS: lifecycle.OSVersion{Name: lifecycle.OSName, Version: s.state.version, NeedsReboot: s.state.needsReboot}}
	if os := &o.Versions.OS; s.supports(release.NextVersion) {
		os.VersionNext = cmp.Or(s.state.next, s.state.version)
		os.BackupImage = newer(os.VersionNext, os.Version) && !os.NeedsReboot && o.UpdateStatus.Idle() &&
			(s.state.alternate == "" || s.state.alternate == os.VersionNext)
	}
	if len(s.state.applications) == 0 {
		o.Type, o.UnreadVersions, o.Unread = nil, lifecycle.VersionsApplications, []string{"applications: no applications"}
	} else {
		kind = lifecycle.TypeOfApplication(s.state.applications[0].name)
	}
	for _, a := range s.state.applications {
		o.Versions.Applications = append(o.Versions.Applications, lifecycle.ApplicationVersion{Name: a.name, Version: a.version, FriendlyVersion: "7.3", Primary: a.primary})
	}
	if release.Has(s.state.version, release.SecurityReads) && !o.Light {
		trusted := true
		o.SystemStateTrusted = &trusted
	}
}

// observeMember sets the cluster membership of an observation.
func (s *Server) observeMember(o *lifecycle.Observation) {
	if !isIncus(s.options.Application) {
		return
	}
	d := s.db()
	d.mu.Lock()
	defer d.mu.Unlock()
	name, maintenance := "", lifecycle.NotInMaintenance
	if m := d.member(s.options.Name); d.clustered && m != nil {
		name = m.name
		switch m.status {
		case "Evacuating":
			maintenance = lifecycle.MaintenanceEvacuating
		case "Evacuated":
			maintenance = lifecycle.MaintenanceEvacuated
		case "Restoring":
			maintenance = lifecycle.MaintenanceRestoring
		}
		o.MemberRoles = append([]string{}, d.document(m)["roles"].([]string)...)
		slices.Sort(o.MemberRoles)
	}
	o.MemberName, o.Maintenance = &name, &maintenance
}
