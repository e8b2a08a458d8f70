package lifecycle

import "time"

// Stopped are instances that an evacuation stopped, and that a restore starts again.
type Stopped struct {
	At        time.Time
	Instances []Instance
}

// Instance names an instance of an Incus server.
type Instance struct {
	Project, Name string
}
