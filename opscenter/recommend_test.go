package opscenter_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
)

// The tables of the specification, section "Update Operating System", as they stand there.
const specification = `
| needs update | needs reboot | in maintenance | recommended action                             |
| :---         | :---         | :---           | :---                                           |
| false        | false        | false          | <none>                                         |
| true         | false        | false          | update                                         |
| false        | true         | false          | if ` + "`type == \"incus\"`" + `: "evacuate" else "reboot" |
| false        | true         | true           | reboot                                         |
| false        | false        | true           | restore                                        |

| needs update | needs reboot | in maintenance | recommended action |
| :---         | :---         | :---           | :---               |
| true         | true         | false          | update             |
| true         | false        | true           | update             |
| true         | true         | true           | update             |
`

// rows reads the tables: condition → action.
func specificationRows(t *testing.T) map[[3]bool]string {
	rows := map[[3]bool]string{}
	for line := range strings.Lines(specification) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 6 {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if cells[1] == "needs update" || cells[1] == ":---" {
			continue
		}
		rows[[3]bool{cells[1] == "true", cells[2] == "true", cells[3] == "true"}] = cells[4]
	}
	require.Len(t, rows, 8, "two tables of eight rows, every combination once")
	return rows
}

func TestRecommendFollowsTheSpecification(t *testing.T) {
	rows := specificationRows(t)
	n := 0
	for _, kind := range append(opscenter.ServerTypes, "") {
		for _, status := range append(opscenter.Statuses, "") {
			for _, detail := range append(opscenter.StatusDetails, opscenter.DetailNone) {
				for maintenance := opscenter.NotInMaintenance; maintenance <= opscenter.MaintenanceRestoring; maintenance++ {
					for bits := range 4 {
						c := opscenter.Condition{Type: kind, Status: status, StatusDetail: detail, Maintenance: maintenance, NeedsUpdate: bits&1 != 0, NeedsReboot: bits&2 != 0}
						got := opscenter.Recommend(c)
						n++
						want := opscenter.ActionNone
						idle := status == opscenter.StatusReady && detail == opscenter.DetailNone &&
							(maintenance == opscenter.NotInMaintenance || maintenance == opscenter.MaintenanceEvacuated)
						if idle {
							want = fromTable(t, rows[[3]bool{c.NeedsUpdate, c.NeedsReboot, maintenance == opscenter.MaintenanceEvacuated}], kind)
						}
						require.Equal(t, want, got.Action, "%+v", c)
						require.NotEmpty(t, got.Rule, "%+v", c)
						require.NotEmpty(t, got.Reason, "%+v", c)
						require.NotEmpty(t, got.UpdateState, "%+v", c)
						if idle {
							require.Equal(t, fmt.Sprintf("needs update %t, needs reboot %t, in maintenance %t", c.NeedsUpdate, c.NeedsReboot, maintenance == opscenter.MaintenanceEvacuated), got.Rule)
							require.Contains(t, got.Reason, got.Rule, "the reason tells the facts")
						} else {
							require.Contains(t, []string{"not ready", "in progress"}, got.Rule)
						}
					}
				}
			}
		}
	}
	require.Equal(t, 5*6*10*4*4, n)
}

// fromTable reads a cell of the tables for a server type. "Actions evacuate and restore are
// only available, if the server has type Incus."
func fromTable(t *testing.T, cell string, kind opscenter.ServerType) opscenter.Action {
	switch cell {
	case "<none>":
		return opscenter.ActionNone
	case "update", "reboot":
		return opscenter.Action(cell)
	case "if `type == \"incus\"`: \"evacuate\" else \"reboot\"":
		if kind == opscenter.TypeIncus {
			return opscenter.ActionEvacuate
		}
		return opscenter.ActionReboot
	case "restore":
		if kind == opscenter.TypeIncus {
			return opscenter.ActionRestore
		}
		return opscenter.ActionNone
	}
	t.Fatalf("a cell that nobody has thought of: %q", cell)
	return ""
}

