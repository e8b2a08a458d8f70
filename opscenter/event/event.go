// Package event is the vocabulary of the event log: its kinds of events, and the event itself. Package opscenter stores
// events, and lists and follows them (Registry.ListEvents, Registry.WatchEvents).
package event

import "time"

// Kind is the kind of an event.
type Kind string

// The kinds of events. The Reason of an event tells the rest.
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
	ServerRebooted       Kind = "server-rebooted" // the reboot was neither asked for nor announced
	UpdateSettings       Kind = "update-settings-changed"
	TokenCreated         Kind = "token-created"
	TokenUpdated         Kind = "token-updated"
	TokenRevoked         Kind = "token-revoked"
	UpdatePublished      Kind = "update-published"
	UpdateFetching       Kind = "update-fetching"         // the files of an update are being fetched
	UpdateReady          Kind = "update-ready"            // all files of an update are stored
	UpdateFailed         Kind = "update-failed"           // some files of an update could not be fetched
	UpdateRemoved        Kind = "update-removed"          // an update is no longer kept
	UpdateChannels       Kind = "update-channels-changed" // an update is in other channels now
	FeedSettings         Kind = "update-feed-changed"     // an operator changed the settings of the update feed
	ChannelCreated       Kind = "channel-created"
	ChannelDeleted       Kind = "channel-deleted"
	CertificateChanged   Kind = "certificate-changed"  // the server presents another certificate
	CertificateAccepted  Kind = "certificate-accepted" // the control plane accepts it from now on
	Flapping             Kind = "flapping"             // the server goes up and down, and is held offline
	Steady               Kind = "steady"               // the server no longer goes up and down
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
	ClusterDiscovered    Kind = "cluster-member-discovered" // a poll found that a server joined or left an Incus cluster
	Rollout              Kind = "rollout"
	RolloutStep          Kind = "rollout-step"
	ConfigurationChange  Kind = "configuration-change"
	ClockJumped          Kind = "clock-jumped" // the control plane's clock was set, or its machine slept
)

// Event tells of a decision or a change, and the reason for it. Events hold no secrets: they name a token by its
// description.
type Event struct {
	// Sequence numbers grow, with gaps, for the life of the store. The store gives them; see storage.NewLog.
	Sequence uint64
	At       time.Time
	Kind     Kind
	// Server is the name that the server had at that time; empty: the event is about no server.
	Server string
	// Cluster is the name of the cluster, Rollout the ID of the rollout that the event is about; empty: none.
	Cluster string
	Rollout string
	Reason  string
}
