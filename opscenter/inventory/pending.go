package inventory

import (
	"slices"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/internal/truncate"
)

// DefaultMaxPending is the default of Options.MaxPending.
const DefaultMaxPending = 1000

// cause is the event that caused a reading. Empty: there is none.
type cause struct {
	action    string
	requestor string
}

// task is work on an object: to rename it if renamed is set, or else to read it.
type task struct {
	ref     ref
	renamed *ref // former identity
	cause   cause
	at      time.Time // when the event came, by the local clock
	again   bool      // the daemon has refused it once
}

// pending is the work that events have caused, and that is not done so far. It is bounded: work over the limit
// becomes one scan. Its methods are pure.
type pending struct {
	limit int
	tasks []task
	// last is the index of the last task that reads an object, unless a rename of that name follows it. So the
	// object is not read twice.
	last   map[ref]int
	scopes map[scope]cause
	scan   string
	settle []late // to be read again after Options.Settle
	events int    // count of all events
	// renamings are the last renames. Each member of a cluster sends each rename. A second one would rename the object
	// that has the old name by now. After maxRenamings they are a ring, and next is the oldest.
	renamings []renaming
	next      int
}

// maxRenamings bounds the renames that are remembered to recognise copies.
const maxRenamings = 256

// renaming identifies a rename event.
type renaming struct {
	action, source, project, location, old string
	at                                     int64
}

// isCopy reports whether a rename event is a copy of a remembered one, and remembers it.
func (p *pending) isCopy(e *Event) bool {
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

// add takes in an event. Objects that it names are read even if a scan is due, because the scan may be late.
func (p *pending) add(e *Event, at time.Time) {
	p.events++
	effect := interpret(e)
	why := cause{truncate.Text(e.Action, maxText), truncate.Text(e.Requestor, maxText)}
	if effect.scan != "" {
		p.demand(effect.scan)
	}
	if effect.renamed != nil && !p.isCopy(e) {
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
		for _, r := range effect.refs {
			p.settle = append(p.settle, late{ref: r, volumes: volumesFollow[e.Action]})
		}
	}
	if len(p.tasks)+len(p.scopes) > p.limit || len(p.settle) > p.limit {
		p.forget()
		p.demand("more events than can be followed")
	}
}

// settles are actions after which an object changes once more without an event. Addresses come after the start, and
// an image is removed after its refresh.
var settles = map[string]bool{"instance-started": true, "instance-restarted": true, "instance-resumed": true, "instance-ready": true,
	"instance-agent-started": true, "instance-created": true, "instance-snapshot-created": true, "image-refreshed": true}

// volumesFollow are actions whose events Incus sends before it stores the volume of the instance or snapshot. No event
// follows.
var volumesFollow = map[string]bool{"instance-created": true, "instance-snapshot-created": true}

// late is an object that changes once more without an event.
type late struct {
	ref ref
	// volumes: the lists of pools and volumes change, too.
	volumes bool
	// again: the daemon has refused the object. cause is that of the refused reading.
	again bool
	cause cause
}

// look adds a task that reads an object.
func (p *pending) look(r ref, why cause, at time.Time) {
	if i, there := p.last[r]; there {
		p.tasks[i].cause = why
		return
	}
	p.last[r] = len(p.tasks)
	p.tasks = append(p.tasks, task{ref: r, cause: why, at: at})
}

// lookLate adds the work on an object that has changed without an event.
func (p *pending) lookLate(l late, at time.Time) {
	p.look(l.ref, l.cause, at)
	p.tasks[p.last[l.ref]].again = l.again
	if !l.volumes {
		return
	}
	for _, kind := range []Kind{KindStoragePool, KindStorageVolume} {
		if _, there := p.scopes[scope{kind: kind}]; !there {
			p.scopes[scope{kind: kind}] = cause{}
		}
	}
}

// takeRenames returns and drops the renames among the tasks.
func (p *pending) takeRenames() (out []task) {
	kept := p.tasks[:0]
	for _, t := range p.tasks {
		if t.renamed != nil {
			out = append(out, t)
		} else {
			kept = append(kept, t)
		}
	}
	p.tasks, p.last = kept, map[ref]int{}
	for i := range kept {
		p.last[kept[i].ref] = i
	}
	return out
}

// explain removes the refs whose absence an event explains: the object was removed, or has another name.
func (p *pending) explain(missing map[ref]bool) {
	for _, t := range p.tasks {
		switch {
		case t.renamed != nil:
			delete(missing, *t.renamed)
		case strings.HasSuffix(t.cause.action, "-deleted"):
			delete(missing, t.ref)
		}
	}
}

// demand notes the reason for a scan. The first reason stays.
func (p *pending) demand(why string) {
	if p.scan == "" {
		p.scan = why
	}
}

// forget drops the work that a scan does as well.
func (p *pending) forget() {
	p.tasks, p.last, p.scopes, p.settle = nil, map[ref]int{}, map[scope]cause{}, nil
}

// take returns and drops the tasks.
func (p *pending) take() []task {
	out := p.tasks
	p.tasks, p.last = nil, map[ref]int{}
	return out
}
