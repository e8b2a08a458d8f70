package httpapi_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/poller"
)

// watched is a plane that polls one server by hand.
func watched(t *testing.T, options incusostest.Options, change func(*plane, *incusos.Client, *httpapi.Options)) (p *plane, server *incusostest.Server, client *incusos.Client, look func() *opscenter.ServerInfo) {
	t.Helper()
	var polls *poller.Poller
	p = startWith(t, func(p *plane, o *httpapi.Options) {
		client = controltest.Client(t, incusos.Options{Certificate: &p.own})
		var err error
		polls, err = poller.New(p.registry, client, poller.Options{})
		require.NoError(t, err)
		if change != nil {
			change(p, client, o)
		}
	})
	options.Name = "a"
	server = p.boot(options)
	return p, server, client, func() *opscenter.ServerInfo {
		controltest.Poll(t, polls, "a")
		info, err := p.registry.Server(t.Context(), "a")
		require.NoError(t, err)
		return info
	}
}

func (p *plane) warnings() (kinds []warning.Kind) {
	list, err := p.registry.Warnings().List(p.t.Context(), opscenter.WarningFilter{Server: "a"}, opscenter.Page{})
	require.NoError(p.t, err)
	for _, w := range list.Warnings {
		kinds = append(kinds, w.Kind)
	}
	return kinds
}

// TestNoApplicationsAfterAnUpdate: right after an update of the OS a server may list no applications. Its type stays, and the rest of
// the observation is recorded.
func TestNoApplicationsAfterAnUpdate(t *testing.T) {
	_, server, client, look := watched(t, incusostest.Options{}, nil)
	require.Equal(t, lifecycle.TypeIncus, look().State.Type)
	server.Offer("202610150000")
	require.NoError(t, client.Update(t.Context(), look().Target()))
	require.Eventually(t, func() bool { return look().State.Versions.NeedsReboot() }, 10*time.Second, 10*time.Millisecond)
	server.Reboot()
	server.SetApplications()
	info := look()
	require.Equal(t, lifecycle.TypeIncus, info.State.Type)
	require.Equal(t, "202610150000", info.State.Versions.OS.Version)
	require.Equal(t, "incus", info.State.Versions.Applications[0].Name, "as it was")
	server.SetApplications("incus-lts-7.0", "debug")
	info = look()
	require.Equal(t, lifecycle.TypeIncus, info.State.Type)
	require.Equal(t, "incus-lts-7.0", info.State.Versions.Applications[0].Name)
}

// TestRecoveryKeys: on releases on which a read marks the recovery keys as retrieved, no poll reads them. An operator's request shows them.
// It is in the audit log, and no key is in any log.
func TestRecoveryKeys(t *testing.T) {
	const path = serversPath + "a/os/1.0/system/security"
	for _, old := range []bool{true, false} {
		for _, shown := range []bool{true, false} {
			options := incusostest.Options{Release: "202607160000", Version: "202607160000"}
			if !old {
				options = incusostest.Options{}
			}
			p, server, _, look := watched(t, options, func(p *plane, client *incusos.Client, o *httpapi.Options) {
				o.Forward = client
				o.ShowSecrets = func(string) bool { return shown }
				var err error
				o.Audit, err = audit.New(p.registry, audit.Options{})
				require.NoError(t, err)
			})
			for range 3 {
				look()
			}
			facts, err := p.registry.ServerFacts(t.Context(), "a")
			require.NoError(t, err)
			require.Equal(t, old, facts.Security == nil, "it is not read there")
			require.False(t, server.RecoveryKeysRetrieved(), "the console goes on to warn")
			operator := p.client(&p.operator)
			code, text := p.send(operator, "GET", path, "")
			switch {
			case old && !shown:
				require.Equal(t, 403, code, text)
				require.False(t, server.RecoveryKeysRetrieved())
			case shown:
				require.Equal(t, 200, code, text)
				require.Contains(t, text, "simulated-recovery-key")
				require.Equal(t, old, server.RecoveryKeysRetrieved())
			default:
				require.Equal(t, 200, code, text)
				require.NotContains(t, text, "simulated-")
			}
			_, logged := p.send(operator, "GET", "/1.0/audit?recursion=1", "")
			require.Equal(t, shown, strings.Contains(logged, "system/security"), "who took them is known: %s", logged)
			for _, place := range []string{logged, p.log.String()} {
				require.NotContains(t, place, "simulated-recovery-key")
				require.NotContains(t, place, "simulated-pool-key")
			}
		}
	}
}

