package opscenter

import (
	"strings"

	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/internal/presence"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage"
)

// All tables and indexes of the domain. Servers, states and facts have separate rows because they change at different
// speeds: operators edit servers, polls write states, and facts change rarely.
var (
	// servers: identity and intent, by name.
	servers          = storage.NewTable("servers", func(s *Server) storage.Key { return nameKey(s.Name) }).Compact().Hot()
	byID             = servers.Unique("id", func(s *Server) []storage.Key { return optionalKey(s.ID) })
	byFingerprint    = servers.Unique("fingerprint", func(s *Server) []storage.Key { return optionalKey(s.Fingerprint) })
	bySystemUUID     = servers.Index("system_uuid", func(s *Server) []storage.Key { return optionalKey(s.SystemUUID) })
	byMachineID      = servers.Unique("machine_id", func(s *Server) []storage.Key { return optionalKey(s.MachineID) })
	serversByName    = servers.Unique("folded_name", func(s *Server) []storage.Key { return optionalKey(strings.ToLower(s.Name)) })
	serversByCluster = servers.Index("cluster", func(s *Server) []storage.Key { return optionalKey(s.Cluster) })
	serversByChannel = servers.Index("channel", func(s *Server) []storage.Key { return optionalKey(s.Channel) })

	// states: status and versions, by name. Both tables have the same keys, and are read side by side.
	states         = storage.NewTable("states", func(s *lifecycle.ServerState) storage.Key { return nameKey(s.Name) }).Compact().Hot()
	statesByStatus = states.Index("status", func(s *lifecycle.ServerState) []storage.Key { return optionalKey(string(s.Status)) })

	// facts are large. Their key is the ID, which a rename does not change.
	factsTable = storage.NewTable("facts", func(f *factsRow) storage.Key { return storage.StringKey(f.ID) }).Compact()

	// factsHistory: changes of facts, by server ID and number.
	factsHistory = storage.NewTable("facts_history", func(c *factsChangeRow) storage.Key {
		return storage.StringKey(c.ID).Uint(c.Number)
	}).Compact()

	// seen: when servers were last seen, many servers per row.
	seenMembersTable = storage.NewTable("seen_members", func(s *presence.Members) storage.Key { return storage.UintKey(s.Bucket) })
	seenTimesTable   = storage.NewTable("seen_times", func(s *presence.Times) storage.Key { return storage.UintKey(s.Bucket) })

	// warnings by their UUIDs, which sort by age.
	warnings          = storage.NewTable("warnings", func(w *warning.Warning) storage.Key { return storage.StringKey(w.UUID) })
	warningsBySubject = warnings.Unique("subject", func(w *warning.Warning) []storage.Key { return []storage.Key{subjectKey(presence.SubjectOf(w))} })

	// tokens by their UUIDs, which are secrets. Lists go by age, so that cursors contain no secret.
	tokens      = storage.NewTable("tokens", func(t *Token) storage.Key { return storage.StringKey(t.UUID) }).Secret()
	tokensByAge = tokens.Unique("age", func(t *Token) []storage.Key { return []storage.Key{t.position()} })

	channels = storage.NewTable("channels", func(c *Channel) storage.Key { return storage.StringKey(c.Name) }).Compact().Hot()

	// clusters by name; claims: the clusters, and the servers in no cluster, that are reserved for an operation.
	clusters              = storage.NewTable("clusters", func(c *Cluster) storage.Key { return nameKey(c.Name) })
	clustersByFingerprint = clusters.Index("fingerprint", func(c *Cluster) []storage.Key { return optionalKey(c.Fingerprint) })
	clustersByName        = clusters.Unique("folded_name", func(c *Cluster) []storage.Key { return optionalKey(strings.ToLower(c.Name)) })
	claims                = storage.NewTable("claims", func(c *Claim) storage.Key { return claimKey(c.Unit, c.Cluster) }).Compact().Hot()

	// events by their sequence numbers, which the store sets.
	events         = storage.NewLog("events", func(e *event.Event) *uint64 { return &e.Sequence }).Compact()
	eventsByServer = events.Index("server", func(e *event.Event) []storage.Key { return optionalKey(e.Server) })
)

func allTables() []*storage.TableSchema {
	return []*storage.TableSchema{servers.Schema(), states.Schema(), factsTable.Schema(), factsHistory.Schema(),
		seenMembersTable.Schema(), seenTimesTable.Schema(), warnings.Schema(), tokens.Schema(), tokenSeeds.Schema(), tokenImages.Schema(), channels.Schema(), clusters.Schema(), claims.Schema(), events.Schema()}
}

func nameKey(name string) storage.Key { return storage.StringKey(name) }

// optionalKey returns no key for an empty value: the row is not in the index.
func optionalKey(value string) []storage.Key {
	if value == "" {
		return nil
	}
	return []storage.Key{storage.StringKey(value)}
}

// rangeAll is all of a table.
var rangeAll storage.Range
