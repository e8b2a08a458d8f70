package incusos

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/lxc/incus/v6/shared/api"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// Update makes the server check its update feed, and apply updates. It returns when the server has
// accepted the command. Later probes show the progress.
//
// This and the following commands are sent once, and not repeated. Errors: opscenter.ErrUnreachable if
// the command was not sent, opscenter.ErrRefused with the server's reason if it refused, and
// opscenter.ErrOutcomeUnknown if the answer was lost, or ctx ended.
func (c *Client) Update(ctx context.Context, target opscenter.Target) error {
	return c.post(ctx, target, "/os/1.0/system/update/:check")
}

// UpdateApplication makes the server check for an update of one application, and apply it. It returns when the server
// has accepted the command. Errors: opscenter.ErrNotApplicable if the server's release does not support the command, or
// the application is not installed; those of Update.
func (c *Client) UpdateApplication(ctx context.Context, target opscenter.Target, application string) error {
	err := c.post(ctx, target, "/os/1.0/applications/"+url.PathEscape(application)+"/:check-update")
	if api.StatusErrorCheck(err, http.StatusNotFound, http.StatusMethodNotAllowed) {
		return fmt.Errorf("server %q: its release does not update application %q by itself, or has none: %w", target.Name, application, opscenter.ErrNotApplicable)
	}
	return err
}

// Reboot reboots the server. It returns when the server has accepted the command. Errors are those of Update.
func (c *Client) Reboot(ctx context.Context, target opscenter.Target) error {
	return c.post(ctx, target, "/os/1.0/system/:reboot")
}

// post sends a command once. If its answer is lost, the outcome is unknown.
func (c *Client) post(ctx context.Context, target opscenter.Target, path string) error {
	if err := ctx.Err(); err != nil {
		return err // the server was not asked
	}
	p, err := c.fleet.peer(target)
	if err != nil {
		return err
	}
	// Each command gets a new connection. On an idle one that the server has closed meanwhile, the
	// command would be lost, and its outcome unknown.
	p.alone = true
	connection, err := connect(ctx, target, p)
	if err != nil {
		return err
	}
	_, err = session{connection}.call(http.MethodPost, path, nil)
	return commandError(err)
}

// PowerOff shuts the server down. It returns when the server has accepted the command. Errors are those of Update.
func (c *Client) PowerOff(ctx context.Context, target opscenter.Target) error {
	return c.post(ctx, target, "/os/1.0/system/:poweroff")
}

// Suspend suspends the server to memory. It returns when the server has accepted the command. Errors are those of Update.
func (c *Client) Suspend(ctx context.Context, target opscenter.Target) error {
	return c.post(ctx, target, "/os/1.0/system/:suspend")
}

// Evacuate moves the instances of a cluster member to other members, and returns when all have
// moved. The mode is auto, migrate, live-migrate or stop; empty means auto. If the member is the only
// one of its cluster, auto stops the instances.
//
// Evacuate first waits for an active evacuation or restore of the member. It does nothing to a member
// that is already evacuated. Errors: opscenter.ErrNotApplicable if the target has no MemberName, and
// those of Update.
func (c *Client) Evacuate(ctx context.Context, target opscenter.Target, mode string) error {
	if mode == "" {
		mode = "auto"
	}
	return c.setMember(ctx, target, api.ClusterMemberStatePost{Action: "evacuate", Mode: mode}, lifecycle.MaintenanceEvacuated)
}

// Restore moves the instances of an evacuated cluster member back, and returns when all have moved.
// Mode skip leaves them on the other members. Restore does nothing to a member that is not evacuated.
// Errors are those of Evacuate.
func (c *Client) Restore(ctx context.Context, target opscenter.Target, mode string) error {
	return c.setMember(ctx, target, api.ClusterMemberStatePost{Action: "restore", Mode: mode}, lifecycle.NotInMaintenance)
}