// TestOneLargePart: hardware facts that are too large are summarised, with a warning. The other facts are kept.
func TestOneLargePart(t *testing.T) {
	p, _, _, look := watched(t, incusostest.Options{VirtualFunctions: 128}, nil)
	look()
	facts, err := p.registry.ServerFacts(t.Context(), "a")
	require.NoError(t, err)
	require.NotNil(t, facts.Hardware)
	require.NotNil(t, facts.Network)
	require.NotNil(t, facts.Security)
	require.NotNil(t, facts.Storage)
	require.LessOrEqual(t, len(facts.Hardware), lifecycle.MaxHardwareSize)
	require.Equal(t, []warning.Kind{warning.Facts}, p.warnings())
	look()
	again, err := p.registry.ServerFacts(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, string(facts.Hardware), string(again.Hardware), "it is summarised in the same way each time")
}

// TestBackupImage: a server whose new version did not boot runs from its backup image. The API shows it, with a warning and without a
// recommended action. A rollout to that version names it as a blocker.
func TestBackupImage(t *testing.T) {
	p, server, client, look := watched(t, incusostest.Options{Standalone: true}, nil)
	look()
	server.SetTrouble(incusostest.TroubleVersion)
	server.Offer("202610150000")
	planner := opscenter.NewUpdatePlanner(p.registry, client)
	require.NoError(t, p.registry.Channels().Publish(t.Context(), "stable", "202610150000", "os", "incus"))
	require.Equal(t, lifecycle.ActionUpdate, look().Recommendation().Action)
	target := look().Target()
	require.NoError(t, client.Update(t.Context(), target))
	require.Eventually(t, func() bool { return look().State.Versions.NeedsReboot() }, 10*time.Second, 10*time.Millisecond)
	server.Reboot()
	require.Eventually(t, func() bool { info := look(); return info.State.Status == lifecycle.StatusReady }, 10*time.Second, 10*time.Millisecond)
	info := look()
	require.True(t, info.State.Versions.OS.BackupImage)
	require.Equal(t, "202610010000", info.State.Versions.OS.Version)
	require.False(t, info.State.Versions.NeedsReboot())
	require.Empty(t, info.State.Versions.OS.StagedVersion())
	require.Equal(t, lifecycle.ActionNone, info.Recommendation().Action, info.Recommendation().Reason)
	require.Contains(t, info.Recommendation().Reason, "backup image")
	require.Contains(t, p.warnings(), warning.BackupImage)
	var shown struct {
		Versions struct {
			OS struct {
				BackupImage bool `json:"backup_image"`
			} `json:"os"`
		} `json:"version_data"`
	}
	p.call(p.client(&p.operator), "GET", serversPath+"a", "").decode(t, &shown)
	require.True(t, shown.Versions.OS.BackupImage)
	plan, err := planner.Plan(t.Context(), rolling.Selector{Servers: []string{"a"}}, rolling.Policy{})
	require.NoError(t, err)
	require.Contains(t, plan.String(), "202610150000 did not boot")

	// A later version is an update again.
	server.SetTrouble(incusostest.TroubleNone)
	require.NoError(t, p.registry.Channels().Publish(t.Context(), "stable", "202610160000", "os", "incus"))
	require.Equal(t, lifecycle.ActionUpdate, look().Recommendation().Action)
}

