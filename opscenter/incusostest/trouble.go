package incusostest

// Trouble is a failure of a server in an action or an update.
type Trouble string

const (
	// TroubleNone is no trouble.
	TroubleNone Trouble = ""
	// TroubleEvacuation makes evacuations fail, with an instance that can't be moved.
	TroubleEvacuation Trouble = "evacuation-fails"
	// TroubleRestore makes restores fail.
	TroubleRestore Trouble = "restore-fails"
	// TroubleReboot keeps the server down after a reboot, until the trouble ends.
	TroubleReboot Trouble = "reboot-never-returns"
	// TroubleVersion makes the staged version fail to boot. The server comes back with its old version, from the
	// backup image.
	TroubleVersion Trouble = "returns-on-old-version"
	// TroubleUpdate makes the server accept update commands, and do nothing.
	TroubleUpdate Trouble = "update-does-nothing"
	// TroubleDownload makes checks for updates fail. The server reports that.
	TroubleDownload Trouble = "update-fails"
	// TroubleApplication makes updates of applications fail. The server updates its OS, and reports a completed check,
	// like IncusOS.
	TroubleApplication Trouble = "application-update-fails"
	// TroubleReset makes a factory reset only reboot the server.
	TroubleReset Trouble = "reset-does-nothing"
)

// Troubles lists all troubles except TroubleNone.
var Troubles = []Trouble{TroubleEvacuation, TroubleRestore, TroubleReboot, TroubleVersion, TroubleUpdate, TroubleDownload, TroubleApplication, TroubleReset}

// SetTrouble sets the trouble of the server, and replaces an earlier one. TroubleNone ends it. A server that
// TroubleReboot kept down then boots.
func (s *Server) SetTrouble(trouble Trouble) {
	s.mu.Lock()
	back := s.trouble == TroubleReboot && s.off && s.rebooting
	s.trouble = trouble
	s.mu.Unlock()
	if back && trouble != TroubleReboot {
		s.later(0, s.PowerOn)
	}
}

func (s *Server) hasTrouble(trouble Trouble) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trouble == trouble
}
