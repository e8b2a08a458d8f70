package lifecycle

// Action is an operation on a server. Plans and rollouts use the actions from ActionUpdate to ActionPowerOff.
type Action string

const (
	// ActionNone: there is nothing to do.
	ActionNone Action = ""
	// ActionUpdate updates the operating system and the applications.
	ActionUpdate Action = "update"
	// ActionEvacuate moves the instances of a server to other members of its cluster. On a server that is in no cluster
	// it stops them. It exists for TypeIncus only.
	ActionEvacuate Action = "evacuate"
	// ActionReboot reboots the operating system.
	ActionReboot Action = "reboot"
	// ActionRestore brings back the instances that an evacuation moved or stopped. It exists for TypeIncus only.
	ActionRestore Action = "restore"
	// ActionPowerOff shuts the server down. It is never recommended.
	ActionPowerOff Action = "poweroff"
	// ActionSuspend suspends the server to memory, until the operator wakes it.
	ActionSuspend Action = "suspend"
	// ActionReconfigure changes the server's configuration, usually that of its network.
	ActionReconfigure Action = "reconfigure"
	// ActionFactoryReset installs the server anew. The server then registers again, with another certificate.
	ActionFactoryReset Action = "factory-reset"
)