// TestFailedUpdateEndsItsAction: the action ends at once, with the server's words.
func TestFailedUpdateEndsItsAction(t *testing.T) {
	for _, trouble := range []incusostest.Trouble{incusostest.TroubleDownload, incusostest.TroubleApplication} {
		t.Run(string(trouble), func(t *testing.T) {
			t.Parallel()
			p, server, client, look := watched(t, incusostest.Options{Standalone: true}, nil)
			look()
			server.SetTrouble(trouble)
			server.Offer("202610150000")
			require.NoError(t, p.registry.Channels().Publish(t.Context(), "stable", "202610150000", "os", "incus"))
			look()
			require.NoError(t, opscenter.NewUpdatePlanner(p.registry, client).Act(t.Context(), "a", lifecycle.ActionUpdate))
			require.Eventually(t, func() bool { return look().State.Operation == nil }, 20*time.Second, 20*time.Millisecond)
			last := look().State.LastOperation
			require.Equal(t, lifecycle.ActionUpdate, last.Action)
			if trouble == incusostest.TroubleDownload {
				require.Contains(t, last.Failed, "Failed to check for OS updates")
			} else {
				require.Contains(t, last.Failed, "IncusOS has been updated to version 202610150000")
			}
		})
	}
}

// TestNotApplicable: an action that does not apply to a type of server is refused at once by its name, also with force, and changes no
// row.
func TestNotApplicable(t *testing.T) {
	p, _, servers := everything(t)
	operator := p.client(&p.operator)
	var requests [][3]string
	for _, force := range []string{"", "?force=1"} {
		for _, action := range []string{"evacuate", "restore"} {
			requests = append(requests, [3]string{"POST", "manager/system/:" + action + force, "is for type incus"})
		}
		for _, action := range []string{"update", "reboot", "poweroff", "suspend", "factory-reset"} {
			requests = append(requests, [3]string{"POST", "plain/system/:" + action + force, "not on IncusOS"})
		}
		for _, section := range []string{"network", "update", "storage", "provider", "kernel", "logging"} {
			requests = append(requests, [3]string{"PUT", "plain/system/" + section + force, "not on IncusOS"})
		}
	}
	for _, section := range []string{"network", "update", "storage", "provider", "kernel", "logging"} {
		requests = append(requests, [3]string{"GET", "plain/system/" + section, "not on IncusOS"})
	}
	requests = append(requests, [3]string{"GET", "plain/os/1.0/system/security", "not on IncusOS"})
	for _, request := range requests {
		before := p.store.rows(t)
		body := ""
		if request[0] == "PUT" {
			switch {
			case strings.Contains(request[1], "network"):
				body = `{"config":{"interfaces":[{"name":"eth0","hwaddr":"10:66:6a:00:00:01","addresses":["10.0.0.1/24"]}]}}`
			case strings.Contains(request[1], "update"):
				body = `{"config":{"auto_reboot":false,"channel":"stable","check_frequency":"6h"}}`
			case strings.Contains(request[1], "provider"):
				body = `{"config":{"name":"operations-center"}}`
			default:
				body = `{"config":{}}`
			}
		}
		code, text := p.send(operator, request[0], serversPath+request[1], body)
		require.Equal(t, 400, code, "%v: %s", request, text)
		require.Contains(t, text, request[2], request)
		require.Equal(t, before, p.store.rows(t), request)
	}
	require.Zero(t, servers["plain"].Reboots())
	_, text := p.send(operator, "GET", serversPath+"plain", "")
	require.Contains(t, text, string(lifecycle.UpdateStateNotManaged))

	// A rollout of all servers names it, and does not pause.
	plan, err := opscenter.NewUpdatePlanner(p.registry, nil).Plan(t.Context(), rolling.Selector{All: true}, rolling.Policy{})
	require.NoError(t, err)
	require.Contains(t, plan.String(), "not on IncusOS")
}
