package httpapi

import (
	"math"
	"net/http"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/accesstoken"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/inventory"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/network"
	"github.com/opscenter-go/sdk/opscenter/system"
)

// objectQuery are the parameters of all lists of objects, over several kinds.
const objectQuery = "kind* " + kindQuery

// kindQuery are the parameters of all lists of objects of one kind.
const kindQuery = "cluster* server* project* parent* filter type name search server_include_null project_include_null parent_include_null"

// table is the table of all routes. A test compares it with the package comment. An operator announces a server with POST of servers,
// which is a row of its own behind that for servers, see announce.
func (h *Handler) table() []*route {
	var (
		noRollouts     = missing(h.options.Rollouts != nil, errNoRollouts)
		noInventory    = missing(h.options.Inventory != nil, errNoInventory)
		noAdopter      = missing(h.options.Adopt != nil, errNoAdopter)
		noForwarder    = missing(h.options.Forward != nil, errNoForwarder)
		noSystem       = missing(h.options.System != nil, errNoSystem)
		noAudit        = missing(h.options.Audit != nil, errNoAudit)
		noUpdates      = missing(h.options.Updates != nil, errNoUpdates)
		noAccessTokens = missing(h.options.AccessTokens != nil, errNoAccessTokens)
		noImages       = missing(h.options.Images != nil, errNoImages)
		seedBody       = max(h.options.MaxBody, opscenter.MaxSeedSize+64<<10)
	)
	rows := []*route{
		// The API itself
		{pattern: "GET /{$}", clients: "any", raw: true, handle: func(w http.ResponseWriter, _ *http.Request) { respond(w, []string{"/1.0"}) }, list: true, summary: "lists the paths of the API's versions", answer: typeOf[string]()},
		{pattern: "GET /1.0", clients: "any", raw: true, handle: h.getServer, summary: "tells the API's version, and how the client is authenticated", answer: typeOf[apiServer]()},
		{pattern: "GET /1.0/{$}", clients: "any", raw: true, handle: h.getServer, summary: "the same, as from a mux that has this one at /1.0/", answer: typeOf[apiServer]()},
		{pattern: "GET /1.0/openapi.json", clients: "any", handle: h.getDescription, summary: "describes the API, in OpenAPI 3.1", answer: typeOf[any](), media: "application/json"},
		// Tokens admit new servers. Their UUIDs are secrets.
		{pattern: "GET /1.0/provisioning/tokens", role: access.RoleAdmin, handle: h.getTokens, query: "recursion limit cursor", list: true, paths: true, summary: "lists tokens, the oldest first", answer: typeOf[token]()},
		{pattern: "POST /1.0/provisioning/tokens", role: access.RoleAdmin, handle: h.postTokens, body: typeOf[tokenPut](), created: true, summary: "makes a token", answer: typeOf[token]()},
		{pattern: "GET /1.0/provisioning/tokens/{uuid}", role: access.RoleAdmin, handle: h.tokens().get(h.registry.Token), summary: "shows a token", answer: typeOf[token]()},
		{pattern: "PUT /1.0/provisioning/tokens/{uuid}", role: access.RoleAdmin, handle: h.putToken, body: typeOf[tokenEdit](), summary: "edits a token"},
		{pattern: "DELETE /1.0/provisioning/tokens/{uuid}", role: access.RoleAdmin, handle: h.deleteToken, summary: "revokes a token"},
		// Seeds and images
		{pattern: "GET /1.0/provisioning/tokens/{uuid}/provider-config", role: access.RoleAdmin, missing: noImages, handle: h.getProviderConfig, summary: "shows the provider seed of servers that are to register", answer: typeOf[any]()},
		{pattern: "GET /1.0/provisioning/tokens/{uuid}/seeds", role: access.RoleAdmin, missing: noImages, handle: h.getSeeds, query: "recursion", list: true, paths: true, summary: "lists the seeds of a token", answer: typeOf[shownSeed]()},
		{pattern: "POST /1.0/provisioning/tokens/{uuid}/seeds", role: access.RoleAdmin, missing: noImages, handle: h.postSeeds, body: typeOf[seedPost](), created: true, maxBody: seedBody, summary: "makes a seed", answer: typeOf[shownSeed]()},
		{pattern: "GET /1.0/provisioning/tokens/{uuid}/seeds/{name}", role: access.RoleAdmin, missing: noImages, handle: h.getSeed, query: "type architecture channel compressed", summary: "shows a seed; with type it sends an image of it", answer: typeOf[shownSeed]()},
		{pattern: "PUT /1.0/provisioning/tokens/{uuid}/seeds/{name}", role: access.RoleAdmin, missing: noImages, handle: h.putSeed, body: typeOf[seedEdit](), maxBody: seedBody, summary: "edits a seed"},
		{pattern: "DELETE /1.0/provisioning/tokens/{uuid}/seeds/{name}", role: access.RoleAdmin, missing: noImages, handle: h.deleteSeed, summary: "removes a seed"},
		{pattern: "POST /1.0/provisioning/tokens/{uuid}/image", role: access.RoleAdmin, missing: noImages, handle: h.postImage, body: typeOf[imagePost](), maxBody: seedBody, summary: "prepares an image", answer: typeOf[imageMade]()},
		{pattern: "GET /1.0/provisioning/tokens/{uuid}/image/{image}", role: access.RoleAdmin, missing: noImages, handle: h.getImage, query: "compressed", media: "application/octet-stream", summary: "sends a prepared image"},
		{pattern: "GET /1.0/provisioning/images/{public}", clients: "any", missing: noImages, handle: h.getPublicImage, query: "type architecture", media: "application/octet-stream", summary: "sends an image of a public seed"},
		// Servers register by themselves, are announced, or are adopted.
		{pattern: "POST /1.0/provisioning/servers", clients: "token", handle: h.postServers, body: typeOf[serverPost](), created: true, raw: true, summary: "registers the server that calls; without a token an operator announces a server", answer: typeOf[*registered]()},
		{pattern: "PUT /1.0/provisioning/servers/:self", clients: "server", handle: h.putSelf, body: typeOf[selfPut](), raw: true, summary: "tells the connection URL of the server that calls"},
		{pattern: "GET /1.0/provisioning/servers", role: access.RoleViewer, scope: filtered, handle: h.getServers, query: "recursion limit cursor facts status status_detail type cluster channel fingerprint needs_update needs_reboot in_maintenance filter", list: true, paths: true, summary: "lists servers by name", answer: typeOf[server]()},
		{pattern: "POST /1.0/provisioning/servers/:adopt", role: access.RoleAdmin, missing: noAdopter, handle: h.adopt, body: typeOf[Adopting](), list: true, created: true, summary: "adopts an Incus server or cluster", answer: typeOf[string]()},
		{pattern: "GET /1.0/provisioning/servers/{name}", role: access.RoleViewer, scope: byServer, handle: h.getServerByName, query: "facts", summary: "shows a server, with its recommended action and the reason", answer: typeOf[server]()},
		{pattern: "PUT /1.0/provisioning/servers/{name}", role: access.RoleOperator, handle: h.putServer, body: typeOf[serverEdit](), summary: "edits a server"},
		{pattern: "POST /1.0/provisioning/servers/{name}", role: access.RoleAdmin, handle: rename[server](h.servers(), serverPath, h.registry.RenameServer), body: typeOf[renamed](), created: true, summary: "renames a server"},
		{pattern: "DELETE /1.0/provisioning/servers/{name}", role: access.RoleAdmin, handle: h.deleteServer, query: "force", summary: "removes a server"},
		{pattern: "POST /1.0/provisioning/servers/{name}/:accept-certificate", role: access.RoleAdmin, handle: h.acceptCertificate, body: typeOf[acceptPost](), summary: "accepts another certificate; an empty fingerprint takes that back"},
		{pattern: "POST /1.0/provisioning/servers/{name}/:resync", role: access.RoleOperator, scope: byServer, handle: h.resyncServer, summary: "polls a server at once"},
		{pattern: "GET /1.0/provisioning/servers/{name}/changelog", role: access.RoleViewer, scope: byServer, missing: noUpdates, handle: h.getServerChangelog, summary: "shows the packages that the next update changes", answer: typeOf[changelogShown]()},
		{pattern: "GET /1.0/provisioning/servers/{name}/facts-history", role: access.RoleViewer, scope: byServer, handle: h.getFactsHistory, query: "recursion", list: true, summary: "lists how the facts of a server changed, the newest first", answer: typeOf[lifecycle.FactsRevision]()},
		{pattern: forwardPattern, missing: noForwarder, role: access.RoleAdmin, scope: byServer, reads: access.RoleOperator, handle: h.forward, raw: true, maxBody: h.options.MaxForward, summary: "the server's own OS API"},
		// Changes of the network and of settings answer when they are final.
		{pattern: "GET /1.0/provisioning/servers/{name}/system/network", role: access.RoleViewer, scope: byServer, missing: noSystem, handle: h.getNetwork, summary: "shows the network, with secrets hidden", answer: typeOf[network.Network]()},
		{pattern: "PUT /1.0/provisioning/servers/{name}/system/network", role: access.RoleOperator, scope: byServer, missing: noSystem, handle: h.putNetwork, query: "force accept-risk allow-unmanaged confirmation-timeout dry-run", body: typeOf[network.Network](), summary: "changes the network; a failed change undoes itself", answer: typeOf[any]()},
		{pattern: "GET /1.0/provisioning/servers/{name}/system/update", role: access.RoleViewer, scope: byServer, missing: noSystem, handle: getSettings(h, (*system.Manager).Update), summary: "shows the update settings", answer: typeOf[system.Settings[system.UpdateConfig]]()},
		{pattern: "PUT /1.0/provisioning/servers/{name}/system/update", role: access.RoleOperator, scope: byServer, missing: noSystem, handle: putSettings(h, (*system.Manager).SetUpdate), query: "force", body: typeOf[configPut[system.UpdateConfig]](), summary: "changes the update settings"},
		{pattern: "GET /1.0/provisioning/servers/{name}/system/storage", role: access.RoleViewer, scope: byServer, missing: noSystem, handle: getSettings(h, (*system.Manager).Storage), summary: "shows the storage pools", answer: typeOf[system.Settings[system.StorageConfig]]()},
		{pattern: "PUT /1.0/provisioning/servers/{name}/system/storage", role: access.RoleAdmin, scope: byServer, missing: noSystem, handle: putSettings(h, (*system.Manager).SetStorage), query: "force", body: typeOf[configPut[system.StorageConfig]](), summary: "changes the storage pools"},
		{pattern: "GET /1.0/provisioning/servers/{name}/system/provider", role: access.RoleViewer, scope: byServer, missing: noSystem, handle: getSettings(h, (*system.Manager).Provider), summary: "shows the provider", answer: typeOf[system.Settings[system.ProviderConfig]]()},
		{pattern: "PUT /1.0/provisioning/servers/{name}/system/provider", role: access.RoleAdmin, scope: byServer, missing: noSystem, handle: putSettings(h, (*system.Manager).SetProvider), query: "force", body: typeOf[configPut[system.ProviderConfig]](), summary: "changes the provider"},
		{pattern: "GET /1.0/provisioning/servers/{name}/system/kernel", role: access.RoleViewer, scope: byServer, missing: noSystem, handle: getSettings(h, (*system.Manager).Kernel), summary: "shows the kernel's configuration", answer: typeOf[system.Settings[system.KernelConfig]]()},
		{pattern: "PUT /1.0/provisioning/servers/{name}/system/kernel", role: access.RoleOperator, scope: byServer, missing: noSystem, handle: putSettings(h, (*system.Manager).SetKernel), query: "force", body: typeOf[configPut[system.KernelConfig]](), summary: "changes the kernel's configuration"},
		{pattern: "GET /1.0/provisioning/servers/{name}/system/logging", role: access.RoleViewer, scope: byServer, missing: noSystem, handle: getSettings(h, (*system.Manager).Logging), summary: "shows the configuration of logging", answer: typeOf[system.Settings[system.LoggingConfig]]()},
		{pattern: "PUT /1.0/provisioning/servers/{name}/system/logging", role: access.RoleOperator, scope: byServer, missing: noSystem, handle: putSettings(h, (*system.Manager).SetLogging), query: "force", body: typeOf[configPut[system.LoggingConfig]](), summary: "changes the configuration of logging"},
		// Actions start a rollout of one server, whose path is the Location.
		{pattern: "POST /1.0/provisioning/servers/{name}/system/:update", role: access.RoleOperator, scope: byServer, handle: h.actOn(lifecycle.ActionUpdate), query: "dry-run force", body: typeOf[updatePost](), optional: true, summary: "updates a server, or some of its applications", answer: typeOf[any]()},
		{pattern: "POST /1.0/provisioning/servers/{name}/system/:evacuate", role: access.RoleOperator, scope: byServer, handle: h.actOn(lifecycle.ActionEvacuate), query: "dry-run force", summary: "moves the instances of a server away", answer: typeOf[any]()},
		{pattern: "POST /1.0/provisioning/servers/{name}/system/:reboot", role: access.RoleOperator, scope: byServer, handle: h.actOn(lifecycle.ActionReboot), query: "dry-run force", summary: "reboots a server", answer: typeOf[any]()},
		{pattern: "POST /1.0/provisioning/servers/{name}/system/:restore", role: access.RoleOperator, scope: byServer, handle: h.actOn(lifecycle.ActionRestore), query: "dry-run force", summary: "moves the instances of a server back", answer: typeOf[any]()},
		{pattern: "POST /1.0/provisioning/servers/{name}/system/:poweroff", role: access.RoleOperator, scope: byServer, handle: h.actOn(lifecycle.ActionPowerOff), query: "dry-run force", summary: "switches a server off", answer: typeOf[any]()},
		{pattern: "POST /1.0/provisioning/servers/{name}/system/:suspend", role: access.RoleOperator, scope: byServer, missing: noSystem, handle: h.suspend, query: "force", summary: "suspends a server"},
		{pattern: "POST /1.0/provisioning/servers/{name}/system/:factory-reset", role: access.RoleAdmin, missing: noSystem, handle: h.factoryReset, query: "token tokenSeedName force", summary: "resets a server"},
		{pattern: "DELETE /1.0/provisioning/servers/{name}/system/:factory-reset", role: access.RoleAdmin, missing: noSystem, handle: h.factoryReset, query: "token tokenSeedName force", summary: "the same, for older clients of Operations Center"},
		{pattern: "GET /1.0/provisioning/changes", role: access.RoleViewer, missing: noSystem, handle: h.getConfigurationChanges, query: "recursion limit cursor server", list: true, paths: true, summary: "lists changes, the newest first", answer: typeOf[shownChange]()},
		{pattern: "GET /1.0/provisioning/changes/{uuid}", role: access.RoleViewer, scope: byChange, missing: noSystem, handle: h.changes().get(h.options.System.Change), summary: "shows a change", answer: typeOf[shownChange]()},
		{pattern: "GET /1.0/provisioning/batches", role: access.RoleViewer, missing: noSystem, handle: h.getBatches, query: "recursion limit cursor", list: true, paths: true, summary: "lists changes of clusters, the newest first", answer: typeOf[shownBatch]()},
		{pattern: "GET /1.0/provisioning/batches/{uuid}", role: access.RoleViewer, scope: byBatch, missing: noSystem, handle: h.batches().get(h.options.System.Batch), summary: "shows a change of a cluster", answer: typeOf[shownBatch]()},
		// Clusters
		{pattern: "GET /1.0/provisioning/clusters", role: access.RoleViewer, scope: filtered, handle: h.getClusters, query: "recursion limit cursor filter", list: true, paths: true, summary: "lists clusters by name", answer: typeOf[cluster]()},
		{pattern: "POST /1.0/provisioning/clusters", role: access.RoleAdmin, handle: h.postClusters, body: typeOf[clusterPost](), created: true, summary: "forms a cluster"},
		{pattern: "GET /1.0/provisioning/clusters/{name}", role: access.RoleViewer, scope: byCluster, handle: h.clusters().get(h.registry.Cluster), summary: "shows a cluster, with the updates due and under way", answer: typeOf[cluster]()},
		{pattern: "PUT /1.0/provisioning/clusters/{name}", role: access.RoleOperator, handle: h.putCluster, body: typeOf[clusterEdit](), summary: "edits a cluster"},
		{pattern: "POST /1.0/provisioning/clusters/{name}", role: access.RoleAdmin, handle: rename[cluster](h.clusters(), clusterPath, h.registry.RenameCluster), body: typeOf[renamed](), created: true, summary: "renames a cluster"},
		{pattern: "DELETE /1.0/provisioning/clusters/{name}", role: access.RoleAdmin, handle: h.deleteCluster, query: "mode", summary: "removes the record of a cluster; mode=force: although it has members"},
		{pattern: "POST /1.0/provisioning/clusters/{name}/:add-servers", role: access.RoleAdmin, handle: h.addServers, body: typeOf[serverNames](), summary: "adds members"},
		{pattern: "POST /1.0/provisioning/clusters/{name}/:remove-servers", role: access.RoleAdmin, handle: h.removeServers, query: "force", body: typeOf[serverRemoval](), summary: "removes members; force=1: lost ones"},
		{pattern: "POST /1.0/provisioning/clusters/{name}/:update", role: access.RoleOperator, scope: byCluster, handle: h.updateCluster, query: "dry-run force", body: typeOf[clusterUpdate](), optional: true, summary: "updates all members", answer: typeOf[any]()},
		{pattern: "POST /1.0/provisioning/clusters/{name}/:reboot", role: access.RoleOperator, scope: byCluster, handle: h.rebootCluster, query: "dry-run force", summary: "reboots all members, one by one", answer: typeOf[any]()},
		{pattern: "POST /1.0/provisioning/clusters/{name}/:cancel-operation", role: access.RoleOperator, scope: byCluster, handle: h.cancelCluster, query: "mode", summary: "cancels what is under way: finish (default), stop or restore"},
		{pattern: "POST /1.0/provisioning/clusters/{name}/:bulk-update", role: access.RoleOperator, scope: byCluster, missing: noSystem, handle: h.bulkUpdate, query: "force accept-risk allow-unmanaged confirmation-timeout", body: typeOf[bulkPost](), summary: "changes all members"},
		{pattern: "POST /1.0/provisioning/clusters/{name}/:resync-inventory", role: access.RoleOperator, scope: byCluster, missing: noInventory, handle: h.resyncCluster, summary: "lists the inventory of a cluster anew"},
		// Rollouts
		{pattern: "GET /1.0/provisioning/rollouts", role: access.RoleViewer, missing: noRollouts, handle: h.getRollouts, query: "recursion limit cursor", list: true, paths: true, summary: "lists rollouts, the newest first", answer: typeOf[shownRollout]()},
		{pattern: "POST /1.0/provisioning/rollouts", role: access.RoleOperator, missing: noRollouts, handle: h.postRollouts, query: "dry-run", body: typeOf[rolloutPost](), created: true, summary: "shows a plan; dry-run=0: starts it", answer: typeOf[any]()},
		{pattern: "GET /1.0/provisioning/rollouts/{uuid}", role: access.RoleViewer, scope: byRollout, missing: noRollouts, handle: h.rollouts().get(h.options.Rollouts.Get), summary: "shows a rollout", answer: typeOf[shownRollout]()},
		{pattern: "GET /1.0/provisioning/rollouts/{uuid}/units", role: access.RoleViewer, scope: byRollout, missing: noRollouts, handle: h.getRolloutUnits, query: "recursion limit cursor", list: true, summary: "lists the clusters and servers of a rollout, with their steps", answer: typeOf[shownUnit]()},
		{pattern: "GET /1.0/provisioning/rollouts/{uuid}/plan", role: access.RoleViewer, scope: byRollout, missing: noRollouts, handle: h.getRolloutPlan, summary: "shows the steps that are left", answer: typeOf[any]()},
		{pattern: "POST /1.0/provisioning/rollouts/{uuid}/{action}", role: access.RoleOperator, scope: byRollout, missing: noRollouts, handle: h.changeRollout, query: "mode", summary: "pauses, resumes or cancels a rollout"},
		// Updates are the feed of servers. Clients that are no principals see ready updates only.
		{pattern: "GET /1.0/provisioning/updates", clients: "any", missing: noUpdates, handle: h.getUpdates, query: "recursion channel origin status", list: true, paths: true, summary: "lists updates, the newest first", answer: typeOf[update]()},
		{pattern: "POST /1.0/provisioning/updates", role: access.RoleAdmin, missing: noUpdates, handle: h.postUpdate, created: true, body: typeOf[archive](), maxBody: math.MaxInt64, summary: "uploads an update, as a tar archive", answer: typeOf[update]()},
		{pattern: "DELETE /1.0/provisioning/updates", role: access.RoleAdmin, missing: noUpdates, handle: h.deleteUpdates, summary: "removes all updates"},
		{pattern: "POST /1.0/provisioning/updates/:refresh", role: access.RoleOperator, missing: noUpdates, handle: h.refreshUpdates, query: "wait force", summary: "asks the source for updates"},
		{pattern: "GET /1.0/provisioning/updates/:refresh", role: access.RoleViewer, scope: anyScope, missing: noUpdates, handle: h.getRefresh, summary: "shows how far a refresh is", answer: typeOf[refreshProgress]()},
		{pattern: "GET /1.0/provisioning/updates/{uuid}", clients: "any", missing: noUpdates, handle: h.getUpdate, summary: "shows an update", answer: typeOf[update]()},
		{pattern: "PUT /1.0/provisioning/updates/{uuid}", role: access.RoleAdmin, missing: noUpdates, handle: h.putUpdate, query: "force", body: typeOf[updatePut](), summary: "promotes an update to channels"},
		{pattern: "DELETE /1.0/provisioning/updates/{uuid}", role: access.RoleAdmin, missing: noUpdates, handle: h.deleteUpdate, query: "force", summary: "removes an update"},
		{pattern: "GET /1.0/provisioning/updates/{uuid}/changelog", clients: "any", missing: noUpdates, handle: h.getUpdateChangelog, query: "channel upstream architecture since", summary: "shows the packages that an update changes", answer: typeOf[changelogShown]()},
		{pattern: "GET /1.0/provisioning/updates/{uuid}/files", clients: "any", missing: noUpdates, handle: h.getUpdateFiles, query: "recursion", list: true, summary: "lists the files of an update", answer: typeOf[updateFile]()},
		{pattern: "GET /1.0/provisioning/updates/{uuid}/files/{name...}", clients: "any", missing: noUpdates, handle: h.getUpdateFile, media: "application/octet-stream", summary: "sends a file of an update"},
		{pattern: "GET /1.0/provisioning/channels", role: access.RoleViewer, scope: anyScope, handle: h.getChannels, query: "recursion", list: true, paths: true, summary: "lists channels", answer: typeOf[channel]()},
		{pattern: "POST /1.0/provisioning/channels", role: access.RoleAdmin, handle: h.postChannels, body: typeOf[channelPost](), created: true, summary: "makes a channel", answer: typeOf[channel]()},
		{pattern: "GET /1.0/provisioning/channels/{name}", role: access.RoleViewer, scope: anyScope, handle: h.channels().get(h.registry.Channels().Get), summary: "shows a channel", answer: typeOf[channel]()},
		{pattern: "PUT /1.0/provisioning/channels/{name}", role: access.RoleAdmin, handle: h.putChannel, body: typeOf[channelEdit](), summary: "edits a channel"},
		{pattern: "DELETE /1.0/provisioning/channels/{name}", role: access.RoleAdmin, handle: h.deleteChannel, summary: "removes a channel"},
		{pattern: "GET /1.0/provisioning/channels/{name}/changelog", role: access.RoleViewer, scope: anyScope, missing: noUpdates, handle: h.getChannelChangelog, query: "recursion architecture", list: true, summary: "shows the packages that the updates of a channel change", answer: typeOf[changelogShown]()},
		{pattern: "GET /1.0/system/updates", role: access.RoleViewer, scope: anyScope, missing: noUpdates, handle: h.getUpdateSettings, summary: "shows the settings of the feed", answer: typeOf[updateSettings]()},
		{pattern: "PUT /1.0/system/updates", role: access.RoleAdmin, missing: noUpdates, handle: h.putUpdateSettings, body: typeOf[updateSettings](), summary: "changes the settings of the feed"},
		// The inventory, over all kinds
		{pattern: "GET /1.0/inventory/query", role: access.RoleViewer, missing: noInventory, handle: h.queryInventory, query: objectQuery, list: true, summary: "lists objects, cluster by cluster", answer: typeOf[any]()},
		{pattern: "GET /1.0/inventory/counts", role: access.RoleViewer, missing: noInventory, handle: h.getCounts, query: objectQuery, summary: "counts objects by kind, cluster and project", answer: typeOf[counts]()},
		{pattern: "GET /1.0/inventory/changes", role: access.RoleViewer, missing: noInventory, handle: h.getChanges, query: "recursion after limit", list: true, summary: "lists changes, the oldest first", answer: typeOf[change]()},
		{pattern: "GET /1.0/inventory/status", role: access.RoleViewer, missing: noInventory, handle: h.getInventoryStatus, query: "recursion", list: true, summary: "shows how current the inventory of each cluster is", answer: typeOf[unitStatus]()},
		// Warnings and the audit log
		{pattern: "GET /1.0/warnings", role: access.RoleViewer, scope: filtered, handle: h.getWarnings, query: "recursion limit cursor type server status", list: true, summary: "lists warnings, the oldest first", answer: typeOf[warningJSON]()},
		{pattern: "GET /1.0/warnings/{uuid}", role: access.RoleViewer, scope: byWarning, handle: h.warnings().get(h.registry.Warnings().Get), summary: "shows a warning", answer: typeOf[warningJSON]()},
		{pattern: "PUT /1.0/warnings/{uuid}", role: access.RoleOperator, scope: byWarning, handle: h.putWarning, body: typeOf[warningEdit](), summary: "acknowledges a warning, or takes that back"},
		{pattern: "GET /1.0/audit", role: access.RoleViewer, missing: noAudit, handle: h.getAudit, query: "recursion limit cursor by action server cluster outcome since until", list: true, summary: "lists entries, the newest first", answer: typeOf[audit.Entry]()},
		{pattern: "GET /1.0/audit/{uuid}", role: access.RoleViewer, missing: noAudit, handle: h.entries().get(h.options.Audit.Get), summary: "shows an entry", answer: typeOf[audit.Entry]()},
		{pattern: "GET /1.0/audit/:watch", role: access.RoleViewer, missing: noAudit, handle: h.watchAudit, query: "after", media: "application/x-ndjson", summary: "streams entries as lines of JSON", answer: typeOf[audit.Entry]()},
		{pattern: "GET /1.0/events", role: access.RoleViewer, handle: h.getEvents, query: "recursion limit cursor server after", list: true, summary: "lists events, the newest first; Accept: text/event-stream streams them", answer: typeOf[shownEvent]()},
		// Access tokens authenticate clients of these routes.
		{pattern: "GET /1.0/access-tokens", role: access.RoleAdmin, missing: noAccessTokens, handle: h.getAccessTokens, query: "recursion", list: true, paths: true, summary: "lists access tokens by name, without their secrets", answer: typeOf[accesstoken.Token]()},
		{pattern: "POST /1.0/access-tokens", role: access.RoleAdmin, missing: noAccessTokens, handle: h.postAccessTokens, body: typeOf[accesstoken.Spec](), created: true, summary: "makes an access token, and shows its secret this once", answer: typeOf[accessTokenMade]()},
		{pattern: "GET /1.0/access-tokens/{uuid}", role: access.RoleAdmin, missing: noAccessTokens, handle: h.accessTokens().get(h.options.AccessTokens.Get), summary: "shows an access token", answer: typeOf[accesstoken.Token]()},
		{pattern: "DELETE /1.0/access-tokens/{uuid}", role: access.RoleAdmin, missing: noAccessTokens, handle: h.deleteAccessToken, summary: "revokes an access token"},
	}
	for _, kind := range inventory.Kinds {
		path := "/1.0/inventory/" + kind.Plural()
		of := func(handle func(http.ResponseWriter, *http.Request, inventory.Kind)) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { handle(w, r, kind) }
		}
		rows = append(rows,
			&route{pattern: "GET " + path, role: access.RoleViewer, missing: noInventory, handle: of(h.getObjects), query: "recursion limit cursor " + kindQuery,
				summary: "lists " + kind.Plural(), answer: typeOf[inventoryObject](), list: true, paths: true},
			&route{pattern: "GET " + path + "/{uuid}", role: access.RoleViewer, missing: noInventory, handle: of(h.getObject), summary: "shows an object", answer: typeOf[inventoryObject]()},
			&route{pattern: "GET " + path + "/{uuid}/history", role: access.RoleViewer, missing: noInventory, handle: of(h.getHistory), query: "recursion",
				summary: "lists the changes of an object, also after its end", answer: typeOf[change](), list: true},
			&route{pattern: "POST " + path + "/{uuid}/:resync", role: access.RoleOperator, missing: noInventory, handle: of(h.resyncObject),
				summary: "reads an object from its server at once"})
	}
	return rows
}

// announce is the route behind POST of servers for requests without a token.
func (h *Handler) announce() *route {
	return &route{pattern: "POST /1.0/provisioning/servers", role: access.RoleAdmin, handle: h.announceServer, body: typeOf[serverPost](), created: true, summary: "announces a server"}
}
