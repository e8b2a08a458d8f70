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

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// Update makes the server fetch and apply what its update feed offers. It returns when the
// server has accepted that; the update itself shows in later probes.
func (c *Client) Update(ctx context.Context, target opscenter.Target) error {
	return c.post(ctx, target, "/os/1.0/system/update/:check")
}

// UpdateApplication makes the server look for an update of one application, and apply it. It returns when the server has
// accepted that. Errors: opscenter.ErrNotApplicable if its release can't, or has no such application; those of Update.
func (c *Client) UpdateApplication(ctx context.Context, target opscenter.Target, application string) error {
	err := c.post(ctx, target, "/os/1.0/applications/"+url.PathEscape(application)+"/:check-update")
	if api.StatusErrorCheck(err, http.StatusNotFound, http.StatusMethodNotAllowed) {
		return fmt.Errorf("server %q: its release does not update application %q by itself, or has none: %w", target.Name, application, opscenter.ErrNotApplicable)
	}
	return err
}

// Reboot reboots the server. It returns when the server has accepted that.
func (c *Client) Reboot(ctx context.Context, target opscenter.Target) error {
	return c.post(ctx, target, "/os/1.0/system/:reboot")
}

// post sends a command that is not repeated: where the answer is lost, the outcome is unknown.
func (c *Client) post(ctx context.Context, target opscenter.Target, path string) error {
	if err := ctx.Err(); err != nil {
		return err // nothing was asked
	}
	p, err := c.fleet.peer(target)
	if err != nil {
		return err
	}
	// On a kept connection that the server has closed meanwhile, a command would be lost
	// without a word: each gets a new one.
	p.alone = true
	connection, err := connect(ctx, target, p)
	if err != nil {
		return err
	}
	_, err = session{connection}.call(http.MethodPost, path, nil)
	return unlessRefused(err)
}

// PowerOff shuts the server down. It returns when the server has accepted that.
func (c *Client) PowerOff(ctx context.Context, target opscenter.Target) error {
	return c.post(ctx, target, "/os/1.0/system/:poweroff")
}

// Suspend suspends the server to memory. It returns when the server has accepted that.
func (c *Client) Suspend(ctx context.Context, target opscenter.Target) error {
	return c.post(ctx, target, "/os/1.0/system/:suspend")
}

// Evacuate moves the instances of a cluster member away, and returns when they are. Mode is
// auto, migrate, live-migrate or stop; empty: auto. The only member of a cluster has nowhere
// to move them to: there auto stops them. Once the server has been asked, an error that is not
// its own word is an opscenter.ErrOutcomeUnknown: ctx ended, or the answer was lost. A member
// that is evacuated already is left as it is, one that is on the way is waited for.
func (c *Client) Evacuate(ctx context.Context, target opscenter.Target, mode string) error {
	if mode == "" {
		mode = "auto"
	}
	return c.setMember(ctx, target, api.ClusterMemberStatePost{Action: "evacuate", Mode: mode}, lifecycle.MaintenanceEvacuated)
}

// Restore brings the instances of a cluster member back, and returns when they are; mode skip
// leaves them where they are. Errors are as those of Evacuate. A member that is not evacuated
// is left as it is.
func (c *Client) Restore(ctx context.Context, target opscenter.Target, mode string) error {
	return c.setMember(ctx, target, api.ClusterMemberStatePost{Action: "restore", Mode: mode}, lifecycle.NotInMaintenance)
}

