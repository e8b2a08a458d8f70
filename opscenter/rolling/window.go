package rolling

import (
	"fmt"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // appliances have no time zones of their own
)

// Window is a maintenance window that is open every week.
type Window struct {
	// Days are those on which it begins, as "mon" or "monday"; none: every day.
	Days []string `json:"days,omitempty"`
	// Start and End are times of the clock in its zone, as "22:00". An End that is not after the Start is on the next day.
	// A time that does not exist, because clocks are put forward, is the moment of that change. A time that comes twice,
	// because clocks are put back, is the first of the two.
	Start string `json:"start"`
	End   string `json:"end"`
	// Zone is an IANA time zone. Default UTC.
	Zone string `json:"zone,omitempty"`
}

// String returns the window as operators read it.
func (w Window) String() string {
	days, zone := "daily", w.Zone
	if len(w.Days) > 0 {
		days = strings.Join(w.Days, ",")
	}
	if zone == "" {
		zone = "UTC"
	}
	return fmt.Sprintf("%s %s-%s %s", days, w.Start, w.End, zone)
}

// calendar answers when the windows are open.
type calendar struct {
	windows []parsedWindow
	// open and close are the last result of at, which callers need again most of the time.
	open, close time.Time
}

type parsedWindow struct {
	days       [7]bool
	start, end int // minutes after midnight
	zone       *time.Location
}

func newCalendar(windows []Window) (*calendar, error) {
	c := &calendar{}
	for i, w := range windows {
		p, err := w.parse()
		if err != nil {
			return nil, fmt.Errorf("%w: window %d: %w", ErrInvalid, i+1, err)
		}
		c.windows = append(c.windows, p)
	}
	return c, nil
}

var dayNames = []string{"sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"}

func (w Window) parse() (p parsedWindow, err error) {
	for _, day := range w.Days {
		name := strings.ToLower(day)
		i := slices.IndexFunc(dayNames, func(full string) bool { return name == full || name == full[:3] })
		if i < 0 {
			return p, fmt.Errorf("day %.20q, known are mon, tue, wed, thu, fri, sat, sun", day)
		}
		p.days[i] = true
	}
	if len(w.Days) == 0 {
		p.days = [7]bool{true, true, true, true, true, true, true}
	}
	if p.start, err = minutes(w.Start); err == nil {
		p.end, err = minutes(w.End)
	}
	if err != nil {
		return p, err
	}
	if w.Zone == "Local" {
		return p, fmt.Errorf("zone %q: the name of a time zone is wanted, as Europe/Berlin", w.Zone)
	}
	if p.zone, err = time.LoadLocation(w.Zone); err != nil {
		return p, fmt.Errorf("zone %.60q is not known", w.Zone)
	}
	return p, nil
}

func minutes(clock string) (int, error) {
	var h, m int
	if len(clock) != 5 || clock[2] != ':' {
		return 0, fmt.Errorf("time %.20q: a time such as 22:00 is wanted", clock)
	}
	if _, err := fmt.Sscanf(clock, "%02d:%02d", &h, &m); err != nil || h < 0 || m < 0 || m > 59 || h > 24 || h == 24 && m > 0 {
		return 0, fmt.Errorf("time %.20q: a time such as 22:00 is wanted", clock)
	}
	return h*60 + m, nil
}

// instant returns when the clock of a zone shows so many minutes after midnight of a day.
func instant(year int, month time.Month, day, minute int, zone *time.Location) time.Time {
	t := time.Date(year, month, day, 0, minute, 0, 0, zone)
	wanted := time.Date(year, month, day, 0, minute, 0, 0, time.UTC) // the same clock, without a zone
	shown := func(t time.Time) time.Time {
		_, offset := t.Zone()
		return t.UTC().Add(time.Duration(offset) * time.Second)
	}
	from, to := t.ZoneBounds()
	switch got := shown(t); {
	case got.After(wanted):
		return from // the clock was put forward and skipped it
	case got.Before(wanted):
		return to
	}
	if !from.IsZero() { // does the clock show it earlier, too?
		_, now := t.Zone()
		_, before := from.Add(-time.Second).Zone()
		if earlier := t.Add(time.Duration(now-before) * time.Second); earlier.Before(from) && shown(earlier).Equal(wanted) {
			return earlier
		}
	}
	return t
}

// spans calls visit with each time the window is open around t, in order, until it returns false.
func (w *parsedWindow) spans(t time.Time, visit func(open, close time.Time) bool) {
	local := t.In(w.zone)
	year, month, day := local.Date()
	for d := -2; d <= 9; d++ {
		date := time.Date(year, month, day+d, 12, 0, 0, 0, time.UTC)
		if !w.days[date.Weekday()] {
			continue
		}
		y, m, dd := date.Date()
		open := instant(y, m, dd, w.start, w.zone)
		end := w.end
		if end <= w.start {
			end += 24 * 60
		}
		if close := instant(y, m, dd, end, w.zone); close.After(open) && !visit(open, close) {
			return
		}
	}
}

// at returns until when a window is open that is open at t, with the windows that follow without a gap. ok is false if none is
// open.
func (c *calendar) at(t time.Time) (until time.Time, ok bool) {
	if !t.Before(c.open) && t.Before(c.close) {
		return c.close, true
	}
	until = t
	for range 2*len(c.windows) + 1 {
		before := until
		for i := range c.windows {
			c.windows[i].spans(until, func(open, close time.Time) bool {
				if !until.Before(open) && close.After(until) {
					until, ok = close, true
				}
				return true
			})
		}
		if until.Equal(before) {
			break
		}
	}
	if ok {
		c.open, c.close = t, until
	}
	return until, ok
}

// next returns when the next window opens after t; zero: none does.
func (c *calendar) next(t time.Time) (out time.Time) {
	for i := range c.windows {
		c.windows[i].spans(t, func(open, _ time.Time) bool {
			if open.After(t) && (out.IsZero() || open.Before(out)) {
				out = open
			}
			return true
		})
	}
	return out
}

// longest returns the longest time a window is open within the week after t.
func (c *calendar) longest(t time.Time) (out time.Duration) {
	at := t
	for range 7*24*max(1, len(c.windows)) + 1 {
		until, ok := c.at(at)
		if ok {
			out = max(out, until.Sub(at))
			at = until
		}
		if at = c.next(at); at.IsZero() || at.Sub(t) > 8*24*time.Hour || out >= 7*24*time.Hour {
			break
		}
	}
	return out
}

// fits reports whether an action may begin that takes so long; if not, it returns when to ask again.
func (c *calendar) fits(t time.Time, takes time.Duration) (again time.Time, ok bool) {
	if len(c.windows) == 0 {
		return time.Time{}, true
	}
	until, open := c.at(t)
	if open && !t.Add(takes).After(until) {
		return time.Time{}, true
	}
	if !open {
		until = t
	}
	return c.next(until.Add(-1)), false
}

// Calendar tells when the maintenance windows of a policy are open. It must not be used concurrently.
type Calendar struct{ calendar }

// NewCalendar returns the calendar of these windows. Without windows it is always open. Errors: ErrInvalid.
func NewCalendar(windows []Window) (*Calendar, error) {
	c, err := newCalendar(windows)
	if err != nil {
		return nil, err
	}
	return &Calendar{*c}, nil
}

// Open reports whether actions may begin at t, and when to ask again if not.
func (c *Calendar) Open(t time.Time) (again time.Time, ok bool) { return c.fits(t, 0) }
