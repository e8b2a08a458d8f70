package lifecycle

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// UpdateState is where a server stands in an update. The names are those of Operations Center.
type UpdateState string

const (
	UpdateStateUndefined      UpdateState = "undefined"
	UpdateStateUpToDate       UpdateState = "up to date"
	UpdateStatePending        UpdateState = "update pending"
	UpdateStateUpdating       UpdateState = "updating"
	UpdateStateEvacuation     UpdateState = "evacuation pending"
	UpdateStateEvacuating     UpdateState = "evacuating"
	UpdateStateEvacuatedBoot  UpdateState = "in maintenance, reboot pending"
	UpdateStateEvacuatedReset UpdateState = "in maintenance, rebooting"
	UpdateStateRestorePending UpdateState = "in maintenance, restore pending"
	UpdateStateRestoring      UpdateState = "restoring"
	UpdateStateRebootPending  UpdateState = "reboot pending"
	UpdateStateRebooting      UpdateState = "rebooting"
	// UpdateStateNotManaged is the state of servers that are not on IncusOS. Operations Center has no such state.
	UpdateStateNotManaged UpdateState = "not managed"
)

// Condition is all that a recommendation depends on.
type Condition struct {
	Type         ServerType
	Status       Status
	StatusDetail StatusDetail
	NeedsUpdate  bool
	NeedsReboot  bool
	Maintenance  MaintenanceState
	// Plain: the server is not on IncusOS, see OSVersion.Plain.
	Plain bool
}

// Recommendation is the next action for a server, and the reason for it.
type Recommendation struct {
	Action      Action
	UpdateState UpdateState
	// Rule names the row of the tables that matched, or the check before the tables that did: "not ready", "in progress" or
	// "not managed".
	Rule string
	// Reason tells operators which rule matched which facts.
	Reason string
}

// Recommend returns the recommended action for a server in that condition. It is pure.
//
// No action is recommended for a server that is not ready, or that an action is under way on. For the others the two tables
// of Operations Center's documentation decide (reference/server.md, section "Update Operating System"). The actions
// evacuate and restore are recommended for type incus only. The operating system of a server that is not on IncusOS is not
// managed: such a server is restored, but never updated, evacuated or rebooted.
func Recommend(c Condition) Recommendation {
	if c.Status != StatusReady {
		return notReady(c)
	}
	if r, ok := inProgress(c); ok {
		return r
	}
	evacuated := c.Maintenance == MaintenanceEvacuated
	incus := c.Type == TypeIncus
	rule := fmt.Sprintf("needs update %t, needs reboot %t, in maintenance %t", c.NeedsUpdate, c.NeedsReboot, evacuated)
	switch {
	case c.Plain && evacuated && incus:
		return c.recommend(ActionRestore, UpdateStateRestorePending, rule, "its instances are away")
	case c.Plain:
		return c.recommend(ActionNone, UpdateStateNotManaged, "not managed", "the server is not on IncusOS")
	case c.NeedsUpdate:
		return c.recommend(ActionUpdate, UpdateStatePending, rule, "a newer version is available")
	case c.NeedsReboot && evacuated:
		return c.recommend(ActionReboot, UpdateStateEvacuatedBoot, rule, "a reboot is required, and its instances are away")
	case c.NeedsReboot && incus:
		return c.recommend(ActionEvacuate, UpdateStateEvacuation, rule, "a reboot is required, and type incus is evacuated before")
	case c.NeedsReboot:
		return c.recommend(ActionReboot, UpdateStateRebootPending, rule, fmt.Sprintf("a reboot is required, and type %s is not evacuated before", c.typeName()))
	case evacuated && incus:
		return c.recommend(ActionRestore, UpdateStateRestorePending, rule, "nothing is left to do, and its instances are away")
	case evacuated:
		return c.recommend(ActionNone, UpdateStateUndefined, rule, fmt.Sprintf("restore is not available for type %s", c.typeName()))
	}
	return c.recommend(ActionNone, UpdateStateUpToDate, rule, "everything is up to date")
}

func (c Condition) recommend(action Action, state UpdateState, rule, why string) Recommendation {
	return Recommendation{Action: action, UpdateState: state, Rule: rule, Reason: fmt.Sprintf("%s (%s)", why, rule)}
}

