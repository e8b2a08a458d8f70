package controlplane

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/opscenter/httpapi"
)

// Errors of Run, Serve and ListenAndServe.
var (
	// ErrRunning: the control plane runs, or has run. It runs once.
	ErrRunning = errors.New("the control plane runs, or has run")
	// ErrClosed: the control plane was closed before it ran.
	ErrClosed = errors.New("the control plane is closed")
	// ErrStopTimeout: a part still ran Options.StopTimeout after the stop. The error names the part.
	ErrStopTimeout = errors.New("has not ended in time")
	// ErrEnded: a part ended while it should have run, and told no error.
	ErrEnded = errors.New("has ended by itself")
)

// Run runs the parts, and serves the Unix socket of Options.Socket, until ctx ends, Close is called or a part fails. It owns all goroutines: it
// returns when all of them, and the requests under way, have ended or ErrStopTimeout applies, and has closed the ControlPlane then. The package documentation has the order.
//
// Run returns nil after an orderly stop. Otherwise its error has the part that failed, and all that went wrong at the stop. Errors: ErrRunning,
// ErrClosed, ErrStopTimeout, ErrEnded, those of the parts, of the listeners and of the store.
func (c *ControlPlane) Run(ctx context.Context) error { return c.run(ctx, nil) }

// Serve runs as Run does, and serves HTTPS on the listener with Handler and TLSConfig. It closes the listener.
func (c *ControlPlane) Serve(ctx context.Context, listener net.Listener) error {
	defer listener.Close()
	return c.run(ctx, func() (net.Listener, error) { return listener, nil })
}

// ListenAndServe listens on a TCP address, as ":7443", and serves there as Serve does. Where it can't listen, that is a run that has failed.
func (c *ControlPlane) ListenAndServe(ctx context.Context, address string) error {
	return c.run(ctx, func() (net.Listener, error) { return net.Listen("tcp", address) })
}

// Close ends a run and waits for its end. Without a run it closes what New has opened, and flushes the Registry into the store. Later calls
// return the same. The run itself returns its errors, of which Close returns those of closing.
func (c *ControlPlane) Close() error {
	c.mu.Lock()
	c.closed = true
	stop := c.stop
	c.mu.Unlock()
	if stop != nil {
		stop()
		<-c.ended
	}
	return c.release()
}

// begin takes the only turn to run.
func (c *ControlPlane) begin(ctx context.Context) (context.Context, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.started:
		return nil, ErrRunning
	case c.closed:
		return nil, ErrClosed
	}
	c.started = true
	ctx, c.stop = context.WithCancel(ctx)
	return ctx, nil
}

// run runs the parts, and serves HTTPS where listen listens; nil: nowhere.
func (c *ControlPlane) run(ctx context.Context, listen func() (net.Listener, error)) error {
	ctx, err := c.begin(ctx)
	if err != nil {
		return err
	}
	defer close(c.ended)
	defer c.stop()
	var listener net.Listener
	if listen != nil {
		if listener, err = listen(); err != nil {
			return errors.Join(err, c.release())
		}
	}
	return errors.Join(together(ctx, c.options.StopTimeout, c.parts(listener)...), c.release())
}

// release closes what New has opened, within StopTimeout: a store may not end with its context.
func (c *ControlPlane) release() error {
	c.requests.close()
	c.requests.cutAll()
	ended := make(chan error, 1)
	go func() { ended <- c.released() }()
	timer := time.NewTimer(c.options.StopTimeout)
	defer timer.Stop()
	select {
	case err := <-ended:
		return err
	case <-timer.C:
		return fmt.Errorf("closing: %w: %s", ErrStopTimeout, c.options.StopTimeout)
	}
}

// parts are all that runs.
func (c *ControlPlane) parts(listener net.Listener) []part {
	parts := []part{{"poller", c.Poller.Run}, {"rollouts", c.Rollouts.Run}, {"inventory", c.Inventory.Run}, {"systems", c.Systems.Run}}
	if c.Updates != nil {
		parts = append(parts, part{"updates", c.Updates.Run})
	}
	if listener != nil {
		web := httpapi.NewServer(c.requests, c.TLSConfig(), c.options.HTTP.Logger)
		parts = append(parts, part{"endpoint", c.serving(web, func() error { return web.ServeTLS(listener, "", "") })})
	}
	if c.socket != nil {
		local := httpapi.NewServer(c.requests, nil, c.options.HTTP.Logger)
		local.BaseContext = overSocket
		parts = append(parts, part{"socket", c.serving(local, func() error { return local.Serve(c.socket) })})
	}
	return append(parts, part{"requests", func(ctx context.Context) error {
		<-ctx.Done()
		if c.WebUI != nil {
			_ = c.WebUI.Close() // its streams would not end by themselves
		}
		patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.options.DrainTimeout)
		defer cancel()
		c.requests.drain(patience)
		return ctx.Err()
	}})
}

// serving serves until ctx ends, lets requests under way end for DrainTimeout, and cuts off the others.
func (c *ControlPlane) serving(server *http.Server, serve func() error) func(context.Context) error {
	return func(ctx context.Context) error {
		ended := make(chan error, 1)
		go func() { ended <- serve() }()
		select {
		case err := <-ended:
			return errors.Join(err, server.Close())
		case <-ctx.Done():
		}
		patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.options.DrainTimeout)
		defer cancel()
		if server.Shutdown(patience) != nil {
			_ = server.Close()
		}
		<-ended
		return ctx.Err()
	}
}

// part is one of those that run together.
type part struct {
	name string
	run  func(ctx context.Context) error
}

// together runs parts until ctx ends or one part fails. It then ends the others, and waits for at most patience. Only the end
// of a context is no failure.
func together(ctx context.Context, patience time.Duration, parts ...part) error {
	// The context of the parts is only ever canceled, also if ctx has a deadline.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	type end struct {
		name string
		err  error
	}
	ends := make(chan end, len(parts))
	left := map[string]bool{}
	for _, p := range parts {
		left[p.name] = true
		go func() { ends <- end{p.name, p.run(running)} }()
	}
	var errs []error
	var late <-chan time.Time
	told := ctx.Done()
	stopAll := func() {
		stop()
		if late == nil {
			late = time.After(patience)
		}
	}
	for len(left) > 0 {
		select {
		case e := <-ends:
			delete(left, e.name)
			if running.Err() != nil {
				e.err = withoutCanceled(e.err)
			} else if e.err == nil {
				e.err = ErrEnded
			}
			if e.err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", e.name, e.err))
			}
			stopAll()
		case <-told:
			told = nil
			stopAll()
		case <-late:
			names := slices.Sorted(maps.Keys(left))
			return errors.Join(append(errs, fmt.Errorf("%s: %w: %s", strings.Join(names, ", "), ErrStopTimeout, patience))...)
		}
	}
	return errors.Join(errs...)
}

// withoutCanceled returns what an error says beside that its context has ended.
func withoutCanceled(err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var rest []error
		for _, one := range joined.Unwrap() {
			rest = append(rest, withoutCanceled(one))
		}
		return errors.Join(rest...)
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
