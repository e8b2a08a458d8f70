package event

import (
	"time"
)

// EventKind says what an event is about.
type Kind string

const (
	ServerRegistered     Kind = "server-registered"
	ServerAdopted        Kind = "server-adopted"
	ServerReinstalled    Kind = "server-reinstalled"
	ServerAnnounced      Kind = "server-pre-registered"
	RegistrationRefused  Kind = "registration-refused"
	ServerRenamed        Kind = "server-renamed"
	ServerUpdated        Kind = "server-updated"
	ServerDeleted        Kind = "server-deleted"
	ReinstallAllowed     Kind = "reinstall-allowed"
	ConnectionURLChanged Kind = "connection-url-changed"
	SelfUpdate           Kind = "self-update"
	StatusChanged        Kind = "status-changed"
	TypeChanged          Kind = "type-changed"
	ServerRebooted       Kind = "server-rebooted" // without having been asked, or having said so
	UpdateSettings       Kind = "update-settings-changed"
	TokenCreated         Kind = "token-created"
	TokenUpdated         Kind = "token-updated"
	TokenRevoked         Kind = "token-revoked"
	UpdatePublished      Kind = "update-published"
	UpdateFetching       Kind = "update-fetching"         // the files of an update are being fetched
	UpdateReady          Kind = "update-ready"            // all files of an update are here
	UpdateFailed         Kind = "update-failed"           // some files of an update could not be fetched
	UpdateRemoved        Kind = "update-removed"          // an update is not kept any more
	UpdateChannels       Kind = "update-channels-changed" // of an update
	FeedSettings         Kind = "update-feed-changed"     // the settings of the feed
	ChannelCreated       Kind = "channel-created"
	ChannelDeleted       Kind = "channel-deleted"
	CertificateChanged   Kind = "certificate-changed"
	CertificateAccepted  Kind = "certificate-accepted"
	Flapping             Kind = "flapping"
	Steady               Kind = "steady"
	WarningRaised        Kind = "warning-raised"
	WarningCleared       Kind = "warning-cleared"
	WarningAcknowledged  Kind = "warning-acknowledged"
	ActionStarted        Kind = "action-started"
	ActionFinished       Kind = "action-finished"
	ActionFailed         Kind = "action-failed"
	ClusterCreated       Kind = "cluster-created"
	ClusterUpdated       Kind = "cluster-updated"
	ClusterRenamed       Kind = "cluster-renamed"
	ClusterDeleted       Kind = "cluster-deleted"
	ClusterMemberAdded   Kind = "cluster-member-added"
	ClusterMemberRemoved Kind = "cluster-member-removed"
	ClusterDiscovered    Kind = "cluster-member-discovered"
	Rollout              Kind = "rollout"
	RolloutStep          Kind = "rollout-step"
	ConfigurationChange  Kind = "configuration-change"
	ClockJumped          Kind = "clock-jumped" // the control plane's own
)

// Event tells of something that was decided or changed, and why. Events hold no secrets:
// tokens are named by their description.
type Event struct {
	// Sequence numbers grow, with gaps, for the life of the store. The store gives them; see storage.NewLog.
	Sequence uint64
	At       time.Time
	Kind     Kind
	Server   string // name at the time; empty if it is about none
	// Cluster and Rollout it is about; empty: none.
	Cluster string
	Rollout string
	Reason  string
}