func (c *Client) setMember(ctx context.Context, target opscenter.Target, change api.ClusterMemberStatePost, want lifecycle.MaintenanceState) error {
	connection, err := c.Connect(ctx, target)
	if err != nil {
		return err
	}
	s := session{connection}
	if target.MemberName == "" {
		return fmt.Errorf("server %q: %s is for members of an Incus cluster: %w", target.Name, change.Action, opscenter.ErrNotApplicable)
	}
	// The status shows before the operation ends: one that another controller began, or that
	// was cut off, is waited for first, however it ends.
	if err := c.settle(ctx, target, s); err != nil {
		return err
	}
	status, err := memberStatus(s, target.MemberName)
	if err != nil {
		return err
	}
	if maintenanceOf(status) == want {
		if want != lifecycle.MaintenanceEvacuated {
			return nil // older daemons refuse to do again what is done
		}
		left, err := c.left(ctx, target)
		if err != nil || left == "" {
			return err
		}
		// The daemon died in the middle: the status shows from the beginning, and stays. It
		// is taken back first, as it can't be asked for again.
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
		return unlessRefused(err)
	}
	if err := c.wait(ctx, target, answer.Operation); err != nil && !errors.Is(err, errForgotten) {
		return err
	}
	// The status can show before the operation ends, and flips back when it fails: it
	// counts now.
	if connection, err = c.Connect(ctx, target); err == nil {
		status, err = memberStatus(session{connection}, target.MemberName)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", opscenter.ErrOutcomeUnknown, err)
	}
	if maintenanceOf(status) != want {
		return fmt.Errorf("server %q is %s after its operation %s ended: %w", target.Name, status, change.Action, opscenter.ErrRefused)
	}
	if want == lifecycle.MaintenanceEvacuated {
		left, err := c.left(ctx, target)
		if err != nil {
			return fmt.Errorf("%w: %w", opscenter.ErrOutcomeUnknown, err)
		}
		if left != "" {
			return fmt.Errorf("instance %s runs on server %q still: %w", left, target.Name, opscenter.ErrRefused)
		}
	}
	return nil
}

// left returns an instance that runs on a cluster's member; empty: none does. An instance that Incus
// can't tell more of may run: ErrOutcomeUnknown.
func (c *Client) left(ctx context.Context, target opscenter.Target) (string, error) {
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
			return limited(i.Name, maxText), nil
		case i.StatusCode == api.Error && i.Config == nil:
			return "", fmt.Errorf("instance %q can't be read, and may run: %w", limited(i.Name, maxText), opscenter.ErrOutcomeUnknown)
		}
	}
	return "", nil
}

// settle waits for an evacuation or a restore of the member that is under way.
func (c *Client) settle(ctx context.Context, target opscenter.Target, s session) error {
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

// isMaintenance reports whether that is how Incus describes an evacuation or a restore.
func isMaintenance(description string) bool {
	text := strings.ToLower(description)
	return strings.Contains(text, "evacuat") || strings.Contains(text, "restoring cluster") || strings.Contains(text, "restore server")
}

// unlessRefused makes an unknown outcome of every error but the server's own word, and that
// of a connection that never was.
func unlessRefused(err error) error {
	if _, refused := api.StatusErrorMatch(err); refused {
		return fmt.Errorf("%w: %w", opscenter.ErrRefused, err)
	}
	if err == nil {
		return nil
	}
	if errors.Is(err, errDial) || errors.Is(err, errHandshake) || errors.Is(err, ErrClosed) {
		return reached(err) // it was not asked
	}
	return fmt.Errorf("%w: %w", opscenter.ErrOutcomeUnknown, err)
}

// waitRetry is the pause after a wait that was cut off.
const waitRetry = 500 * time.Millisecond

// errForgotten: the server knows of the operation no more, as some seconds after its end, or
// when it restarted: what it is like tells how it ended.
var errForgotten = fmt.Errorf("the operation is not known any more: %w", opscenter.ErrOutcomeUnknown)

// wait waits for an operation of the server, in steps below the time an answer may take,
// across lost connections, until ctx ends.
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
			if _, word := api.StatusErrorMatch(err); word {
				// Incus answers the wait for an operation that failed with the operation's own
				// error, whatever its status.
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
					return errForgotten
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

// operationError is why an operation failed.
func operationError(op *api.Operation) error {
	return fmt.Errorf("%w: operation %s: %s %s", opscenter.ErrRefused, limited(op.Description, maxText), op.Status, limited(op.Err, maxMessage))
}
