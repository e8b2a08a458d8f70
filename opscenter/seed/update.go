package seed

import (
	"fmt"
	"slices"
	"time"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// Update configures automatic updates. Without this file, and without stored settings, the server checks its channel stable
// every six hours.
type Update struct {
	Version Version `json:"version"`
	// AutoReboot lets the server reboot into an update by itself.
	AutoReboot bool `json:"auto_reboot"`
	// Channel of the updates.
	Channel string `json:"channel,omitempty"`
	// CheckFrequency is a duration such as 6h, or CheckNever. A server without a primary application checks in any case.
	CheckFrequency string `json:"check_frequency,omitempty"`
	// MaintenanceWindows are the times at which updates are allowed; empty: at any time.
	MaintenanceWindows []MaintenanceWindow `json:"maintenance_windows,omitempty"`
}

// CheckNever is the Update.CheckFrequency of a server that checks for updates only on request.
const CheckNever = "never"

// MaintenanceWindow is a time in which the server may update itself, from start to end. Days are English names; without days
// the window recurs daily.
type MaintenanceWindow struct {
	StartDayOfWeek string `json:"start_day_of_week,omitempty"`
	StartHour      int    `json:"start_hour"`
	StartMinute    int    `json:"start_minute"`
	EndDayOfWeek   string `json:"end_day_of_week,omitempty"`
	EndHour        int    `json:"end_hour"`
	EndMinute      int    `json:"end_minute"`
}

// ManagedUpdate returns the settings for a server whose control plane starts updates and reboots. See
// lifecycle.ManagedUpdates.
func ManagedUpdate(channel string) *Update {
	s := lifecycle.ManagedUpdates(channel)
	return &Update{AutoReboot: s.AutoReboot, Channel: s.Channel, CheckFrequency: s.CheckFrequency}
}

// weekdays are the accepted names of days.
var weekdays = []string{"", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"}

func (u *Update) validate(v *validation) {
	if f := u.CheckFrequency; f != "" && f != CheckNever {
		if d, err := time.ParseDuration(f); err != nil || d <= 0 {
			v.add("check_frequency", "%s is neither a duration such as 6h nor %s", shown(f), CheckNever)
		}
	}
	if len(u.Channel) > maxText {
		v.add("channel", "%s is not the name of a channel", shown(u.Channel))
	}
	for i, w := range u.MaintenanceWindows {
		field := fmt.Sprintf("maintenance_windows[%d]", i)
		for name, day := range map[string]string{"start_day_of_week": w.StartDayOfWeek, "end_day_of_week": w.EndDayOfWeek} {
			if !slices.Contains(weekdays, day) {
				v.add(field+"."+name, "%s is not a day such as Monday", shown(day))
			}
		}
		if (w.StartDayOfWeek == "") != (w.EndDayOfWeek == "") {
			v.add(field, "both days must be set, or neither")
		}
		for name, hour := range map[string]int{"start_hour": w.StartHour, "end_hour": w.EndHour} {
			if hour < 0 || hour > 23 {
				v.add(field+"."+name, "%d is not in the range 0 to 23", hour)
			}
		}
		for name, minute := range map[string]int{"start_minute": w.StartMinute, "end_minute": w.EndMinute} {
			if minute < 0 || minute > 59 {
				v.add(field+"."+name, "%d is not in the range 0 to 59", minute)
			}
		}
		if w.StartDayOfWeek != "" && w.StartDayOfWeek == w.EndDayOfWeek && w.EndHour*60+w.EndMinute < w.StartHour*60+w.StartMinute {
			v.add(field, "it ends before it begins")
		}
	}
}
