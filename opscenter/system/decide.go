package system

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/opscenter/network"
)

// seen is what a look at one URL has found.
type seen struct {
	url   string
	sight *Sight
	err   error
	// former: the configuration is the one from before the change. foreign names what of the
	// change it does not have; empty: nothing.
	former  bool
	foreign string
}

// move is what to do next about a change of a network.
type move struct {
	// confirm at that URL; else end, unless status is empty; else wait.
	confirm string
	status  Status
	url     string
	reason  string
	// good is where it was found as it should be; empty: nowhere.
	good string
	// seen: what is lost is the change, and not the server.
	seen bool
}

// evidence is what is known of a server whose network changes, at one moment.
type evidence struct {
	found []seen
	// current is the connection URL of its record.
	current string
	// said: since it was asked it has sent a self update that its network has changed.
	said bool
	// settled: it was told that all is well, or has nothing pending.
	settled bool
}

// decide says what to do next about a change of a network whose server was asked. It is pure.
//
// IncusOS starts to count when it is asked, and begins to undo the change when the time is up,
// whatever it is at. A confirmation that comes while it undoes the change would be taken for
// one of the next change, so none is sent when that is near.
func decide(c *Change, e evidence, at time.Time) move {
	var good, former, other *seen
	var whys []string
	for i := range e.found {
		s := &e.found[i]
		switch problem := c.problem(s, e, at); {
		case s.err != nil:
			whys = append(whys, fmt.Sprintf("%s: %v", s.url, s.err))
		case s.former:
			if former == nil || s.url == c.OldURL {
				former = s
			}
		case problem != "":
			whys = append([]string{fmt.Sprintf("it is seen at %s, and %s", s.url, problem)}, whys...)
			if other == nil || s.url == e.current {
				other = s
			}
		case good == nil || s.url == e.current:
			good = s
		}
	}
	why := shortened(strings.Join(whys, "; "))
	due := !c.hidden.RollBackAt.IsZero() && !at.Before(c.hidden.RollBackAt)
	over := !at.Before(c.hidden.GiveUpAt)
	switch {
	case good != nil && (e.settled || c.Timeout == 0):
		return move{status: StatusDone, url: c.where(good), reason: "it is seen at " + good.url + c.said(), good: good.url}
	case good != nil && due && at.After(c.hidden.RollBackAt.Add(c.hidden.GiveUpAt.Sub(c.hidden.RollBackAt)/2)):
		return move{status: StatusDone, url: c.where(good), reason: "it is seen at " + good.url + ", and has kept it", good: good.url}
	case good != nil && at.Before(c.hidden.ConfirmBy):
		return move{confirm: good.url, reason: "it is seen at " + good.url + ", and told so", good: good.url}
	case good != nil && !over:
		return move{reason: "it is seen at " + good.url + ", too late to tell it so"}
	case former != nil && (e.settled || due):
		return move{status: StatusRolledBack, url: former.url, reason: "it has its former configuration, and is seen at " + former.url + c.last()}
	case over && former != nil:
		return move{status: StatusRolledBack, url: former.url, reason: "it has its former configuration still, and is seen at " + former.url + c.last()}
	case over && other != nil && c.kept(other, e, at): // a boot ends the wait for the confirmation
		return move{status: StatusDone, url: c.where(other), reason: "it is seen at " + other.url + ", and has kept it" + c.said(), good: other.url}
	case over && other != nil:
		return move{status: StatusLost, url: c.where(other), reason: why, seen: true}
	case over:
		return move{status: StatusLost, url: c.home(), reason: why}
	case former != nil:
		return move{reason: stillFormer}
	}
	return move{reason: why}
}

const stillFormer = "it has its former configuration still"

// home is where a server that is not seen is expected: where it was, if it has undone the
// change. Where it may have kept it, nobody knows better than its record.
func (c *Change) home() string {
	if c.Timeout == 0 || c.hidden.Confirming {
		return ""
	}
	return c.OldURL
}

func (c *Change) said() string {
	if c.hidden.Failed == "" {
		return ""
	}
	return "; it said: " + c.hidden.Failed
}

// shortened limits a reason.
func shortened(why string) string {
	if len(why) > maxReason {
		why = strings.ToValidUTF8(why[:maxReason], "") + "…"
	}
	return why
}

// maxReason bounds what is said of what was seen, in bytes.
const maxReason = 700

// last repeats why a change was not confirmed.
func (c *Change) last() string {
	if c.Reason == "" {
		return ""
	}
	return "; before: " + strings.TrimPrefix(c.Reason, notConfirmed)
}

const notConfirmed = "not confirmed in time: "

// pending reports whether a change is being made, as far as the server says: it does not say
// whether one waits for its confirmation.
func (s *Sight) pending() bool {
	return s.Network != nil && s.Network.State != nil && s.Network.State.ConfigurationInProcess
}

// where returns the connection URL to keep: the one it was reached at, unless nothing moves.
func (c *Change) where(s *seen) string {
	if !c.Moves {
		return ""
	}
	return s.url
}

// kept reports whether a server has the configuration for good, whatever it has said: nothing of it is to be
// expected any more.
func (c *Change) kept(s *seen, e evidence, at time.Time) bool {
	e.said, e.settled = true, true
	return c.problem(s, e, at) == ""
}

// problem says why a sight is no proof that a change works; empty: it is.
func (c *Change) problem(s *seen, e evidence, at time.Time) string {
	switch {
	case s.err != nil || s.former:
		return "it is not"
	case s.sight.anotherThan(c.hidden.MachineID):
		return "is another machine"
	case s.foreign != "":
		return "has a configuration that is not ours: " + s.foreign
	case c.hidden.Failed != "" && c.Timeout > 0 && !e.settled:
		return "has said: " + c.hidden.Failed
	case c.hidden.Member == "Online" && s.sight.Member != c.hidden.Member:
		return fmt.Sprintf("its cluster says that it is %s", s.sight.Member)
	}
	remote := s.sight.Remote.String()
	arrived := slices.Contains(c.hidden.Expected, remote)
	itsWord := e.current != c.OldURL && s.url == e.current
	if c.Moves && !itsWord && !arrived && !(c.hidden.Dynamic && slices.Contains(managedAt(s.sight.Network), s.sight.Remote)) {
		// What the server says of its addresses only counts where its configuration does not say
		// them: it may not have got around to the change yet.
		return fmt.Sprintf("that is none of its new addresses for management (%s)", strings.Join(c.hidden.Expected, ", "))
	}
	// The configuration is stored before it is applied: that it is there is no proof. That it is at an address
	// which it did not have is one in the end: at first it may fail still, as where DNS does not work.
	moved := arrived && !slices.Contains(c.hidden.Former, remote) && !at.Before(c.hidden.ProvenAt)
	if !c.hidden.Applied && !e.said && !itsWord && !moved {
		return "has not said that it has applied its configuration"
	}
	return ""
}

// managedAt returns the addresses that a server says it has for its management.
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

// places returns the URLs to look for a server at: where it was, where it says that it is, and
// where its configuration puts it.
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

// maxPlaces bounds at how many URLs a server is looked for at a time.
const maxPlaces = 16
