package system

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter/network"
)

// seen is the result of a probe of one URL.
type seen struct {
	url   string
	probe *Probe
	err   error
	// former: the server has the configuration from before the change. foreign names the wanted settings that its
	// configuration lacks; empty: none.
	former  bool
	foreign string
}

// decision is the next action about a network change. A confirm URL: confirm the change there. Else a status: end the
// change with that status, URL and reason. Else: wait.
type decision struct {
	confirm string
	status  Status
	url     string
	reason  string
	// good is the URL where the server was found as it should be. Empty: it was not.
	good string
	// seen: only the change is lost; the server was found.
	seen bool
}

// evidence holds the facts about a server whose network changes, at one moment.
type evidence struct {
	found []seen
	// current is the connection URL of the server's record.
	current string
	// reported: since it was asked, the server has sent a self update about a changed network.
	reported bool
	// settled: the change was confirmed, or no change is pending on the server.
	settled bool
}

// decide returns the next action about a network change whose server was asked. It is pure.
//
// IncusOS starts its timeout when it is asked. It undoes the change when the timeout ends, even while it still applies
// the change. A confirmation that arrives meanwhile would count for the next change. So decide confirms nothing
// near the end of the timeout.
func decide(c *Change, e evidence, at time.Time) decision {
	var good, former, other *seen
	var reasons []string
	for i := range e.found {
		s := &e.found[i]
		switch problem := c.problem(s, e, at); {
		case s.err != nil:
			reasons = append(reasons, fmt.Sprintf("%s: %v", s.url, s.err))
		case s.former:
			if former == nil || s.url == c.OldURL {
				former = s
			}
		case problem != "":
			reasons = append([]string{fmt.Sprintf("the server is seen at %s, and %s", s.url, problem)}, reasons...)
			if other == nil || s.url == e.current {
				other = s
			}
		case good == nil || s.url == e.current:
			good = s
		}
	}
	why := truncate.Text(strings.Join(reasons, "; "), maxReason)
	due := !c.hidden.RollBackAt.IsZero() && !at.Before(c.hidden.RollBackAt)
	over := !at.Before(c.hidden.GiveUpAt)
	switch {
	case good != nil && (e.settled || c.Timeout == 0):
		return decision{status: StatusDone, url: c.newURL(good), reason: "the server is seen at " + good.url + c.failureNote(), good: good.url}
	case good != nil && due && at.After(c.hidden.RollBackAt.Add(c.hidden.GiveUpAt.Sub(c.hidden.RollBackAt)/2)):
		return decision{status: StatusDone, url: c.newURL(good), reason: "the server is seen at " + good.url + ", and has kept it", good: good.url}
	case good != nil && at.Before(c.hidden.ConfirmBy):
		return decision{confirm: good.url, reason: "the server is seen at " + good.url + ", and the change is confirmed", good: good.url}
	case good != nil && !over:
		return decision{reason: "the server is seen at " + good.url + ", too late for a confirmation"}
	case former != nil && (e.settled || due):
		return decision{status: StatusRolledBack, url: former.url, reason: "the server has its former configuration, and is seen at " + former.url + c.earlierReason()}
	case over && former != nil:
		return decision{status: StatusRolledBack, url: former.url, reason: "the server still has its former configuration, and is seen at " + former.url + c.earlierReason()}
	case over && other != nil && c.kept(other, e, at): // a boot ends the wait for the confirmation
		return decision{status: StatusDone, url: c.newURL(other), reason: "the server is seen at " + other.url + ", and has kept it" + c.failureNote(), good: other.url}
	case over && other != nil:
		return decision{status: StatusLost, url: c.newURL(other), reason: why, seen: true}
	case over:
		return decision{status: StatusLost, url: c.expectedURL(), reason: why}
	case former != nil:
		return decision{reason: stillFormer}
	}
	return decision{reason: why}
}

const stillFormer = "the server still has its former configuration"

// expectedURL returns where a server that was not found is expected: at its old URL, if it undoes the change. Empty:
// the server may have kept the change, so the URL of its record stays.
func (c *Change) expectedURL() string {
	if c.Timeout == 0 || c.hidden.Confirming {
		return ""
	}
	return c.OldURL
}

