package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
)

// socketKey marks the requests that come over the socket of Options.Socket.
type socketKey struct{}

func overSocket(net.Listener) context.Context {
	return context.WithValue(context.Background(), socketKey{}, true)
}

// trustSocket admits those who can open the socket of Options.Socket, and no other Unix socket: one that a proxy uses is open to
// all of its clients.
func trustSocket(r *http.Request) (access.Principal, error) {
	if r.Context().Value(socketKey{}) == nil {
		return access.Principal{}, access.ErrUnauthenticated
	}
	return httpapi.TrustUnixSocket()(r)
}

// socket is a Unix socket that removes its file when it is closed.
type socket struct {
	net.Listener
	path   string
	closed func() error
}

func (s *socket) Close() error { return s.closed() }

// listenSocket listens on a socket that only its owner can open, at no time another user. It removes a socket that an
// earlier run left there. It refuses a path that is in use, or is no socket.
func listenSocket(path string) (*socket, error) {
	info, err := os.Lstat(path)
	if err == nil && info.Mode()&os.ModeSocket == 0 {
		return nil, fmt.Errorf("socket %s exists, and is no socket", path)
	}
	if err == nil {
		if conn, err := net.Dial("unix", path); err == nil {
			conn.Close()
			return nil, fmt.Errorf("socket %s is in use", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("socket: %w", err)
		}
	}
	// Made in a directory of its own, and moved when its mode is right.
	private, err := os.MkdirTemp(filepath.Dir(path), ".socket")
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	defer os.RemoveAll(private)
	made := filepath.Join(private, "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	listener.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(made, 0o600), os.Rename(made, path)); err != nil {
		listener.Close()
		return nil, fmt.Errorf("socket: %w", err)
	}
	s := &socket{Listener: listener, path: path}
	s.closed = sync.OnceValue(func() error {
		err := listener.Close()
		if err == nil {
			_ = os.Remove(path)
		}
		return err
	})
	return s, nil
}
