package webui

import "time"

// SetHeartbeat changes the time between two signs of life of the streams that begin after it.
func (h *Handler) SetHeartbeat(d time.Duration) { h.heartbeat = d }

// ForgetFleet ends the index of the fleet, as after a long time without a page.
func (h *Handler) ForgetFleet() {
	h.fleet.mu.Lock()
	run := h.fleet.run
	h.fleet.run = nil
	h.fleet.mu.Unlock()
	if run != nil {
		run.stop()
		<-run.ended
	}
}

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
