package client

import (
	"encoding/json"
	"time"

	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/network"
	"github.com/opscenter-go/sdk/opscenter/rolling"
)

// The documents have the fields of the API under their names. The description at /1.0/openapi.json has all fields, with their units and
// defaults. A test compares both.

// API is the document of GET /1.0: the version, and the principal of the client.
type API struct {
	Version   string      `json:"server_version"`
	Auth      string      `json:"auth"` // untrusted, trusted, tls or unix
	Principal string      `json:"principal"`
	Role      access.Role `json:"role"` // empty: the client is not trusted
}

// Server is a server, with its recommended action and the reason.
type Server struct {
	Name                string            `json:"name"`
	ConnectionURL       string            `json:"connection_url"`
	PublicConnectionURL string            `json:"public_connection_url"`
	SystemUUID          string            `json:"system_uuid"`
	MachineID           string            `json:"machine_id"`
	Channel             string            `json:"channel"`
	Description         string            `json:"description"`
	Properties          map[string]string `json:"properties"`
	Fingerprint         string            `json:"fingerprint"`
	ServedFingerprint   string            `json:"served_fingerprint"`
	// Presented is the fingerprint of a certificate that the server presented and that is not accepted.
	Presented    string                 `json:"presented_fingerprint"`
	Cluster      string                 `json:"cluster"`
	MemberName   string                 `json:"member_name"`
	MemberRoles  []string               `json:"member_roles"`
	Type         lifecycle.ServerType   `json:"server_type"`
	Hardware     json.RawMessage        `json:"hardware_data,omitempty"`
	OS           json.RawMessage        `json:"os_data,omitempty"`
	Versions     Versions               `json:"version_data"`
	Status       lifecycle.Status       `json:"server_status"`
	StatusDetail lifecycle.StatusDetail `json:"server_status_detail"`
	StatusReason string                 `json:"server_status_reason"`
	LastUpdated  time.Time              `json:"last_updated"`
	LastSeen     time.Time              `json:"last_seen"`
	Trusted      bool                   `json:"system_state_is_trusted"`
	Action       lifecycle.Action       `json:"recommended_action"`
	ActionReason string                 `json:"recommended_action_reason"`
	UpdateState  lifecycle.UpdateState  `json:"update_state"`
}

// Versions are the versions that a server runs, and those that its channel offers.
type Versions struct {
	OS            OSVersion                  `json:"os"`
	Applications  []ApplicationVersion       `json:"applications"`
	UpdateChannel string                     `json:"update_channel"`
	NeedsUpdate   bool                       `json:"needs_update"`
	NeedsReboot   bool                       `json:"needs_reboot"`
	InMaintenance lifecycle.MaintenanceState `json:"in_maintenance"`
}

// OSVersion is the version of the operating system.
type OSVersion struct {
	Name             string `json:"name"`
	Version          string `json:"version"`
	VersionNext      string `json:"version_next"` // runs after the next boot
	AvailableVersion string `json:"available_version,omitempty"`
	BackupImage      bool   `json:"backup_image"` // because VersionNext did not boot
	NeedsReboot      bool   `json:"needs_reboot"`
	NeedsUpdate      bool   `json:"needs_update"`
}

// ApplicationVersion is the version of an application.
type ApplicationVersion struct {
	Name             string `json:"name"`
	Version          string `json:"version"`
	AvailableVersion string `json:"available_version,omitempty"`
	NeedsUpdate      bool   `json:"needs_update"`
}

// Cluster is a cluster, with the updates due and under way.
type Cluster struct {
	Name          string            `json:"name"`
	Description   string            `json:"description"`
	Properties    map[string]string `json:"properties"`
	ConnectionURL string            `json:"connection_url"`
	Channel       string            `json:"channel"`
	Status        string            `json:"status"`
	Fingerprint   string            `json:"fingerprint"`
	ServerNames   []string          `json:"server_names"`
	UpdateStatus  ClusterUpdates    `json:"update_status"`
	LastUpdated   time.Time         `json:"last_updated"`
}

// ClusterUpdates are the members of a cluster for which something is due, and the operation under way.
type ClusterUpdates struct {
	NeedsUpdate   []string         `json:"needs_update"`
	NeedsReboot   []string         `json:"needs_reboot"`
	InMaintenance []string         `json:"in_maintenance"`
	InProgress    ClusterOperation `json:"in_progress_status"`
}