// failureNote repeats the failure that the server reported, if any.
func (c *Change) failureNote() string {
	if c.hidden.Failed == "" {
		return ""
	}
	return "; it reported: " + c.hidden.Failed
}

// maxReason bounds a reason, in bytes.
const maxReason = 700

// earlierReason repeats the reason why a change was not confirmed.
func (c *Change) earlierReason() string {
	if c.Reason == "" {
		return ""
	}
	return "; before: " + strings.TrimPrefix(c.Reason, notConfirmed)
}

const notConfirmed = "not confirmed in time: "

// pending reports whether the server applies a change. A change that waits for its confirmation does not
// count: servers don't report it.
func (p *Probe) pending() bool {
	return p.Network != nil && p.Network.State != nil && p.Network.State.ConfigurationInProcess
}

// newURL returns the connection URL to record: that of the probe, or empty if the change moves nothing.
func (c *Change) newURL(s *seen) string {
	if !c.Moves {
		return ""
	}
	return s.url
}

// kept reports whether a server has the new configuration for good. Its reports don't matter any more, because it
// can no longer undo the change.
func (c *Change) kept(s *seen, e evidence, at time.Time) bool {
	e.reported, e.settled = true, true
	return c.problem(s, e, at) == ""
}

// problem returns the reason why a probe does not prove that a change works. Empty: it proves that.
func (c *Change) problem(s *seen, e evidence, at time.Time) string {
	switch {
	case s.err != nil || s.former:
		return "it is not"
	case s.probe.anotherThan(c.hidden.MachineID):
		return "is another machine"
	case s.foreign != "":
		return "has another configuration than the wanted one: " + s.foreign
	case c.hidden.Failed != "" && c.Timeout > 0 && !e.settled:
		return "has reported: " + c.hidden.Failed
	case c.hidden.Member == "Online" && s.probe.Member != c.hidden.Member:
		return fmt.Sprintf("its cluster reports it as %s", s.probe.Member)
	}
	remote := s.probe.Remote.String()
	arrived := slices.Contains(c.hidden.Expected, remote)
	selfReported := e.current != c.OldURL && s.url == e.current
	if c.Moves && !selfReported && !arrived && !(c.hidden.Dynamic && slices.Contains(managedAt(s.probe.Network), s.probe.Remote)) {
		// The addresses that the server reports count only if its configuration does not list them: the server may
		// not have applied the change so far.
		return fmt.Sprintf("that is none of its new addresses for management (%s)", strings.Join(c.hidden.Expected, ", "))
	}
	// A server stores the configuration before it applies it, so the stored configuration proves nothing. A new
	// address proves the change, but only after ProvenAt: until then it may fail, for example at the DNS check.
	moved := arrived && !slices.Contains(c.hidden.Former, remote) && !at.Before(c.hidden.ProvenAt)
	if !c.hidden.Applied && !e.reported && !selfReported && !moved {
		return "has not reported that it applied its configuration"
	}
	return ""
}

// managedAt returns the management addresses that a server reports.
func managedAt(n *network.Network) (out []netip.Addr) {
	if n == nil || n.State == nil {
		return nil
	}
	for _, i := range n.State.Interfaces {
		if !slices.Contains(i.Roles, network.RoleManagement) {
			continue
		}
		for _, text := range i.Addresses {
			text, _, _ = strings.Cut(text, "/")
			if a, err := netip.ParseAddr(text); err == nil {
				out = append(out, a.Unmap())
			}
		}
	}
	return out
}

// places returns the URLs to probe: the old one, the one of the record, and those of the new configuration.
func (c *Change) places(current string) []string {
	out := []string{c.OldURL}
	add := func(place string) {
		if place != "" && !slices.Contains(out, place) {
			out = append(out, place)
		}
	}
	add(current)
	if u, err := url.Parse(c.OldURL); err == nil {
		for _, address := range c.hidden.Expected {
			a, err := netip.ParseAddr(address)
			if err != nil {
				continue
			}
			at := *u
			at.Host = a.String()
			if a.Is6() {
				at.Host = "[" + a.String() + "]"
			}
			if port := u.Port(); port != "" {
				at.Host += ":" + port
			}
			add(at.String())
		}
	}
	return out
}

// maxPlaces bounds the URLs that one step probes.
const maxPlaces = 16
