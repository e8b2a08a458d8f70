package incusostest

// Trouble is something that goes wrong with a server on its way through an update.
type Trouble string

const (
	TroubleNone Trouble = ""
	// TroubleEvacuation: the evacuation fails, with an instance that can't be moved.
	TroubleEvacuation Trouble = "evacuation-fails"
	// TroubleRestore: the restore fails.
	TroubleRestore Trouble = "restore-fails"
	// TroubleReboot: the server does not come back from a reboot until the trouble is over.
	TroubleReboot Trouble = "reboot-never-returns"
	// TroubleVersion: the version that was staged does not boot; the server comes back on its
	// backup image, which has the version it had.
	TroubleVersion Trouble = "returns-on-old-version"
	// TroubleUpdate: the server is asked to update, and does nothing.
	TroubleUpdate Trouble = "update-does-nothing"
	// TroubleDownload: the check for updates fails, and the server says so.
	TroubleDownload Trouble = "update-fails"
	// TroubleApplication: an application can't be updated. The server goes on with the OS, and says
	// in the end that the check was completed, as IncusOS does.
	TroubleApplication Trouble = "application-update-fails"
	// TroubleReset: the server is asked for a factory reset, and comes back as it was.
	TroubleReset Trouble = "reset-does-nothing"
)

// Troubles lists all but none.
var Troubles = []Trouble{TroubleEvacuation, TroubleRestore, TroubleReboot, TroubleVersion, TroubleUpdate, TroubleDownload, TroubleApplication, TroubleReset}

// SetTrouble makes something go wrong from now on, or nothing any more; a server that did not
// come back from a reboot does then.
func (s *Server) SetTrouble(trouble Trouble) {
	s.mu.Lock()
	back := s.trouble == TroubleReboot && s.off && s.rebooting
	s.trouble = trouble
	s.mu.Unlock()
	if back && trouble != TroubleReboot {
		s.later(0, s.PowerOn)
	}
}

func (s *Server) has(trouble Trouble) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trouble == trouble
}
