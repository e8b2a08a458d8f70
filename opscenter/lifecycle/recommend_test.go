package lifecycle_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
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
	for _, kind := range append(lifecycle.ServerTypes, "") {
		for _, status := range append(lifecycle.Statuses, "") {
			for _, detail := range append(lifecycle.StatusDetails, lifecycle.DetailNone) {
				for maintenance := lifecycle.NotInMaintenance; maintenance <= lifecycle.MaintenanceRestoring; maintenance++ {
					for bits := range 4 {
						c := lifecycle.Condition{Type: kind, Status: status, StatusDetail: detail, Maintenance: maintenance, NeedsUpdate: bits&1 != 0, NeedsReboot: bits&2 != 0}
						got := lifecycle.Recommend(c)
						n++
						want := lifecycle.ActionNone
						idle := status == lifecycle.StatusReady && detail == lifecycle.DetailNone &&
							(maintenance == lifecycle.NotInMaintenance || maintenance == lifecycle.MaintenanceEvacuated)
						if idle {
							want = fromTable(t, rows[[3]bool{c.NeedsUpdate, c.NeedsReboot, maintenance == lifecycle.MaintenanceEvacuated}], kind)
						}
						require.Equal(t, want, got.Action, "%+v", c)
						require.NotEmpty(t, got.Rule, "%+v", c)
						require.NotEmpty(t, got.Reason, "%+v", c)
						require.NotEmpty(t, got.UpdateState, "%+v", c)
						if idle {
							require.Equal(t, fmt.Sprintf("needs update %t, needs reboot %t, in maintenance %t", c.NeedsUpdate, c.NeedsReboot, maintenance == lifecycle.MaintenanceEvacuated), got.Rule)
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
func fromTable(t *testing.T, cell string, kind lifecycle.ServerType) lifecycle.Action {
	switch cell {
	case "<none>":
		return lifecycle.ActionNone
	case "update", "reboot":
		return lifecycle.Action(cell)
	case "if `type == \"incus\"`: \"evacuate\" else \"reboot\"":
		if kind == lifecycle.TypeIncus {
			return lifecycle.ActionEvacuate
		}
		return lifecycle.ActionReboot
	case "restore":
		if kind == lifecycle.TypeIncus {
			return lifecycle.ActionRestore
		}
		return lifecycle.ActionNone
	}
	t.Fatalf("the test does not know the cell %q", cell)
	return ""
}

func TestUpdateStates(t *testing.T) {
	ready := lifecycle.Condition{Type: lifecycle.TypeIncus, Status: lifecycle.StatusReady}
	with := func(change func(*lifecycle.Condition)) lifecycle.Condition {
		c := ready
		change(&c)
		return c
	}
	for want, c := range map[lifecycle.UpdateState]lifecycle.Condition{
		lifecycle.UpdateStateUpToDate:   ready,
		lifecycle.UpdateStatePending:    with(func(c *lifecycle.Condition) { c.NeedsUpdate = true }),
		lifecycle.UpdateStateUpdating:   with(func(c *lifecycle.Condition) { c.StatusDetail = lifecycle.DetailUpdatingApplication }),
		lifecycle.UpdateStateEvacuation: with(func(c *lifecycle.Condition) { c.NeedsReboot = true }),
		lifecycle.UpdateStateRebootPending: with(func(c *lifecycle.Condition) {
			c.NeedsReboot, c.Type = true, lifecycle.TypeMigrationManager
		}),
		lifecycle.UpdateStateEvacuating:     with(func(c *lifecycle.Condition) { c.Maintenance = lifecycle.MaintenanceEvacuating }),
		lifecycle.UpdateStateEvacuatedBoot:  with(func(c *lifecycle.Condition) { c.NeedsReboot, c.Maintenance = true, lifecycle.MaintenanceEvacuated }),
		lifecycle.UpdateStateRestorePending: with(func(c *lifecycle.Condition) { c.Maintenance = lifecycle.MaintenanceEvacuated }),
		lifecycle.UpdateStateRestoring:      with(func(c *lifecycle.Condition) { c.StatusDetail = lifecycle.DetailRestoring }),
		lifecycle.UpdateStateRebooting: with(func(c *lifecycle.Condition) {
			c.Status, c.StatusDetail = lifecycle.StatusOffline, lifecycle.DetailRebooting
		}),
		lifecycle.UpdateStateEvacuatedReset: with(func(c *lifecycle.Condition) {
			c.Status, c.StatusDetail, c.Maintenance = lifecycle.StatusOffline, lifecycle.DetailRebooting, lifecycle.MaintenanceEvacuated
		}),
		lifecycle.UpdateStateUndefined: {},
	} {
		require.Equal(t, want, lifecycle.Recommend(c).UpdateState, "%+v", c)
	}
}

// A server that is not on IncusOS is not managed, whatever it is like, but for its instances that are away.
func TestRecommendPlain(t *testing.T) {
	for bits := range 8 {
		c := lifecycle.Condition{Type: lifecycle.TypeIncus, Status: lifecycle.StatusReady, Plain: true, NeedsUpdate: bits&1 != 0, NeedsReboot: bits&2 != 0}
		if bits&4 != 0 {
			c.Maintenance = lifecycle.MaintenanceEvacuated
			require.Equal(t, lifecycle.ActionRestore, lifecycle.Recommend(c).Action)
			continue
		}
		got := lifecycle.Recommend(c)
		require.Equal(t, lifecycle.ActionNone, got.Action)
		require.Equal(t, lifecycle.UpdateStateNotManaged, got.UpdateState)
		require.Contains(t, got.Reason, "not on IncusOS")
	}
}

// TestRecommendedReason: the recommendation for a server names the versions that it is about.
func TestRecommendedReason(t *testing.T) {
	application := []lifecycle.ApplicationVersion{{Name: "incus", Version: "1"}, {Name: "debug", Version: "0"}}
	state := func(os lifecycle.OSVersion) lifecycle.ServerState {
		os.Name = lifecycle.OSName
		return lifecycle.ServerState{Type: lifecycle.TypeIncus, Status: lifecycle.StatusReady, StatusReason: "answers", Versions: lifecycle.Versions{OS: os, Applications: application}}
	}
	offered := map[string]string{"os": "2", "incus": "2", "debug": "2"}
	current := state(lifecycle.OSVersion{Version: "1"})
	got := current.Recommend(offered)
	require.Equal(t, lifecycle.ActionUpdate, got.Action)
	require.Contains(t, got.Reason, "debug 0 → 2; incus, os 1 → 2: a newer version is available")

	staged := state(lifecycle.OSVersion{Version: "1", VersionNext: "2", NeedsReboot: true})
	got = staged.Recommend(map[string]string{"os": "2"})
	require.Equal(t, lifecycle.ActionEvacuate, got.Action)
	require.Contains(t, got.Reason, "os 2 is staged over 1: a reboot is required")

	backup := state(lifecycle.OSVersion{Version: "1", VersionNext: "2", BackupImage: true})
	got = backup.Recommend(map[string]string{"os": "2"})
	require.Equal(t, lifecycle.ActionNone, got.Action)
	require.Contains(t, got.Reason, "runs os 1 from its backup image, 2 did not boot and is skipped")

	key := state(lifecycle.OSVersion{Version: "1", NeedsReboot: true})
	key.KeyWaits = true
	got = key.Recommend(offered)
	require.Equal(t, lifecycle.ActionEvacuate, got.Action, "no update goes on before the reboot")
	require.Contains(t, got.Reason, "a Secure Boot key waits for a reboot")

	down := state(lifecycle.OSVersion{Version: "1"})
	down.Status, down.StatusReason = lifecycle.StatusOffline, "3 polls failed in a row"
	got = down.Recommend(offered)
	require.Equal(t, lifecycle.ActionNone, got.Action)
	require.Contains(t, got.Reason, "the server is offline (not ready): 3 polls failed in a row")
}
