package lifecycle

// Action is an operation on a server. Plans and rollouts use those up to ActionPowerOff.
type Action string

const (
	// ActionNone: there is nothing to do.
	ActionNone Action = ""
	// ActionUpdate updates the operating system and the applications.
	ActionUpdate Action = "update"
	// ActionEvacuate moves the instances of a server away, or stops them if it is in no cluster. It exists for TypeIncus only.
	ActionEvacuate Action = "evacuate"
	// ActionReboot reboots the operating system.
	ActionReboot Action = "reboot"
	// ActionRestore brings the instances back that an evacuation took away. It exists for TypeIncus only.
	ActionRestore Action = "restore"
	// ActionPowerOff shuts the server down. It is never recommended.
	ActionPowerOff Action = "poweroff"
	// ActionSuspend suspends the server to memory, until the operator wakes it.
	ActionSuspend Action = "suspend"
	// ActionReconfigure changes the server's configuration, its network above all.
	ActionReconfigure Action = "reconfigure"
	// ActionFactoryReset installs the server anew: it registers again, with another certificate.
	ActionFactoryReset Action = "factory-reset"
)
