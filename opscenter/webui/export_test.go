package webui

import "time"

// SetHeartbeat changes the time between two signs of life of the streams that begin after it.
func (h *Handler) SetHeartbeat(d time.Duration) { h.heartbeat = d }

// Paths returns the paths of all pages and of all actions.
func Paths() (shown, sent []string) {
	for _, p := range pages {
		shown = append(shown, p.path)
	}
	for _, a := range actions {
		sent = append(sent, a.path)
	}
	return shown, sent
}

// Indented is indented.
var Indented = indented

// MaxShown is maxShown.
const MaxShown = maxShown