// setMember evacuates or restores a member, and verifies that its state is want.
func (c *Client) setMember(ctx context.Context, target opscenter.Target, change api.ClusterMemberStatePost, want lifecycle.MaintenanceState) error {
	connection, err := c.Connect(ctx, target)
	if err != nil {
		return err
	}
	s := session{connection}
	if target.MemberName == "" {
		return fmt.Errorf("server %q: %s is for members of an Incus cluster: %w", target.Name, change.Action, opscenter.ErrNotApplicable)
	}
	// The status changes before the operation ends. So first wait for an active operation, which
	// another controller or an interrupted call may have begun. Its outcome does not matter.
	if err := c.waitForMaintenance(ctx, target, s); err != nil {
		return err
	}
	status, err := memberStatus(s, target.MemberName)
	if err != nil {
		return err
	}
	if maintenanceOf(status) == want {
		if want != lifecycle.MaintenanceEvacuated {
			return nil // older daemons refuse to restore twice
		}
		running, err := c.runningInstance(ctx, target)
		if err != nil || running == "" {
			return err
		}
		// The status is evacuated, but an instance runs: the daemon died during an evacuation. The
		// daemon refuses to evacuate again, so restore the member first.
		if err := c.setMember(ctx, target, api.ClusterMemberStatePost{Action: "restore"}, lifecycle.NotInMaintenance); err != nil {
			return err
		}
	}
	if change.Mode == "auto" {
		var members []string
		if err := s.get("/1.0/cluster/members", &members); err != nil {
			return err
		}
		if len(members) == 1 {
			change.Mode = "stop"
		}
	}
	answer, err := s.call(http.MethodPost, "/1.0/cluster/members/"+url.PathEscape(target.MemberName)+"/state", change)
	if err != nil {
		return commandError(err)
	}
	if err := c.wait(ctx, target, answer.Operation); err != nil && !errors.Is(err, errOperationGone) {
		return err
	}
	// The status changes before the operation ends, and changes back if the operation fails. It is
	// final only now.
	if connection, err = c.Connect(ctx, target); err == nil {
		status, err = memberStatus(session{connection}, target.MemberName)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", opscenter.ErrOutcomeUnknown, err)
	}
	if maintenanceOf(status) != want {
		return fmt.Errorf("server %q has status %s after its operation %s ended: %w", target.Name, status, change.Action, opscenter.ErrRefused)
	}
	if want == lifecycle.MaintenanceEvacuated {
		running, err := c.runningInstance(ctx, target)
		if err != nil {
			return fmt.Errorf("%w: %w", opscenter.ErrOutcomeUnknown, err)
		}
		if running != "" {
			return fmt.Errorf("instance %s still runs on server %q: %w", running, target.Name, opscenter.ErrRefused)
		}
	}
	return nil
}

// runningInstance returns the name of an instance that runs on the target's cluster member, or "" if none
// runs. An instance whose state Incus can't read may run: the error is then opscenter.ErrOutcomeUnknown.
func (c *Client) runningInstance(ctx context.Context, target opscenter.Target) (string, error) {
	s, err := c.session(ctx, target)
	if err != nil {
		return "", err
	}
	var all []struct {
		Name       string            `json:"name"`
		Status     string            `json:"status"`
		StatusCode api.StatusCode    `json:"status_code"`
		Location   string            `json:"location"`
		Config     map[string]string `json:"config"`
	}
	filter := url.QueryEscape("location eq " + target.MemberName)
	if err := s.get("/1.0/instances?recursion=1&all-projects=true&filter="+filter, &all); err != nil {
		return "", err
	}
	for _, i := range all {
		switch {
		case i.Location != target.MemberName:
		case i.Status == api.Running.String():
			return truncate.Text(i.Name, maxText), nil
		case i.StatusCode == api.Error && i.Config == nil:
			return "", fmt.Errorf("instance %q can't be read, and may run: %w", truncate.Text(i.Name, maxText), opscenter.ErrOutcomeUnknown)
		}
	}
	return "", nil
}

