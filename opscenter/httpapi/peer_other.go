//go:build !linux && !darwin && !freebsd

package httpapi

import "net"

// peerUID returns no user: this system does not tell the process at the other end of a Unix socket.
func peerUID(*net.UnixConn) (uid uint32, ok bool) { return 0, false }
