package inventory

import (
	"slices"
	"time"
)

// DefaultMaxPending is how many objects of a cluster may wait to be looked at.
const DefaultMaxPending = 1000

// cause is why something is looked at: the event, or none.
type cause struct {
	action    string
	requestor string
}

// task is something to do about an object: to note that it was renamed, or to look at it.
type task struct {
	ref     ref
	renamed *ref // what it was
	cause   cause
	at      time.Time // when it was learned, by our clock
}

// pending is what events have made necessary, and was not done yet. It is bounded: what is
// over the limit becomes one scan. Its methods are pure.
type pending struct {
	limit int
	tasks []task
	// last is the place of the last task that looks at an object, unless a renaming of that name
	// came behind it: it does not have to be looked at twice.
	last   map[ref]int
	scopes map[scope]cause
	scan   string
	settle []ref // to be looked at once more, later
	events int   // that were taken in
	// renamings are the last ones that were taken in: each member of a cluster tells of each, and
	// once more it would be one of what has that name by now. They are a ring once
	// there are maxRenamings: next is the oldest.
	renamings []renaming
	next      int
}

// maxRenamings is how many renamings are told from others that are told of again.
const maxRenamings = 256

// renaming tells one from all others.
type renaming struct {
	action, source, project, location, old string
	at                                     int64
}

// again reports whether an event is a copy of one that was taken in.
func (p *pending) again(e *Event) bool {
	if e.At.IsZero() {
		return false
	}
	one := renaming{e.Action, e.Source, e.Project, e.Location, e.OldName, e.At.UnixNano()}
	switch {
	case slices.Contains(p.renamings, one):
		return true
	case len(p.renamings) < maxRenamings:
		p.renamings = append(p.renamings, one)
	default:
		p.renamings[p.next] = one
		p.next = (p.next + 1) % maxRenamings
	}
	return false
}

func newPending(limit int) *pending {
	return &pending{limit: limit, last: map[ref]int{}, scopes: map[scope]cause{}}
}

func (p *pending) empty() bool { return len(p.tasks) == 0 && len(p.scopes) == 0 && p.scan == "" }

// add takes in an event. What it names is looked at even where a scan is due: that may be a
// while to come.
func (p *pending) add(e *Event, at time.Time) {
	p.events++
	effect := interpret(e)
	why := cause{limited(e.Action), limited(e.Requestor)}
	if effect.scan != "" {
		p.demand(effect.scan)
	}
	if effect.renamed != nil && !p.again(e) {
		p.tasks = append(p.tasks, task{ref: effect.refs[0], renamed: effect.renamed, cause: why, at: at})
		delete(p.last, *effect.renamed)
		delete(p.last, effect.refs[0])
		p.look(*effect.renamed, why, at)
	}
	for _, r := range effect.refs {
		p.look(r, why, at)
	}
	for _, s := range effect.scopes {
		if _, there := p.scopes[s]; !there {
			p.scopes[s] = why
		}
	}
	if settles[e.Action] {
		p.settle = append(p.settle, effect.refs...)
	}
	if len(p.tasks)+len(p.scopes) > p.limit || len(p.settle) > p.limit {
		p.forget()
		p.demand("more events than can be followed")
	}
}

// settles are actions after which an object changes once more without a word: addresses come
// after the start, and an image is removed after it was refreshed.
var settles = map[string]bool{"instance-started": true, "instance-restarted": true, "instance-resumed": true, "instance-ready": true,
	"instance-agent-started": true, "instance-created": true, "image-refreshed": true}

// look notes that an object is to be looked at.
func (p *pending) look(r ref, why cause, at time.Time) {
	if i, there := p.last[r]; there {
		p.tasks[i].cause = why
		return
	}
	p.last[r] = len(p.tasks)
	p.tasks = append(p.tasks, task{ref: r, cause: why, at: at})
}

// demand asks for a scan.
func (p *pending) demand(why string) {
	if p.scan == "" {
		p.scan = why
	}
}

// forget forgets what a scan finds as well.
func (p *pending) forget() {
	p.tasks, p.last, p.scopes, p.settle = nil, map[ref]int{}, map[scope]cause{}, nil
}

// take returns the tasks, and forgets them.
func (p *pending) take() []task {
	out := p.tasks
	p.tasks, p.last = nil, map[ref]int{}
	return out
}
