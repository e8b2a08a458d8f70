package incusos_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// subject is a simulated server, over sockets or in a Fleet, with its prober and actuator.
type subject struct {
	server *incusostest.Server
	target opscenter.Target
	prober interface {
		Probe(context.Context, opscenter.Target) lifecycle.Observation
	}
	actuator opscenter.Actuator
	wait     time.Duration // timeout of a probe
}

// probe returns an observation without values that always differ, such as times and messages, and without facts.
func (e *subject) probe(t *testing.T) lifecycle.Observation {
	ctx, cancel := context.WithTimeout(t.Context(), e.wait)
	defer cancel()
	o := e.prober.Probe(ctx, e.target)
	o.At, o.Took, o.ID, o.Facts = time.Time{}, 0, "", nil
	if o.MachineID == e.server.MachineID() {
		o.MachineID = "its own"
	}
	if !o.BootedAt.IsZero() {
		require.WithinDuration(t, time.Now(), o.BootedAt, 2*time.Hour)
		o.BootedAt = time.Unix(0, 0)
	}
	switch o.Presented {
	case e.target.Fingerprint:
		o.Presented = "expected"
	case "":
	default:
		o.Presented = "other"
	}
	if o.Failure != nil {
		o.Failure.Message = ""
	}
	for i := range o.Unread {
		o.Unread[i] = "unread"
	}
	if o.UpdateStatus != nil && !o.UpdateStatus.LastCheck.IsZero() {
		if since := time.Since(o.UpdateStatus.LastCheck); since > 59*time.Minute {
			require.InDelta(t, time.Hour, since, float64(time.Minute), "at startup")
			o.UpdateStatus.LastCheck = time.Unix(0, 0)
		} else {
			require.Less(t, since, time.Minute)
			o.UpdateStatus.LastCheck = time.Unix(1, 0)
		}
	}
	return o
}

