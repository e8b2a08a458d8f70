// Package sdk is the root of opscenter, a Go library for building an IncusOS control plane. It holds no code.
//
// Start with package opscenter/controlplane: it assembles a whole control plane out of the packages below, in ten lines.
// Programs that need single parts use these packages themselves:
//
//   - opscenter stores the servers: tokens, registration, clusters, channels, events and warnings. Its UpdatePlanner
//     recommends the next action for each server. opscenter/lifecycle has the rules.
//   - poller polls the servers, and opscenter/incusos connects to them.
//   - opscenter/httpapi serves the endpoints that servers call, and the REST API for operators.
//   - opscenter/rolling decides the steps of a rolling update, and opscenter/rollout carries them out.
//   - opscenter/updates is the update feed. opscenter/seed and opscenter/image make installation images.
//   - opscenter/cluster forms Incus clusters, and opscenter/inventory lists the objects in them.
//   - opscenter/system changes the network and the settings of servers, and opscenter/audit records the operator and the outcome of each change.
//   - storage/memstore keeps everything in memory, storage/badgerstore on disk.
//
// The programs under examples show all parts at work. README has the list of all packages. The documentation of package opscenter
// states the costs that a hostile server can cause.
package sdk