// waitForMaintenance waits for an active evacuation or restore of the member to end.
func (c *Client) waitForMaintenance(ctx context.Context, target opscenter.Target, s session) error {
	var operations map[string][]api.Operation // by status
	if err := s.get("/1.0/operations?recursion=1", &operations); err != nil {
		return err
	}
	for _, list := range operations {
		for _, op := range list {
			if op.StatusCode.IsFinal() || op.Location != target.MemberName && op.Location != "none" && op.Location != "" || !isMaintenance(op.Description) {
				continue
			}
			if err := c.wait(ctx, target, "/1.0/operations/"+url.PathEscape(op.ID)); errors.Is(err, opscenter.ErrOutcomeUnknown) {
				return err
			}
		}
	}
	return nil
}

// isMaintenance reports whether a description of an Incus operation is that of an evacuation or a restore.
func isMaintenance(description string) bool {
	text := strings.ToLower(description)
	return strings.Contains(text, "evacuat") || strings.Contains(text, "restoring cluster") || strings.Contains(text, "restore server")
}

// commandError classifies the error of a command. It is ErrRefused if the server answered with an error,
// ErrUnreachable if the command was not sent, and ErrOutcomeUnknown in all other cases.
func commandError(err error) error {
	if _, refused := api.StatusErrorMatch(err); refused {
		return fmt.Errorf("%w: %w", opscenter.ErrRefused, err)
	}
	if err == nil {
		return nil
	}
	if errors.Is(err, errDial) || errors.Is(err, errHandshake) || errors.Is(err, ErrClosed) {
		return readError(err) // the command was not sent
	}
	return fmt.Errorf("%w: %w", opscenter.ErrOutcomeUnknown, err)
}

// waitRetry is the pause before waiting again for an operation, after a connection was lost.
const waitRetry = 500 * time.Millisecond

// errOperationGone means that the server no longer knows the operation. Servers forget operations some
// seconds after their end, and with a restart. The caller has to read the outcome from the server's state.
var errOperationGone = fmt.Errorf("the server no longer knows the operation: %w", opscenter.ErrOutcomeUnknown)

// wait waits for an operation of the server until ctx ends. Each request waits for less than
// Options.Timeout. wait goes on after lost connections.
func (c *Client) wait(ctx context.Context, target opscenter.Target, operation string) error {
	step := max(1, int(c.options.Timeout.Seconds()/2))
	for {
		var op api.Operation
		connection, err := c.Connect(ctx, target)
		if err == nil {
			err = session{connection}.get(fmt.Sprintf("%s/wait?timeout=%d", operation, step), &op)
		}
		switch {
		case err == nil && op.StatusCode == api.Success:
			return nil
		case err == nil && op.StatusCode.IsFinal():
			return operationError(&op)
		case err != nil:
			if _, answered := api.StatusErrorMatch(err); answered {
				// Incus answers the wait for a failed operation with the operation's error, which can
				// have any status. So read the operation itself.
				connection, again := c.Connect(ctx, target)
				if again == nil {
					again = session{connection}.get(operation, &op)
				}
				switch {
				case again == nil && op.StatusCode == api.Success:
					return nil
				case again == nil && op.StatusCode.IsFinal():
					return operationError(&op)
				case isStatus(again, http.StatusNotFound) && !isStatus(err, http.StatusNotFound):
					return fmt.Errorf("%w: %w", opscenter.ErrRefused, err)
				case isStatus(again, http.StatusNotFound):
					return errOperationGone
				}
			}
			select {
			case <-time.After(waitRetry):
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", opscenter.ErrOutcomeUnknown, errors.Join(ctx.Err(), err))
		}
	}
}

// operationError returns the error of a failed operation.
func operationError(op *api.Operation) error {
	return fmt.Errorf("%w: operation %s: %s %s", opscenter.ErrRefused, truncate.Text(op.Description, maxText), op.Status, truncate.Text(op.Err, maxMessage))
}
