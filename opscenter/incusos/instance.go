package incusos

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/lxc/incus/v6/shared/api"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// shutdownTimeout is Incus's default of boot.host_shutdown_timeout, in seconds.
const shutdownTimeout = 30

// errEphemeral means that the instance is ephemeral. Incus deletes such an instance when it stops.
var errEphemeral = errors.New("the instance is ephemeral: stopping it would delete it; stop it yourself if you intend that")

// RunningInstances returns the running instances of all projects on a server that is in no cluster. It
// returns an error if one of them is ephemeral, because stopping it would delete it. Errors:
// opscenter.ErrNotApplicable for a cluster member, and opscenter.ErrRefused if the state of an instance
// can't be read.
func (c *Client) RunningInstances(ctx context.Context, target opscenter.Target) ([]lifecycle.Instance, error) {
	connection, err := c.Connect(ctx, target)
	if err != nil {
		return nil, err
	}
	var server incusServer
	if err := (session{connection}).get("/1.0", &server); err != nil {
		return nil, err
	}
	if server.Environment.ServerClustered {
		return nil, fmt.Errorf("the server is a member of a cluster: its instances belong to the cluster: %w", opscenter.ErrNotApplicable)
	}
	var all []struct {
		Name      string `json:"name"`
		Project   string `json:"project"`
		Status    string `json:"status"`
		Ephemeral bool   `json:"ephemeral"`

		StatusCode api.StatusCode    `json:"status_code"`
		Config     map[string]string `json:"config"`
	}
	if err := (session{connection}).get("/1.0/instances?recursion=1&all-projects=true", &all); err != nil {
		return nil, err
	}
	var out []lifecycle.Instance
	for _, i := range all {
		if i.StatusCode == api.Error && i.Config == nil { // Incus could not read its state: it may run
			return nil, fmt.Errorf("instance %s of project %s can't be read by its server: %w", truncate.Text(i.Name, maxText), truncate.Text(i.Project, maxText), opscenter.ErrRefused)
		}
		if i.Status == api.Stopped.String() || i.Status == api.Error.String() {
			continue
		}
		if i.Ephemeral {
			return nil, fmt.Errorf("instance %s of project %s: %w", truncate.Text(i.Name, maxText), truncate.Text(i.Project, maxText), errEphemeral)
		}
		out = append(out, lifecycle.Instance{Project: i.Project, Name: i.Name})
	}
	return out, nil
}

// StopInstance stops an instance as Incus does when its host shuts down: gracefully at first, and by force
// after its boot.host_shutdown_timeout (default 30 s). It does nothing if the instance is stopped, or
// does not exist. Errors are those of Update; an ephemeral instance is an error, too.
func (c *Client) StopInstance(ctx context.Context, target opscenter.Target, instance lifecycle.Instance) error {
	found, err := c.instance(ctx, target, instance)
	if err != nil || found == nil || found.Status == api.Stopped.String() {
		return err
	}
	if found.Ephemeral {
		return errEphemeral
	}
	timeout := shutdownTimeout
	if seconds, err := strconv.Atoi(found.ExpandedConfig["boot.host_shutdown_timeout"]); err == nil && seconds >= 0 {
		timeout = seconds
	}
	stopped := func(err error) (bool, error) {
		if err == nil || !errors.Is(err, opscenter.ErrRefused) && !errors.Is(err, errOperationGone) {
			return err == nil, err
		}
		// The instance may have stopped by itself.
		again, lookup := c.instance(ctx, target, instance)
		return lookup == nil && (again == nil || again.Status == api.Stopped.String()), errors.Join(err, lookup)
	}
	done, err := stopped(c.setInstance(ctx, target, instance, api.InstanceStatePut{Action: "stop", Timeout: timeout}))
	if done || !errors.Is(err, opscenter.ErrRefused) {
		return unlessDone(done, err)
	}
	return unlessDone(stopped(c.setInstance(ctx, target, instance, api.InstanceStatePut{Action: "stop", Force: true})))
}

// unlessDone returns the error, or nil if the work is done.
func unlessDone(done bool, err error) error {
	if done {
		return nil
	}
	return err
}

// StartInstance starts an instance. It does nothing if the instance runs, or does not exist. Errors are
// those of Update.
func (c *Client) StartInstance(ctx context.Context, target opscenter.Target, instance lifecycle.Instance) error {
	found, err := c.instance(ctx, target, instance)
	if err != nil || found == nil || found.Status == api.Running.String() {
		return err
	}
	err = c.setInstance(ctx, target, instance, api.InstanceStatePut{Action: "start"})
	if err != nil && (errors.Is(err, opscenter.ErrRefused) || errors.Is(err, errOperationGone)) {
		again, lookup := c.instance(ctx, target, instance)
		return unlessDone(lookup == nil && (again == nil || again.Status == api.Running.String()), err)
	}
	return err
}

func instancePath(i lifecycle.Instance, part string) string {
	return "/1.0/instances/" + url.PathEscape(i.Name) + part + "?project=" + url.QueryEscape(i.Project)
}

// instance returns an instance, or nil if it does not exist.
func (c *Client) instance(ctx context.Context, target opscenter.Target, i lifecycle.Instance) (*api.Instance, error) {
	connection, err := c.Connect(ctx, target)
	if err != nil {
		return nil, err
	}
	var out api.Instance
	switch err := (session{connection}).get(instancePath(i, ""), &out); {
	case isStatus(err, http.StatusNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &out, nil
}

func (c *Client) setInstance(ctx context.Context, target opscenter.Target, i lifecycle.Instance, change api.InstanceStatePut) error {
	connection, err := c.Connect(ctx, target)
	if err != nil {
		return err
	}
	answer, err := session{connection}.call(http.MethodPut, instancePath(i, "/state"), change)
	if err != nil {
		return commandError(err)
	}
	return c.wait(ctx, target, answer.Operation)
}
