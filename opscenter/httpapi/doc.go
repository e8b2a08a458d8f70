// Package httpapi serves the HTTP API of a control plane. IncusOS servers call some routes, and operators call the REST API.
// Paths, shapes and names are those of Operations Center, so that servers and its clients work unchanged.
// The handler is an http.Handler: mount it on a mux and a TLS configuration of your own, or use NewServer.
//
// # Access
//
// The tables of routes name the clients that may use each route, or the least role:
//
//   - any: every client, with and without a certificate.
//   - token: a client with a client certificate and a token's UUID in the parameter token.
//   - server: a client with the certificate of a registered server.
//   - viewer, operator, admin: a principal of that role, or of a later one of these three (package access).
//
// Options.Authorize finds out the principal of a request, with its role and its scope. TrustCertificates, TrustAccessTokens and
// TrustUnixSocket make authorizers, AnyOf joins some, and As lowers what one allows. Without Authorize the routes of principals are closed (403). A request that
// shows no credentials is answered 401, and one whose credentials or role do not suffice 403.
//
// The scope of a principal limits it to the servers with certain channels, clusters or properties. Lists of servers, clusters and warnings leave out
// the others. The routes of a server, cluster, rollout, change or warning outside of the scope answer 403, as if there were none. So do all routes that show or
// change more than a scope may cover, such as the inventory, events, the audit log and edits of what scopes go by. A cluster, a rollout or a change of a
// cluster is in a scope if all of its servers are. Handler.Routes lists the routes with their roles.
//
// Two requests need the role admin, although their routes need operator. One changes the connection URL of a server, which decides on
// the trusted machine. The other is a refresh with force=1, which accepts an older index.
//
// The principal stands in the audit log, beside each request that changes something and its outcome. A browser sends an operator's certificate
// for any page, so the routes of principals have these rules:
//
//   - A request with a body must have the Content-Type application/json (415). Uploads of archives and servers' own APIs take others.
//   - A request from a page of another site is refused (403). Options.Origins admits pages of yours.
//   - With Options.Hosts, requests under other host names are refused (421).
//
// # Routes
//
// GET /1.0 tells how the client is authenticated in auth: untrusted, tls, unix or trusted. Names in braces stand for a name or UUID.
//
//	GET    /                                                    any       the paths of the API's versions
//	GET    /1.0                                                 any       the API's version, and how the client is authenticated
//	GET    /1.0/openapi.json                                    any       describes the API, in OpenAPI 3.1
//
// Tokens admit new servers. Seeds are the configuration of installation images.
//
//	GET    /1.0/provisioning/tokens                             admin     lists tokens, the oldest first
//	POST   /1.0/provisioning/tokens                             admin     makes one
//	GET    /1.0/provisioning/tokens/{uuid}                      admin     shows one
//	PUT    /1.0/provisioning/tokens/{uuid}                      admin     edits one
//	DELETE /1.0/provisioning/tokens/{uuid}                      admin     revokes one
//	GET    /1.0/provisioning/tokens/{uuid}/provider-config      admin     the provider seed of servers that are to register
//	GET    /1.0/provisioning/tokens/{uuid}/seeds                admin     lists the token's seeds
//	POST   /1.0/provisioning/tokens/{uuid}/seeds                admin     makes one
//	GET    /1.0/provisioning/tokens/{uuid}/seeds/{name}         admin     shows one; with type=iso or raw: sends an image of it
//	PUT    /1.0/provisioning/tokens/{uuid}/seeds/{name}         admin     edits one
//	DELETE /1.0/provisioning/tokens/{uuid}/seeds/{name}         admin     removes one
//	POST   /1.0/provisioning/tokens/{uuid}/image                admin     prepares an image {"type","architecture","seeds"}
//	GET    /1.0/provisioning/tokens/{uuid}/image/{image}        admin     sends the prepared image
//	GET    /1.0/provisioning/images/{public}                    any       sends an image of a public seed; needs type
//
// An image of a seed takes the parameters type, architecture, channel and compressed=1 (gzip). A prepared image takes compressed
// alone, and an image of a public seed takes type and architecture. Images
// support HEAD, Range and If-Range unless they are compressed. The answer to a rest of an image that has changed since is 412.
//
// Servers register by themselves, are announced, or are adopted.
//
//	POST   /1.0/provisioning/servers                            token     registers the server that calls
//	PUT    /1.0/provisioning/servers/:self                      server    tells the connection URL of the server that calls
//	GET    /1.0/provisioning/servers                            viewer    lists servers by name
//	POST   /1.0/provisioning/servers                            admin     without a token: announces a server
//	POST   /1.0/provisioning/servers/:adopt                     admin     adopts an Incus server or cluster
//	GET    /1.0/provisioning/servers/{name}                     viewer    shows one, with its recommended action and the reason
//	PUT    /1.0/provisioning/servers/{name}                     operator  edits one
//	POST   /1.0/provisioning/servers/{name}                     admin     renames one {"name"}
//	DELETE /1.0/provisioning/servers/{name}                     admin     removes one; force=1: although it is a member or under way
//	POST   /1.0/provisioning/servers/{name}/:accept-certificate admin     accepts another certificate {"fingerprint"}; "": no more
//	POST   /1.0/provisioning/servers/{name}/:resync             operator  polls the server at once
//	GET    /1.0/provisioning/servers/{name}/changelog           viewer    the packages that its next update changes
//	GET    /1.0/provisioning/servers/{name}/facts-history       viewer    lists how its facts changed, the newest first
//	*      /1.0/provisioning/servers/{name}/os/{path...}        admin     the server's own OS API, see Forwarding; GET: operator
//
// The body of :adopt holds connection_url and trust_token. It may also hold name and channel, and, by the names of members,
// names, connection_urls and certificates. These replace the values that the cluster tells. A public seed has a random name, which
// is the last part of its path.
//
// Changes of the network and of settings answer when they are final. If the client leaves, the change goes on. The actions :update,
// :evacuate, :reboot, :restore and :poweroff start a rollout of one server, whose path is the Location. :reboot and :poweroff with
// force=1 act at once.
//
//	GET    /1.0/provisioning/servers/{name}/system/network      viewer    shows the configuration, with secrets hidden
//	PUT    /1.0/provisioning/servers/{name}/system/network      operator  changes it {"config"}; a failed change undoes itself
//	GET    /1.0/provisioning/servers/{name}/system/update       viewer    shows the update settings
//	PUT    /1.0/provisioning/servers/{name}/system/update       operator  changes them {"config"}
//	GET    /1.0/provisioning/servers/{name}/system/storage      viewer    shows the storage pools
//	PUT    /1.0/provisioning/servers/{name}/system/storage      admin     changes them {"config"}
//	GET    /1.0/provisioning/servers/{name}/system/provider     viewer    shows the provider
//	PUT    /1.0/provisioning/servers/{name}/system/provider     admin     changes it {"config"}
//	GET    /1.0/provisioning/servers/{name}/system/kernel       viewer    shows the kernel's configuration
//	PUT    /1.0/provisioning/servers/{name}/system/kernel       operator  changes it {"config"}
//	GET    /1.0/provisioning/servers/{name}/system/logging      viewer    shows the configuration of logging
//	PUT    /1.0/provisioning/servers/{name}/system/logging      operator  changes it {"config"}
//	POST   /1.0/provisioning/servers/{name}/system/:update      operator  updates the server, or {"applications"} of it
//	POST   /1.0/provisioning/servers/{name}/system/:evacuate    operator  moves its instances away
//	POST   /1.0/provisioning/servers/{name}/system/:reboot      operator  reboots it
//	POST   /1.0/provisioning/servers/{name}/system/:restore     operator  moves its instances back
//	POST   /1.0/provisioning/servers/{name}/system/:poweroff    operator  switches it off
//	POST   /1.0/provisioning/servers/{name}/system/:suspend     operator  suspends it
//	POST   /1.0/provisioning/servers/{name}/system/:factory-reset admin     resets it; takes token and tokenSeedName
//	DELETE /1.0/provisioning/servers/{name}/system/:factory-reset admin     the same, for older clients of Operations Center
//	GET    /1.0/provisioning/changes                            viewer    lists changes, the newest first; takes server
//	GET    /1.0/provisioning/changes/{uuid}                     viewer    shows one
//	GET    /1.0/provisioning/batches                            viewer    lists changes of clusters, the newest first
//	GET    /1.0/provisioning/batches/{uuid}                     viewer    shows one
//
// A change of the network takes confirmation-timeout (a Go duration as 5m), accept-risk=1 for a release that cannot undo it, and
// allow-unmanaged=1. A change's Location is its path under changes, and that of a cluster's change is its path under batches.
//
// Clusters are formed by Options.Clusters. Without it the control plane only records them. :update and :reboot start a rollout, whose
// path is the Location.
//
//	GET    /1.0/provisioning/clusters                           viewer    lists clusters by name
//	POST   /1.0/provisioning/clusters                           admin     forms one {"name","server_names"}
//	GET    /1.0/provisioning/clusters/{name}                    viewer    shows one, with the updates due and under way
//	PUT    /1.0/provisioning/clusters/{name}                    operator  edits one
//	POST   /1.0/provisioning/clusters/{name}                    admin     renames one {"name"}
//	DELETE /1.0/provisioning/clusters/{name}                    admin     removes its record; mode=force: although it has members
//	POST   /1.0/provisioning/clusters/{name}/:add-servers       admin     adds members {"server_names"}
//	POST   /1.0/provisioning/clusters/{name}/:remove-servers    admin     removes members {"server_names"}; force=1: lost ones
//	POST   /1.0/provisioning/clusters/{name}/:update            operator  updates all members; {"reboot":true}: and reboots them
//	POST   /1.0/provisioning/clusters/{name}/:reboot            operator  reboots all members, one by one
//	POST   /1.0/provisioning/clusters/{name}/:cancel-operation  operator  cancels its operation; mode=finish (default), stop, restore
//	POST   /1.0/provisioning/clusters/{name}/:bulk-update       operator  changes all members {"action","arguments"}
//	POST   /1.0/provisioning/clusters/{name}/:resync-inventory  operator  lists its inventory anew
//
// The actions of :bulk-update are add_network_interface_vlan_tags, remove_network_interface_vlan_tags, edit_network,
// update_system_kernel and update_system_logging.
//
//	GET    /1.0/provisioning/rollouts                           viewer    lists rollouts, the newest first
//	POST   /1.0/provisioning/rollouts                           operator  shows a plan {"selector","policy"}; dry-run=0: starts it
//	GET    /1.0/provisioning/rollouts/{uuid}                    viewer    shows one
//	GET    /1.0/provisioning/rollouts/{uuid}/units              viewer    lists its clusters and servers, with their steps
//	GET    /1.0/provisioning/rollouts/{uuid}/plan               viewer    shows the steps that are left
//	POST   /1.0/provisioning/rollouts/{uuid}/{action}           operator  :pause, :resume, or :cancel with mode=finish, stop, restore
//
// Updates are the feed of servers. Clients that are no principals see ready updates only. Principals with a
// scope do not see the problem of an update.
//
//	GET    /1.0/provisioning/updates                            any       lists updates, the newest first; takes channel, origin, status
//	POST   /1.0/provisioning/updates                            admin     uploads one, as a tar archive
//	DELETE /1.0/provisioning/updates                            admin     removes all
//	POST   /1.0/provisioning/updates/:refresh                   operator  asks the source; wait=1: until the end, force=1: accepts an older index
//	GET    /1.0/provisioning/updates/:refresh                   viewer    shows how far that is
//	GET    /1.0/provisioning/updates/{uuid}                     any       shows one
//	PUT    /1.0/provisioning/updates/{uuid}                     admin     promotes it {"channels"}; force=1: although it lacks components
//	DELETE /1.0/provisioning/updates/{uuid}                     admin     removes it; force=1: although a channel offers it
//	GET    /1.0/provisioning/updates/{uuid}/changelog           any       takes channel, upstream, architecture, since (another UUID)
//	GET    /1.0/provisioning/updates/{uuid}/files               any       lists its files
//	GET    /1.0/provisioning/updates/{uuid}/files/{name...}     any       sends one; supports HEAD and Range
//	GET    /1.0/provisioning/channels                           viewer    lists channels
//	POST   /1.0/provisioning/channels                           admin     makes one {"name","description"}
//	GET    /1.0/provisioning/channels/{name}                    viewer    shows one
//	PUT    /1.0/provisioning/channels/{name}                    admin     edits one
//	DELETE /1.0/provisioning/channels/{name}                    admin     removes one
//	GET    /1.0/provisioning/channels/{name}/changelog          viewer    takes architecture
//	GET    /1.0/system/updates                                  viewer    shows the feed's settings
//	PUT    /1.0/system/updates                                  admin     changes them
//
// The inventory has a list for each KIND, in the plural: instances, networks, storage_volumes and so on (inventory.Kinds).
//
//	GET    /1.0/inventory/KIND                                  viewer    lists objects
//	GET    /1.0/inventory/KIND/{uuid}                           viewer    shows one
//	GET    /1.0/inventory/KIND/{uuid}/history                   viewer    lists its changes, also after its end
//	POST   /1.0/inventory/KIND/{uuid}/:resync                   operator  reads it from its server at once
//	GET    /1.0/inventory/query                                 viewer    lists objects cluster by cluster; takes kind
//	GET    /1.0/inventory/counts                                viewer    counts objects by kind, cluster and project; takes kind
//	GET    /1.0/inventory/changes                               viewer    lists changes, the oldest first; takes after (a number) and limit
//	GET    /1.0/inventory/status                                viewer    shows how current the inventory of each cluster is
//
// Warnings and the audit log:
//
//	GET    /1.0/warnings                                        viewer    lists warnings, the oldest first; takes type, server, status
//	GET    /1.0/warnings/{uuid}                                 viewer    shows one
//	PUT    /1.0/warnings/{uuid}                                 operator  acknowledges it {"status":"acknowledged"}; "new" takes that back
//	GET    /1.0/audit                                           viewer    lists entries, the newest first
//	GET    /1.0/audit/{uuid}                                    viewer    shows one
//	GET    /1.0/audit/:watch                                    viewer    streams entries as lines of JSON; takes after (a number)
//
// Events tell of each decision and change, with its reason. With the header "Accept: text/event-stream" they are streamed as they come, as
// server-sent events: from the newest on, or behind the sequence number in after or Last-Event-ID. A stream ends once its
// client is no longer admitted.
//
//	GET    /1.0/events                                          viewer    lists events, the newest first; takes server
//
// Access tokens authenticate clients that have no certificate, in the header Authorization (package accesstoken). The secret of one is shown
// once, when it is made.
//
//	GET    /1.0/access-tokens                                   admin     lists access tokens by name
//	POST   /1.0/access-tokens                                   admin     makes one {"name","role","scope","expire_at"}
//	GET    /1.0/access-tokens/{uuid}                            admin     shows one
//	DELETE /1.0/access-tokens/{uuid}                            admin     revokes one
//
// The audit log takes the filters by, action, server, cluster, outcome, since and until (times as 2026-08-01T00:00:00Z).
//
// Routes of a part that is not set up in Options answer 501.
//
// # Lists
//
// A list holds paths, or with recursion=1 whole objects. Warnings, events, audit entries, units of rollouts and changes of the
// inventory are always whole. With limit a list has at most so many entries, and next_cursor of the answer is the cursor of the next page; without
// limit the list is complete. Cursors stay good while objects come and go. A long list is sent while it is read. If reading fails in
// the middle, the connection is cut, so that half a list is no valid JSON. Channels, seeds, updates and access tokens have lists without pages.
//
// # Filters
//
// Servers have the filters status, status_detail, type, cluster, channel, fingerprint, needs_update, needs_reboot and
// in_maintenance. Objects of the inventory have cluster, server, project and parent, each of which may be given more than once, and
// type, name, search, server_include_null, project_include_null and parent_include_null. The parameter filter of servers, clusters
// and objects is an expression (package expression). The channel of a list of updates is the publisher's channel
// (upstream_channels).
//
// facts=0 leaves hardware_data and os_data out of servers. Both are large. They are stored compressed: a client that sends
// "Accept-Encoding: zstd" gets them as they are stored.
//
// # ETags
//
// Tokens, seeds, servers, clusters, channels, warnings, updates and settings have ETags. A request that edits one of them is refused
// if its If-Match names another ETag (412); so is renaming, and removing a seed. Without If-Match the last edit wins. If-Match may
// hold several tags, with or without quotes, or *. An ETag covers the fields that an edit replaces and the object's identity, so
// that a poll of a server does not change it.
//
// A PUT changes the fields that it holds; other fields stay as they are. Fields that GET shows may be sent back unchanged.
//
// # Requests
//
// A field or parameter of an operator's request that the API does not know is refused by its name. Fields of Operations Center's that
// have no effect here are refused unless they are empty. Servers' requests may hold unknown fields, as newer releases send them.
//
// force=1 leaves out checks that otherwise refuse a request. dry-run=1 shows the consequence of a request without
// carrying it out: for the network of a server, an action on a server, and :update and :reboot of a cluster. POST of rollouts
// is a dry run by default. All other routes refuse dry-run.
//
// # Forwarding
//
// A request below servers/{name}/os/ goes to the OS API of that server, and its answer comes back. Secrets are removed from the
// answer, and answers other than JSON are refused (403), unless Options.ShowSecrets allows the principal to see them. Redirects are
// refused, and the answer carries headers that keep a browser from running it.
//
// # Errors
//
// Each answer is an envelope: type ("sync" or "error"), status, status_code, error, error_code and metadata. Clients go by the
// envelope: its status_code is 200 for each success, also where the HTTP status is 201.
//
//	400  the request is invalid; the error names the field or parameter
//	401  the request shows no credentials, see WWW-Authenticate
//	403  the credentials, the role or the scope do not suffice, or a server's token or certificate is not admitted
//	404  there is no such object or route
//	405  the route has other methods, see Allow
//	409  the request conflicts with the state of the object, or with another operation
//	412  If-Match names another ETag, or a condition of the operation does not hold
//	413  the body is too large
//	415  the body is not JSON
//	421  the API is not known under this host name
//	429  too many failures came from this address (see Retry-After), or too many registrations are being judged
//	500  an error inside; the log has it. After a commit that failed, the outcome may be unknown
//	501  this part is not set up
//	502  a server refused, or the operation failed after it had begun
//	503  too many downloads or streams (see Retry-After), the inventory does not run, or the control plane is shutting down
//	504  a server did not answer in time, and the outcome is unknown
//	507  the disk is full
//
// A request that is answered 4xx has changed nothing. One that was refused after a change is answered 502.
//
// # Limits
//
// Options bounds bodies (MaxBody; opscenter.MaxSeedSize and 64 KiB for seeds, the feed's own limit for uploads, MaxForward for
// forwarded bodies), times (ReadTimeout, WriteTimeout, ForwardTimeout), failures of unknown clients (FailuresPerMinute, MaxAddresses) and
// downloads (MaxDownloads, MaxDownloadsPerAddress, DownloadPatience, DownloadRate). The constants of this package are their defaults.
//
// # Performance
//
// The machine has 2 shared cores. 16 clients register on Badger with synced writes. The limit is the same TLS handshake and one raw, synced
// write to Badger. Figures are of one run of some hundred registrations.
//
//	go test -run '^$' -bench Register -count 3 -timeout 30m ./opscenter/httpapi
//
//	                limit              httpapi            ratio
//	a registration  2.02 ms (495/s)    2.10 ms (476/s)    0.96 of the limit's rate
//
// Reads of 1,000 servers with 26 KiB of facts each, over HTTP on loopback, of Badger. The limit is a bare handler that writes the same
// bytes. Encoding the documents of the list without facts takes 2.9 ms, and iterating over the keys 0.2 ms. Means of 30 requests:
//
//	go test -run '^$' -bench Lists -benchtime 30x ./opscenter/httpapi
//
//	                            limit      httpapi    ratio
//	names                       0.26 ms    0.78 ms    3.0
//	list, facts=0               9.0 ms     12.6 ms    1.4
//	list with facts             37.6 ms    71.9 ms    1.9
//	list with facts in zstd     11.4 ms    40.1 ms    3.5
//	get with facts              0.26 ms    0.25 ms    1.0
//	get with facts in zstd      0.21 ms    0.18 ms    0.9
//
// A list of 200 updates takes 0.05 ms. Package updates has figures of downloads.
//
//	go test -run '^$' -bench FeedList ./opscenter/httpapi
package httpapi