func (c Condition) typeName() ServerType {
	if c.Type == "" {
		return TypeUnknown
	}
	return c.Type
}

func notReady(c Condition) Recommendation {
	state := UpdateStateUndefined
	if c.Status == StatusOffline && c.StatusDetail == DetailRebooting {
		state = UpdateStateRebooting
		if c.Maintenance == MaintenanceEvacuated {
			state = UpdateStateEvacuatedReset
		}
	}
	status := c.Status
	if status == "" {
		status = StatusUnknown
	}
	return c.recommend(ActionNone, state, "not ready", "the server is "+Describe(status, c.StatusDetail))
}

func inProgress(c Condition) (Recommendation, bool) {
	var state UpdateState
	doing := string(c.StatusDetail)
	switch c.StatusDetail {
	case DetailUpdating, DetailUpdatingApplication:
		state = UpdateStateUpdating
	case DetailEvacuating:
		state = UpdateStateEvacuating
	case DetailRestoring:
		state = UpdateStateRestoring
	case DetailNone:
		switch c.Maintenance {
		case MaintenanceEvacuating:
			state, doing = UpdateStateEvacuating, "evacuating"
		case MaintenanceRestoring:
			state, doing = UpdateStateRestoring, "restoring"
		default:
			return Recommendation{}, false
		}
	default: // the server is back, but the call that took it down has not returned
		state = UpdateStateUndefined
	}
	return c.recommend(ActionNone, state, "in progress", "the server is "+doing), true
}

// Recommend returns the recommended action for a server whose channel offers these versions, by component. The reason names
// the versions.
func (s *ServerState) Recommend(available map[string]string) Recommendation {
	outdated := s.Versions.Outdated(available)
	return s.explainVersions(Recommend(s.condition(outdated)), outdated)
}

// condition returns what a recommendation for the server depends on.
func (s *ServerState) condition(outdated map[string]string) Condition {
	return Condition{
		Type:         s.Type,
		Status:       s.Status,
		StatusDetail: s.StatusDetail,
		NeedsUpdate:  len(outdated) > 0 && !s.waitsForKey(), // no update goes on before the reboot for the key
		NeedsReboot:  s.Versions.NeedsReboot(),
		Maintenance:  s.Maintenance,
		Plain:        s.Versions.OS.Plain,
	}
}

// waitsForKey reports whether a Secure Boot key waits for a reboot.
func (s *ServerState) waitsForKey() bool { return s.KeyWaits && s.Versions.NeedsReboot() }

// explainVersions adds to the reason of a recommendation the versions that it is about.
func (s *ServerState) explainVersions(r Recommendation, outdated map[string]string) Recommendation {
	switch {
	case r.Rule == "not ready" || r.Rule == "in progress":
		if s.StatusReason != "" {
			r.Reason += ": " + s.StatusReason
		}
	case s.waitsForKey() && r.Action != ActionNone:
		r.Reason = "a Secure Boot key waits for a reboot, and updates go on after it: " + r.Reason
	case r.Action == ActionUpdate:
		r.Reason = s.Versions.describeOutdated(outdated) + ": " + r.Reason
	case s.Versions.OS.StagedVersion() != "":
		r.Reason = fmt.Sprintf("os %s is staged over %s: %s", s.Versions.OS.StagedVersion(), s.Versions.OS.Version, r.Reason)
	case s.Versions.OS.BackupImage:
		r.Reason = fmt.Sprintf("runs os %s from its backup image, %s did not boot and is skipped: %s", s.Versions.OS.Version, s.Versions.OS.VersionNext, r.Reason)
	}
	return r
}

// describeOutdated names the components to update, with their versions: "incus, os 1 → 2".
func (v Versions) describeOutdated(outdated map[string]string) string {
	components := map[string][]string{} // by the step, as "1 → 2"
	var steps []string
	for _, component := range slices.Sorted(maps.Keys(outdated)) {
		have, _ := v.Staged(component)
		step := have + " → " + outdated[component]
		if components[step] == nil {
			steps = append(steps, step)
		}
		components[step] = append(components[step], component)
	}
	for i, step := range steps {
		steps[i] = strings.Join(components[step], ", ") + " " + step
	}
	return strings.Join(steps, "; ")
}
