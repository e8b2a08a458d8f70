package lifecycle

// MaintenanceState tells whether the instances of an Incus server have been moved away or stopped. The numbers are those
// of Operations Center's API.
type MaintenanceState int

const (
	NotInMaintenance MaintenanceState = iota
	MaintenanceEvacuating
	MaintenanceEvacuated
	MaintenanceRestoring
)

// String returns the name as operators read it.
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
