package lifecycle

import (
	"fmt"
	"slices"

	"github.com/opscenter-go/sdk/opscenter/event"
)

// takeOver stores the values that were read. The others stay as they were.
func (t *Transition) takeOver(o Observation) {
	next := &t.State
	if o.Type != nil && *o.Type != next.Type {
		if next.Type != "" && next.Type != TypeUnknown {
			t.addEvent(o.At, event.TypeChanged, fmt.Sprintf("the primary application makes it %s, it was %s", *o.Type, next.Type))
		}
		next.Type = *o.Type
	}
	if o.Versions != nil {
		next.Versions = o.Versions.keepUnread(next.Versions, o.UnreadVersions)
		if next.Versions.OS.Plain {
			next.Update, next.UpdateStatus = nil, nil
		}
	}
	if o.MemberName != nil {
		if *o.MemberName != "" {
			next.Stopped = nil // from now on its cluster starts them
		}
		switch before := next.MemberName; {
		case *o.MemberName == before:
		case *o.MemberName == "":
			t.addEvent(o.At, event.ClusterDiscovered, fmt.Sprintf("is in no Incus cluster any more, was member %s of one", before))
		default:
			t.addEvent(o.At, event.ClusterDiscovered, fmt.Sprintf("is member %s of an Incus cluster", *o.MemberName))
		}
		next.MemberName = *o.MemberName
	}
	if o.Maintenance != nil && next.Stopped == nil {
		// Only the control plane knows that a standalone server is evacuated: Incus does not.
		next.Maintenance = *o.Maintenance
		if !slices.Equal(next.MemberRoles, o.MemberRoles) || (next.MemberRoles == nil) != (o.MemberRoles == nil) {
			next.MemberRoles = o.MemberRoles
		}
	}
	if o.Update != nil && (next.Update == nil || *next.Update != *o.Update) {
		if before := next.Update; before != nil {
			t.addEvent(o.At, event.UpdateSettings, fmt.Sprintf("updates itself as %s, was %s", o.Update, before))
		}
		next.Update = o.Update
	}
	if s := o.UpdateStatus; s != nil && (next.UpdateStatus == nil || next.UpdateStatus.Status != s.Status || !next.UpdateStatus.LastCheck.Equal(s.LastCheck)) {
		next.UpdateStatus = s
	}
	if next.KeyWaits && o.Versions != nil && o.UnreadVersions == 0 && (!next.Versions.NeedsReboot() || next.Versions.OS.StagedVersion() != "") {
		next.KeyWaits = false // the server has booted
	}
	if o.Architecture != "" {
		next.Architecture = o.Architecture
	}
	if o.SystemStateTrusted != nil {
		next.SystemStateTrusted = *o.SystemStateTrusted
	}
}