// ClusterOperation is the operation of a cluster.
type ClusterOperation struct {
	InProgress  string `json:"in_progress"`
	Description string `json:"status_description"`
	Error       string `json:"error"`
	Rollout     string `json:"rollout,omitempty"` // its path
}

// Warning is a problem that lasts.
type Warning struct {
	UUID            string       `json:"uuid"`
	Status          string       `json:"status"` // new or acknowledged
	Scope           WarningScope `json:"scope"`
	Type            string       `json:"type"`
	FirstOccurrence time.Time    `json:"first_occurrence"`
	LastOccurrence  time.Time    `json:"last_occurrence"`
	Messages        []string     `json:"messages"`
	Count           int          `json:"count"`
}

// WarningScope is the subject of a warning.
type WarningScope struct {
	EntityType string `json:"entity_type"`
	Entity     string `json:"entity"`
}

// Event is a decision or a change, with its reason.
type Event struct {
	Sequence uint64    `json:"sequence"`
	At       time.Time `json:"at"`
	Type     string    `json:"type"`
	Server   string    `json:"server,omitempty"`
	Cluster  string    `json:"cluster,omitempty"`
	Rollout  string    `json:"rollout,omitempty"` // its UUID
	Reason   string    `json:"reason"`
}

// FactsRevision is a change of the facts of a server.
type FactsRevision = lifecycle.FactsRevision

// Change is a change of the configuration of a server.
type Change struct {
	UUID                string               `json:"uuid"`
	Server              string               `json:"server"`
	Cluster             string               `json:"cluster"`
	Section             string               `json:"section"`
	RequestedBy         string               `json:"requested_by"`
	Status              string               `json:"status"`
	StatusReason        string               `json:"status_reason"`
	Differences         []network.Difference `json:"differences"`
	OldConnectionURL    string               `json:"old_connection_url"`
	ConnectionURL       string               `json:"connection_url"`
	ConfirmationTimeout string               `json:"confirmation_timeout"`
	StartedAt           time.Time            `json:"started_at"`
	SentAt              time.Time            `json:"sent_at"`
	EndedAt             time.Time            `json:"ended_at"`
}

// Rollout is a rolling update, or another action on several servers.
type Rollout struct {
	UUID         string           `json:"uuid"`
	Selector     rolling.Selector `json:"selector"`
	Policy       rolling.Policy   `json:"policy"`
	Status       string           `json:"status"`
	StatusReason string           `json:"status_reason"`
	CancelMode   string           `json:"cancel_mode,omitempty"`
	RequestedBy  string           `json:"requested_by"`
	Waves        []Wave           `json:"waves"`
	Units        int              `json:"units"`
	UnitsRunning int              `json:"units_running"`
	UnitsFailed  int              `json:"units_failed"`
	Servers      int              `json:"servers"`
	Steps        int              `json:"steps"`
	StepsDone    int              `json:"steps_done"`
	StartedAt    time.Time        `json:"started_at"`
	ExpectedEnd  time.Time        `json:"expected_end"`
	EndedAt      time.Time        `json:"ended_at"`
}

// Wave is a part of a rollout.
type Wave struct {
	Name      string    `json:"name"`
	Units     int       `json:"units"`
	Ended     int       `json:"units_ended"`
	Failed    int       `json:"units_failed"`
	StartedAt time.Time `json:"started_at"`
	EndedAt   time.Time `json:"ended_at"`
}

// Unit is a cluster, or a server in no cluster, in a rollout.
type Unit struct {
	Index     int          `json:"index"`
	Name      string       `json:"name"`
	Cluster   bool         `json:"cluster"`
	Wave      int          `json:"wave"`
	Status    string       `json:"status"`
	Waiting   string       `json:"waiting"` // the condition that the next step waits for
	Failure   *UnitFailure `json:"failure"`
	StartedAt time.Time    `json:"started_at"`
	EndedAt   time.Time    `json:"ended_at"`
	Servers   []Member     `json:"servers"`
}

// UnitFailure has the reason of a failure, and an advice.
type UnitFailure struct {
	At       time.Time        `json:"at"`
	Server   string           `json:"server"`
	Action   lifecycle.Action `json:"action"`
	Attempts int              `json:"attempts"`
	Reason   string           `json:"reason"`
	Advice   string           `json:"advice"`
}

// Member is a server of a unit.
type Member struct {
	Server string `json:"server"`
	State  string `json:"state"`
	Left   string `json:"left,omitempty"` // why the rollout leaves it alone
	Step   *Step  `json:"step"`
	Done   []Step `json:"done"`
}

