package lifecycle

// MaintenanceState tells whether an Incus server's instances have been moved away. The
// numbers are those of Operations Center's API.
type MaintenanceState int

const (
	NotInMaintenance MaintenanceState = iota
	MaintenanceEvacuating
	MaintenanceEvacuated
	MaintenanceRestoring
)

// String returns the name for people.
func (m MaintenanceState) String() string {
	switch m {
	case MaintenanceEvacuating:
		return "evacuating"
	case MaintenanceEvacuated:
		return "evacuated"
	case MaintenanceRestoring:
		return "restoring"
	}
	return "not in maintenance"
}
