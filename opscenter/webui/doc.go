// Package webui is the web page of a control plane. It shows the fleet, servers, clusters, rollouts, the inventory, updates, tokens, events,
// warnings and the audit log. Forms change them.
//
//	sessions, err := webui.NewSessions(webui.SessionOptions{})
//	authorize := httpapi.AnyOf(sessions.Authorize, httpapi.TrustAccessTokens(tokens))
//	api, err := httpapi.New(registry, httpapi.Options{Authorize: authorize, ...})
//	page, err := webui.New(webui.Options{API: api, Registry: registry, Authorize: authorize, Sessions: sessions, LogIn: tokens.Principal})
//
// Mount the API at /1.0 and /1.0/, and the page at /. Package controlplane does all this with its option WebUI.
//
// # How it works
//
// Pages are HTML that is made here of answers of the API: the handler calls the API in the same process, with the credentials of the request. So the
// API's table of routes decides on the rights of a principal, for pages as for programs. A form sends one request. Before a change that has a
// consequence, a page shows the consequence, and asks. All pages can be read, and all forms can be sent, without JavaScript.
//
// With JavaScript, pages move: one stream of server-sent events tells an open page which of its parts changed, and the page loads these parts again. The
// map of the fleet gets each changed server. All streams share one index of the fleet in memory, which follows the registry while
// pages are open, and for five minutes more. A change is read once, however many pages are open.
//
// # Safety
//
// Servers may be hostile, and their names and facts are shown. Templates escape each text by its place (html/template). The Content-Security-Policy admits
// no code and no style within a page, and nothing of another host. Forms of pages of other sites are refused (http.CrossOriginProtection).
// The cookie of a session has the prefix __Host-, and can't be read by scripts. A session ends with its access token, after
// SessionOptions.IdleTimeout and SessionOptions.Lifetime, and with the log-out. Secrets are shown where they are made, and the UUIDs of tokens to
// administrators, as by the API.
//
// # Performance
//
// On 2 shared cores, over HTTPS, medians of three runs. A fleet of 10,000 servers on Badger: its first page takes 59 ms when the index of the fleet is
// made, and 0.6 ms later. The limit is 200 ms. The page and its files have 24 KB, and the map comes over the stream (260 KB). In Chromium the map is complete
// 0.75 s after the page was asked for. 200 open fleet pages take 0.04 of the processors while five servers a second change. The limit is 0.05.
//
//	go test -run '^$' -bench 'FleetPage|OpenPages' -count 3 ./opscenter/webui
package webui