func TestUpdateStates(t *testing.T) {
	ready := opscenter.Condition{Type: opscenter.TypeIncus, Status: opscenter.StatusReady}
	with := func(change func(*opscenter.Condition)) opscenter.Condition {
		c := ready
		change(&c)
		return c
	}
	for want, c := range map[opscenter.UpdateState]opscenter.Condition{
		opscenter.UpdateStateUpToDate:   ready,
		opscenter.UpdateStatePending:    with(func(c *opscenter.Condition) { c.NeedsUpdate = true }),
		opscenter.UpdateStateUpdating:   with(func(c *opscenter.Condition) { c.StatusDetail = opscenter.DetailUpdatingApplication }),
		opscenter.UpdateStateEvacuation: with(func(c *opscenter.Condition) { c.NeedsReboot = true }),
		opscenter.UpdateStateRebootPending: with(func(c *opscenter.Condition) {
			c.NeedsReboot, c.Type = true, opscenter.TypeMigrationManager
		}),
		opscenter.UpdateStateEvacuating:     with(func(c *opscenter.Condition) { c.Maintenance = opscenter.MaintenanceEvacuating }),
		opscenter.UpdateStateEvacuatedBoot:  with(func(c *opscenter.Condition) { c.NeedsReboot, c.Maintenance = true, opscenter.MaintenanceEvacuated }),
		opscenter.UpdateStateRestorePending: with(func(c *opscenter.Condition) { c.Maintenance = opscenter.MaintenanceEvacuated }),
		opscenter.UpdateStateRestoring:      with(func(c *opscenter.Condition) { c.StatusDetail = opscenter.DetailRestoring }),
		opscenter.UpdateStateRebooting: with(func(c *opscenter.Condition) {
			c.Status, c.StatusDetail = opscenter.StatusOffline, opscenter.DetailRebooting
		}),
		opscenter.UpdateStateEvacuatedReset: with(func(c *opscenter.Condition) {
			c.Status, c.StatusDetail, c.Maintenance = opscenter.StatusOffline, opscenter.DetailRebooting, opscenter.MaintenanceEvacuated
		}),
		opscenter.UpdateStateUndefined: {},
	} {
		require.Equal(t, want, opscenter.Recommend(c).UpdateState, "%+v", c)
	}
}

func TestVersions(t *testing.T) {
	v := opscenter.Versions{OS: opscenter.OSVersion{Name: opscenter.OSName, Version: "202610010000"},
		Applications: []opscenter.ApplicationVersion{{Name: "incus", Version: "202610010000", Primary: true}, {Name: "debug", Version: ""}}}
	newer := map[string]string{"os": "202610150000", "incus": "202610150000", "debug": "202610150000", "openfga": "202610150000"}
	require.Equal(t, map[string]string{"os": "202610150000", "incus": "202610150000"}, v.Outdated(newer), "per component; what is unknown or absent needs none")
	require.False(t, v.NeedsReboot())

	v.OS.VersionNext = "202610150000"
	require.False(t, v.NeedsReboot(), "a next version is staged only if the server says that it needs a reboot")
	require.Equal(t, map[string]string{"os": "202610150000", "incus": "202610150000"}, v.Outdated(newer), "it may be downloaded still")
	v.OS.BackupImage = true
	require.Equal(t, map[string]string{"incus": "202610150000"}, v.Outdated(newer), "IncusOS does not install again what did not boot")
	require.Equal(t, "202610160000", v.Outdated(map[string]string{"os": "202610160000"})["os"], "but what is newer")
	v.OS.BackupImage, v.OS.NeedsReboot = false, true
	require.True(t, v.NeedsReboot(), "a staged version waits for a reboot")
	require.Equal(t, map[string]string{"incus": "202610150000"}, v.Outdated(newer), "the staged version counts")
	v.OS.VersionNext, v.OS.NeedsReboot = v.OS.Version, false
	require.False(t, v.NeedsReboot(), "the same version twice is none that waits")
	v.OS.NeedsReboot = true
	require.True(t, v.NeedsReboot(), "the server's own word counts")

	require.Empty(t, v.Outdated(map[string]string{"os": "202609010000", "incus": "202610010000"}), "older and equal ones are no updates")
	require.Equal(t, map[string]string{"os": "1202608010000"}, v.Outdated(map[string]string{"os": "1202608010000"}), "versions order as numbers, and not as text")
	plain := opscenter.Versions{OS: opscenter.OSVersion{Name: "Debian GNU/Linux", Version: "12"}, Applications: []opscenter.ApplicationVersion{{Name: "incus", Version: "6.0.4", Primary: true}}}
	require.Empty(t, plain.Outdated(newer), "an Incus without IncusOS has nothing to update here")

	for name, want := range map[string]opscenter.ServerType{"incus": opscenter.TypeIncus, "incus-lts-6.0": opscenter.TypeIncus, "incus-lts-7.0": opscenter.TypeIncus,
		"migration-manager": opscenter.TypeMigrationManager, "operations-center": opscenter.TypeOperationsCenter, "incus-ceph": opscenter.TypeUnknown, "": opscenter.TypeUnknown, "x": opscenter.TypeUnknown} {
		require.Equal(t, want, opscenter.TypeOfApplication(name), name)
	}
}

// A server that is not on IncusOS is not managed, whatever it is like, but for its instances that are away.
func TestRecommendPlain(t *testing.T) {
	for bits := range 8 {
		c := opscenter.Condition{Type: opscenter.TypeIncus, Status: opscenter.StatusReady, Plain: true, NeedsUpdate: bits&1 != 0, NeedsReboot: bits&2 != 0}
		if bits&4 != 0 {
			c.Maintenance = opscenter.MaintenanceEvacuated
			require.Equal(t, opscenter.ActionRestore, opscenter.Recommend(c).Action)
			continue
		}
		got := opscenter.Recommend(c)
		require.Equal(t, opscenter.ActionNone, got.Action)
		require.Equal(t, opscenter.UpdateStateNotManaged, got.UpdateState)
		require.Contains(t, got.Reason, "not on IncusOS")
	}
}