// Step is an action of a rollout on a server.
type Step struct {
	Action    lifecycle.Action `json:"action"`
	Why       string           `json:"why"`
	Attempt   int              `json:"attempt"`
	StartedAt time.Time        `json:"started_at"`
	Deadline  *time.Time       `json:"deadline,omitempty"`
	EndedAt   *time.Time       `json:"ended_at,omitempty"`
	Failed    string           `json:"failed,omitempty"`
	Note      string           `json:"note,omitempty"`
}

// Update is a release in the feed.
type Update struct {
	UUID             string    `json:"uuid"`
	Version          string    `json:"version"`
	PublishedAt      time.Time `json:"published_at"`
	Severity         string    `json:"severity"`
	Origin           string    `json:"origin"`
	Channels         []string  `json:"channels"`
	UpstreamChannels []string  `json:"upstream_channels"`
	Status           string    `json:"update_status"`
	Problem          string    `json:"problem,omitempty"`
}

// Refresh is how far a refresh of the feed is.
type Refresh struct {
	Running   bool      `json:"running"`
	StartedAt time.Time `json:"started_at"`
	EndedAt   time.Time `json:"ended_at"`
	Version   string    `json:"version"`
	Files     int       `json:"files"`
	FilesDone int       `json:"files_done"`
	Bytes     int64     `json:"bytes"`
	BytesDone int64     `json:"bytes_done"`
	Problems  []string  `json:"problems"`
}

// Changelog lists the packages that an update changes, by component.
type Changelog struct {
	CurrentVersion string                    `json:"current_version"`
	PriorVersion   string                    `json:"prior_version"`
	Components     map[string]PackageChanges `json:"components"`
}

// PackageChanges are the packages that differ between two versions.
type PackageChanges struct {
	Added   []string `json:"added"`
	Updated []string `json:"updated"`
	Removed []string `json:"removed"`
}

// Channel offers versions to the servers that follow it.
type Channel struct {
	Name        string            `json:"name"`
	Description string            `json:"description"`
	LastUpdated time.Time         `json:"last_updated"`
	Versions    map[string]string `json:"versions"` // by component
}

// Token admits new servers. Its UUID is a secret.
type Token struct {
	UUID          string    `json:"uuid"`
	Description   string    `json:"description"`
	UsesRemaining int64     `json:"uses_remaining"`
	ExpireAt      time.Time `json:"expire_at"`
	Channel       string    `json:"channel"`
}

// Seed configures a server at its first boot.
type Seed struct {
	Name        string          `json:"name"`
	Description string          `json:"description"`
	Public      bool            `json:"public"`
	PublicPath  string          `json:"public_path,omitempty"`
	Seeds       json.RawMessage `json:"seeds"`
	LastUpdated time.Time       `json:"last_updated"`
}

// Object is an object in an Incus cluster.
type Object struct {
	UUID        string          `json:"uuid"`
	Cluster     string          `json:"cluster"`
	Server      string          `json:"server,omitempty"`
	Project     string          `json:"project_name,omitempty"`
	Parent      string          `json:"parent_name,omitempty"`
	Name        string          `json:"name"`
	Type        string          `json:"type,omitempty"`
	Object      json.RawMessage `json:"object"`
	FirstSeen   time.Time       `json:"first_seen"`
	LastUpdated time.Time       `json:"last_updated"`
	Truncated   []string        `json:"truncated,omitempty"`
}

// ObjectChange is a change of an object.
type ObjectChange struct {
	Sequence  uint64        `json:"sequence"`
	At        time.Time     `json:"at"`
	Action    string        `json:"action"`
	Source    string        `json:"source"`
	Requestor string        `json:"requestor,omitempty"`
	UUID      string        `json:"uuid"`
	Kind      string        `json:"kind"`
	Cluster   string        `json:"cluster"`
	Name      string        `json:"name"`
	Fields    []ObjectField `json:"fields,omitempty"`
}

// ObjectField is a field of an object that changed.
type ObjectField struct {
	Path string          `json:"path"`
	From json.RawMessage `json:"from,omitempty"`
	To   json.RawMessage `json:"to,omitempty"`
}

// ObjectCounts are the numbers of objects.
type ObjectCounts struct {
	Total     int            `json:"total"`
	ByKind    map[string]int `json:"by_kind"`
	ByCluster map[string]int `json:"by_cluster"`
	ByProject map[string]int `json:"by_project"`
}
