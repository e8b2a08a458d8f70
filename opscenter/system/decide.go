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
	// former: the configuration is the one from before the change.
	former bool
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
}

// decide says what to do next about a change of a network whose server was asked, from what
// was seen of it. settled tells that the server has nothing pending any more. It is pure.
func decide(c *Change, found []seen, current string, settled bool, at time.Time) move {
	var good, former *seen
	var whys []string
	for i := range found {
		s := &found[i]
		switch problem := c.problem(s, current); {
		case s.err != nil:
			whys = append(whys, fmt.Sprintf("%s: %v", s.url, s.err))
		case s.former:
			if former == nil || s.url == c.OldURL {
				former = s
			}
		case problem != "":
			whys = append([]string{fmt.Sprintf("it is seen at %s, and %s", s.url, problem)}, whys...)
		case good == nil || s.url == current:
			good = s
		}
	}
	why := strings.Join(whys, "; ")
	if len(why) > maxReason {
		why = strings.ToValidUTF8(why[:maxReason], "") + "…"
	}
	due := !c.hidden.RollBackAt.IsZero() && !at.Before(c.hidden.RollBackAt)
	switch {
	case good != nil && (settled || c.Timeout == 0):
		return move{status: StatusDone, url: c.where(good), reason: "it is seen at " + good.url, good: good.url}
	case good != nil && due && !good.sight.pending():
		return move{status: StatusDone, url: c.where(good), reason: "it is seen at " + good.url + ", and has kept it", good: good.url}
	case good != nil:
		return move{confirm: good.url, reason: "it is seen at " + good.url + ", and told so", good: good.url}
	case former != nil && (settled || due):
		return move{status: StatusRolledBack, url: former.url, reason: "it has its former configuration, and is seen at " + former.url + c.last()}
	case !at.Before(c.hidden.GiveUpAt) && former != nil:
		return move{status: StatusRolledBack, url: former.url, reason: "it has its former configuration still, and is seen at " + former.url}
	case !at.Before(c.hidden.GiveUpAt):
		return move{status: StatusLost, url: c.OldURL, reason: why}
	case former != nil:
		return move{reason: "it has its former configuration still"}
	}
	return move{reason: why}
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

// pending reports whether a change is under way, or waits for its confirmation, as far as the server says.
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

// problem says why a sight is no proof that a change works; empty: it is.
func (c *Change) problem(s *seen, current string) string {
	switch {
	case s.err != nil || s.former:
		return "it is not"
	case c.hidden.MachineID != "" && s.sight.MachineID != c.hidden.MachineID:
		return "is another machine"
	case c.hidden.Member == "Online" && s.sight.Member != c.hidden.Member:
		return fmt.Sprintf("its cluster says that it is %s", s.sight.Member)
	case !c.Moves:
		return ""
	case current != c.OldURL && s.url == current:
		return "" // it has said so itself
	}
	// What the server says of its addresses only counts where its configuration does not say
	// them: it may not have got around to the change yet.
	if slices.Contains(c.hidden.Expected, s.sight.Remote.String()) || c.hidden.Dynamic && slices.Contains(managedAt(s.sight.Network), s.sight.Remote) {
		return ""
	}
	return fmt.Sprintf("that is none of its new addresses for management (%s)", strings.Join(c.hidden.Expected, ", "))
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
