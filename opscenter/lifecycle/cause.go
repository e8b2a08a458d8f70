package lifecycle

// Cause tells why a server sends a self update. The names are those of Operations Center's API.
type Cause string

const (
	CauseNetworkConfigChanged         Cause = "network-config-changed" // a self update without a cause has this one
	CauseSystemIsReady                Cause = "system-is-ready"
	CauseOSUpdateApplied              Cause = "os-update-applied"
	CauseApplicationUpdateApplied     Cause = "application-update-applied"
	CauseNetworkInterfaceStateChanged Cause = "network-interface-state-changed"
	CauseStorageConfigChanged         Cause = "storage-config-changed"
	CauseSystemRebootTriggered        Cause = "system-reboot-triggered"
	CauseSystemShutdownTriggered      Cause = "system-shutdown-triggered"
	CauseSuspendTriggered             Cause = "suspend-triggered"
	CauseSecureBootUpdateApplied      Cause = "secure-boot-update-applied"
)

// Causes lists all causes.
var Causes = []Cause{CauseNetworkConfigChanged, CauseSystemIsReady, CauseOSUpdateApplied, CauseApplicationUpdateApplied,
	CauseNetworkInterfaceStateChanged, CauseStorageConfigChanged, CauseSystemRebootTriggered, CauseSystemShutdownTriggered,
	CauseSuspendTriggered, CauseSecureBootUpdateApplied}

// GoesDown reports whether the server is about to be down.
func (c Cause) GoesDown() bool {
	return c == CauseSystemRebootTriggered || c == CauseSystemShutdownTriggered || c == CauseSuspendTriggered
}

// Known reports whether the cause is one of Causes.
func (c Cause) Known() bool {
	for _, known := range Causes {
		if c == known {
			return true
		}
	}
	return false
}
