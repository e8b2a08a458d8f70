// Package sdk is the root of opscenter, the Go SDK for running a fleet of IncusOS servers.
//
// It holds no code. Start with package opscenter: its Registry knows who the servers are,
// its UpdatePlanner what to do next; package poller finds out how they are; package httpapi
// (opscenter/httpapi) serves the endpoints that IncusOS servers call. Package rolling
// (opscenter/rolling) decides what a rolling update does, package rollout (opscenter/rollout)
// carries it out, package cluster (opscenter/cluster) forms Incus clusters, package inventory
// (opscenter/inventory) knows what is in them. Package system (opscenter/system) changes servers
// from afar, their networks (opscenter/network) above all, and package audit (opscenter/audit)
// keeps who did. They stand on a storage.Store: storage/memstore in memory, storage/badgerstore on disk. The programs
// under examples show the whole of it at work.
//
// What a hostile server can cost is in the documentation of package opscenter.
package sdk
