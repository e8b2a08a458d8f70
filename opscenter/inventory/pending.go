package inventory

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
	events int // that were taken in, since the last scan
}

func newPending(limit int) *pending {
	return &pending{limit: limit, last: map[ref]int{}, scopes: map[scope]cause{}}
}

func (p *pending) empty() bool { return len(p.tasks) == 0 && len(p.scopes) == 0 && p.scan == "" }

// add takes in an event.
func (p *pending) add(e *Event) {
	p.events++
	effect := interpret(e)
	why := cause{limited(e.Action), limited(e.Requestor)}
	if effect.scan != "" {
		p.demand(effect.scan)
	}
	if p.scan != "" {
		return // it is all looked at anyway
	}
	if effect.renamed != nil {
		p.tasks = append(p.tasks, task{ref: effect.refs[0], renamed: effect.renamed, cause: why})
		delete(p.last, *effect.renamed)
		delete(p.last, effect.refs[0])
		p.look(*effect.renamed, why)
	}
	for _, r := range effect.refs {
		p.look(r, why)
	}
	for _, s := range effect.scopes {
		if _, there := p.scopes[s]; !there {
			p.scopes[s] = why
		}
	}
	if len(p.tasks)+len(p.scopes) > p.limit {
		p.demand("more events than can be followed")
	}
}

// look notes that an object is to be looked at.
func (p *pending) look(r ref, why cause) {
	if at, there := p.last[r]; there {
		p.tasks[at].cause = why
		return
	}
	p.last[r] = len(p.tasks)
	p.tasks = append(p.tasks, task{ref: r, cause: why})
}

// demand makes a scan of all else.
func (p *pending) demand(why string) {
	if p.scan == "" {
		p.scan = why
	}
	p.tasks, p.last, p.scopes = nil, map[ref]int{}, map[scope]cause{}
}

// take returns the tasks, and forgets them.
func (p *pending) take() []task {
	out := p.tasks
	p.tasks, p.last = nil, map[ref]int{}
	return out
}