// A Fleet's Probe and actions have the same results as the Client has over the network.
func TestFleetEqualsServers(t *testing.T) {
	quick := incusostest.Options{Name: "s", Standalone: true, SystemUUID: "7b9f2f66-33ee-41f0-b32c-0c1a4dff33d7", Seed: 1}
	with := func(change func(*incusostest.Options)) incusostest.Options {
		o := quick
		change(&o)
		return o
	}
	update := func(t *testing.T, e *subject) {
		e.server.Offer("202610150000")
		require.NoError(t, e.actuator.Update(t.Context(), e.target))
		eventually(t, func() bool { o := e.probe(t); return o.UpdateStatus == nil || o.UpdateStatus.Idle() })
	}
	reboot := func(t *testing.T, e *subject) {
		was := e.server.Reboots()
		require.NoError(t, e.actuator.Reboot(t.Context(), e.target))
		require.Equal(t, was+1, e.server.Reboots())
		eventually(t, func() bool { return e.probe(t).Failure != nil })
		eventually(t, func() bool { o := e.probe(t); return o.Failure == nil && o.Ready })
	}
	slow := func(o *incusostest.Options) { o.RebootDelay = 200 * time.Millisecond }
	member := func(t *testing.T, e *subject) {
		require.NoError(t, incusostest.Cluster(e.server))
		e.target.Fingerprint = opscenter.Fingerprint(e.server.ClusterCertificate().Leaf)
		e.target.MemberName = e.server.Name()
	}
	type script func(*testing.T, *subject)
	cases := map[string]struct {
		options incusostest.Options
		script  script
	}{
		"fresh":             {quick, func(*testing.T, *subject) {}},
		"updated":           {quick, update},
		"update fails":      {quick, func(t *testing.T, e *subject) { e.server.SetTrouble(incusostest.TroubleDownload); update(t, e) }},
		"application":       {quick, func(t *testing.T, e *subject) { e.server.SetTrouble(incusostest.TroubleApplication); update(t, e) }},
		"update is nothing": {quick, func(t *testing.T, e *subject) { e.server.SetTrouble(incusostest.TroubleUpdate); update(t, e) }},
		"rebooted":          {with(slow), func(t *testing.T, e *subject) { update(t, e); reboot(t, e) }},
		"backup image": {with(slow), func(t *testing.T, e *subject) {
			e.server.SetTrouble(incusostest.TroubleVersion)
			update(t, e)
			reboot(t, e)
		}},
		"backup image, with auto_reboot": {with(slow), func(t *testing.T, e *subject) {
			e.server.SetUpdateSettings(true, "stable", "6h")
			e.server.SetTrouble(incusostest.TroubleVersion)
			e.server.Offer("202610150000")
			require.NoError(t, e.actuator.Update(t.Context(), e.target))
			eventually(t, func() bool {
				o := e.probe(t)
				return o.Failure == nil && o.Ready && o.UpdateStatus != nil && o.UpdateStatus.Idle() && !o.UpdateStatus.LastCheck.IsZero()
			})
			require.True(t, e.probe(t).Versions.OS.BackupImage)
			require.Zero(t, e.server.Reboots(), "the server rebooted by itself")
		}},
		"never back": {with(slow), func(t *testing.T, e *subject) {
			e.server.SetTrouble(incusostest.TroubleReboot)
			require.NoError(t, e.actuator.Reboot(t.Context(), e.target))
			eventually(t, func() bool { return e.probe(t).Failure != nil })
		}},
		"powered off": {quick, func(t *testing.T, e *subject) {
			require.NoError(t, e.actuator.PowerOff(t.Context(), e.target))
			eventually(t, func() bool { return e.probe(t).Failure != nil })
		}},
		"suspended": {quick, func(t *testing.T, e *subject) {
			require.NoError(t, e.actuator.Suspend(t.Context(), e.target))
			eventually(t, func() bool { return e.probe(t).Failure != nil })
			e.server.Resume()
		}},
		"not ready":           {quick, func(_ *testing.T, e *subject) { e.server.SetReady(false) }},
		"no applications":     {quick, func(_ *testing.T, e *subject) { e.server.SetApplications() }},
		"settings":            {quick, func(_ *testing.T, e *subject) { e.server.SetUpdateSettings(true, "testing", "1h") }},
		"another certificate": {quick, func(t *testing.T, e *subject) { require.NoError(t, e.server.SwapCertificate()) }},
		"legacy":              {with(func(o *incusostest.Options) { o.LegacyReady = true }), func(*testing.T, *subject) {}},
		"plain":               {with(func(o *incusostest.Options) { o.Plain = true }), func(*testing.T, *subject) {}},
		"migration manager":   {with(func(o *incusostest.Options) { o.Application = "migration-manager" }), func(*testing.T, *subject) {}},
		"member":              {quick, member},
		"evacuated": {quick, func(t *testing.T, e *subject) {
			e.server.AddInstance("default", "i1", true)
			member(t, e)
			require.NoError(t, e.actuator.Evacuate(t.Context(), e.target, ""))
			require.NoError(t, e.actuator.Evacuate(t.Context(), e.target, ""), "again")
			require.False(t, e.server.Instances()[0].Running)
		}},
		"restored": {quick, func(t *testing.T, e *subject) {
			e.server.AddInstance("default", "i1", true)
			member(t, e)
			require.NoError(t, e.actuator.Evacuate(t.Context(), e.target, "auto"))
			require.NoError(t, e.actuator.Restore(t.Context(), e.target, ""))
			require.True(t, e.server.Instances()[0].Running)
		}},
		"evacuation fails": {quick, func(t *testing.T, e *subject) {
			member(t, e)
			e.server.SetTrouble(incusostest.TroubleEvacuation)
			require.ErrorIs(t, e.actuator.Evacuate(t.Context(), e.target, ""), opscenter.ErrRefused)
		}},
		"restore fails": {quick, func(t *testing.T, e *subject) {
			member(t, e)
			require.NoError(t, e.actuator.Evacuate(t.Context(), e.target, ""))
			e.server.SetTrouble(incusostest.TroubleRestore)
			require.ErrorIs(t, e.actuator.Restore(t.Context(), e.target, ""), opscenter.ErrRefused)
		}},
		"evacuation times out": {with(func(o *incusostest.Options) { o.EvacuateDelay = 2500 * time.Millisecond }), func(t *testing.T, e *subject) {
			member(t, e)
			ctx, cancel := context.WithTimeout(t.Context(), 1200*time.Millisecond)
			defer cancel()
			require.ErrorIs(t, e.actuator.Evacuate(ctx, e.target, ""), opscenter.ErrOutcomeUnknown)
			require.Equal(t, lifecycle.MaintenanceEvacuating, *e.probe(t).Maintenance)
			require.NoError(t, e.actuator.Restore(t.Context(), e.target, ""), "Restore waits for the evacuation")
		}},
		"instances": {quick, func(t *testing.T, e *subject) {
			e.server.AddInstance("default", "on", true)
			e.server.AddInstance("default", "off", false)
			running, err := e.actuator.RunningInstances(t.Context(), e.target)
			require.NoError(t, err)
			require.Equal(t, []lifecycle.Instance{{Project: "default", Name: "on"}}, running)
			require.NoError(t, e.actuator.StopInstance(t.Context(), e.target, running[0]))
			require.False(t, e.server.Instances()[0].Running)
			require.NoError(t, e.actuator.StartInstance(t.Context(), e.target, running[0]))
			require.True(t, e.server.Instances()[0].Running)
			require.NoError(t, e.actuator.StopInstance(t.Context(), e.target, lifecycle.Instance{Project: "default", Name: "gone"}))
		}},
	}
	for _, release := range []string{"202510010000", "202512010000", "202604300000", "202606010000", "202607160000"} {
		cases["release "+release] = struct {
			options incusostest.Options
			script  script
		}{with(func(o *incusostest.Options) { o.Release, o.Version = release, release }), func(*testing.T, *subject) {}}
	}
	for _, fault := range incusostest.Faults {
		cases["fault "+string(fault)] = struct {
			options incusostest.Options
			script  script
		}{quick, func(t *testing.T, e *subject) {
			require.NoError(t, e.server.SetFault(incusostest.Fault{Kind: fault, Delay: 50 * time.Millisecond}))
			if fault == incusostest.FaultSlow || fault == incusostest.FaultTrickle {
				require.NoError(t, e.server.SetFault(incusostest.Fault{Kind: fault, Delay: 10 * time.Second}))
			}
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			require.Error(t, e.actuator.Update(ctx, e.target))
		}}
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, identity := boot(t, c.options)
			client := newClient(t, incusos.Options{Certificate: identity, Timeout: 10 * time.Second, CallTimeout: 10 * time.Second})
			over := &subject{server: server, prober: client, actuator: client, target: target(server)}

			registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
			require.NoError(t, err)
			defer registry.Close()
			token, err := registry.CreateToken(t.Context(), opscenter.TokenSpec{Uses: 1})
			require.NoError(t, err)
			fleet := incusostest.NewFleet(registry)
			defer fleet.Close()
			without, err := fleet.Add(t.Context(), token.UUID, c.options)
			require.NoError(t, err)
			in := &subject{server: without, prober: fleet, actuator: fleet, target: target(without)}

			for _, e := range []*subject{over, in} {
				if e.wait = 600 * time.Millisecond; name == "fault huge" {
					e.wait = 20 * time.Second // the client rejects the answer earlier
				}
				e.target.MemberName = ""
				c.script(t, e)
			}
			require.Equal(t, over.probe(t), in.probe(t))
			if len(fleet.Calls()) > 0 {
				require.Contains(t, fmt.Sprint(fleet.Calls()[0]), " s")
			}
		})
	}
}
