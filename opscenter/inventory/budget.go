package inventory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage"
)

// The limits below bound the cost of a unit. Its servers may be hostile: they control the number and size of objects.

// Defaults of the Options that bound the objects of a unit.
const (
	DefaultMaxObjects = 5_000
	DefaultMaxSize    = 8 << 20
	DefaultMaxLooks   = 200
)

// MaxNameLength bounds the names of an object, its project, parent, type and location, in bytes each. Incus has
// no longer names. An object with a longer name is not kept.
const MaxNameLength = 512

// MaxSourceLength bounds Event.Source, in bytes. A longer one causes a scan.
const MaxSourceLength = 4 << 10

// MaxMembers bounds the members of an object. Of an object with more, only the name is kept. Objects of Incus have
// at most about 30.
const MaxMembers = 1000

// rowSize is the memory that a row takes in a store, in bytes, without its names and its object.
const rowSize = 2 << 10

// readObjects times the kept objects are read of each kind, and readSize times the kept bytes in a scan. Both exceed
// one: known objects stay current in a list that is a little too long, and a daemon sends more members than are kept.
const (
	readObjects = 2
	readSize    = 8
)

// readRate bounds the bytes that are read of a unit per second, after readBurst bytes at once. Answers of one server
// cost memory and time that the others need.
const (
	readRate  = 16 << 20
	readBurst = 4 << 20
)

// budget bounds the objects and the bytes that are kept of a unit.
type budget struct{ servers, objects, size int }

// budget returns the budget of the unit: the sum over its servers.
func (w *worker) budget() budget {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := max(1, len(w.members))
	return budget{n, n * w.m.options.MaxObjects, n * w.m.options.MaxSize}
}

// usage counts the objects and the bytes that are kept of a unit.
type usage struct{ objects, size int }

// size is the memory that a row counts, in bytes.
func (r *row) size() int {
	return rowSize + len(r.Object) + len(r.Packed) + 2*(len(r.Project)+len(r.Parent)+len(r.Type)+len(r.Name)+len(r.Location))
}

func (u *usage) add(r *row)    { u.objects, u.size = u.objects+1, u.size+r.size() }
func (u *usage) remove(r *row) { u.objects, u.size = u.objects-1, u.size-r.size() }

// fits reports whether a row may replace another, or be added if old is nil. A row that is no larger than the old one
// always fits, because a budget shrinks when a server leaves its cluster.
func (b budget) fits(u usage, old, next *row) bool {
	if old != nil {
		u.remove(old)
		u.add(next)
		return u.size <= b.size || next.size() <= old.size()
	}
	u.add(next)
	return u.objects <= b.objects && u.size <= b.size
}

// usage counts the stored rows of the unit.
func (w *worker) usage(ctx context.Context) (out usage, err error) {
	err = w.m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		out = usage{}
		for r, err := range objects.Scan(s, storage.Range{Prefix: storage.StringKey(w.id)}) {
			if err != nil {
				return err
			}
			out.add(r)
		}
		return nil
	})
	return out, err
}

// excess counts the objects beyond the budget since the last scan began.
type excess struct {
	objects int  // not kept, or by name only
	names   int  // not kept, with a name over MaxNameLength
	cut     bool // a list was not read to its end
}

// String describes the excess for operators. Empty: there is none.
func (e excess) String(b budget) string {
	var out []string
	if e.cut {
		out = append(out, fmt.Sprintf("lists are longer than the part that is read (%d times the limit of objects)", readObjects))
	}
	if e.objects > 0 {
		out = append(out, fmt.Sprintf("%d objects are not kept, or by name only", e.objects))
	}
	if e.names > 0 {
		out = append(out, fmt.Sprintf("%d objects with names of more than %d bytes are not kept", e.names, MaxNameLength))
	}
	if len(out) == 0 {
		return ""
	}
	return fmt.Sprintf("inventory truncated at %d objects, %d MiB: %s", b.objects, b.size>>20, strings.Join(out, "; "))
}

// judgeExcess raises the standing warning if there is an excess. It clears the warning if a whole scan found none.
func (w *worker) judgeExcess(ctx context.Context, whole bool) error {
	why := w.excess.String(w.budget())
	switch {
	case why != "" && (whole || !w.warned):
		if w.excessNext.IsZero() {
			w.excessNext = time.Now().Add(max(minScanGap, w.m.options.MaxBackoff))
		}
		w.set(func(s *Status) { s.Truncated = why })
		w.warned, w.cleared = true, false
		err := w.m.registry.Warnings().Raise(ctx, w.target.Name, warning.Input{Kind: warning.Inventory, Message: why})
		if !errors.Is(err, opscenter.ErrNotFound) {
			return err
		}
	case why == "" && whole:
		return w.clearExcess(ctx)
	}
	return nil
}

// clearExcess clears the warning on each server of the unit.
func (w *worker) clearExcess(ctx context.Context) error {
	if w.cleared {
		return nil
	}
	w.mu.Lock()
	members := make([]string, 0, len(w.members))
	for name := range w.members {
		members = append(members, name)
	}
	w.status.Truncated = ""
	w.mu.Unlock()
	for _, name := range members {
		page, err := w.m.registry.Warnings().List(ctx, opscenter.WarningFilter{Kind: warning.Inventory, Server: name}, opscenter.Page{Limit: 1})
		if err == nil && len(page.Warnings) > 0 {
			err = w.m.registry.Warnings().Clear(ctx, name, warning.Inventory)
		}
		if err != nil && !errors.Is(err, opscenter.ErrNotFound) {
			return err
		}
	}
	w.warned, w.cleared = false, true
	return nil
}

// errCut: a list is longer than the part that is read.
var errCut = errors.New("the list is longer than the part that is read")

// reading counts the entries of the current kind, and all bytes, that a lister has read.
type reading struct{ entries, size int }

// admit counts an entry. False: the entry is beyond the part that is read.
func (l *lister) admit(size int) bool {
	l.read.entries++
	l.read.size += size
	return l.read.entries <= readObjects*l.budget.objects && l.read.size <= readSize*l.budget.size
}

// readList reads a list within the budget. A longer list is noted as cut, and is no error.
func (l *lister) readList(ctx context.Context, path string, use func(entry json.RawMessage) error) error {
	err := l.w.m.incus.ReadList(ctx, l.w.target, path, func(entry json.RawMessage) error {
		if !l.admit(len(entry)) {
			return errCut
		}
		if err := l.w.reads.WaitN(ctx, min(len(entry), readBurst)); err != nil {
			return err
		}
		return use(entry)
	})
	if errors.Is(err, errCut) {
		l.w.excess.cut = true
		l.cut++
		return nil
	}
	return err
}

// readObject reads an object. errCut: the budget is used up.
func (l *lister) readObject(ctx context.Context, path string) (json.RawMessage, error) {
	if !l.admit(0) {
		return nil, errCut
	}
	data, err := l.w.m.incus.ReadObject(ctx, l.w.target, path)
	l.read.size += len(data)
	if err == nil {
		err = l.w.reads.WaitN(ctx, min(len(data), readBurst))
	}
	return data, err
}

// nameOnly returns the row with its name as the only member.
func (r *row) nameOnly() *row {
	out := *r
	member := "name"
	switch r.Kind {
	case KindImage:
		member = "fingerprint"
	case KindNetworkForward, KindNetworkLoadBalancer:
		member = "listen_address"
	case KindClusterMember:
		member = "server_name"
	}
	object := map[string]string{member: r.Name}
	if r.Kind.info().project {
		object["project"] = r.Project
	}
	out.Object, _ = json.Marshal(object)
	out.Truncated = []string{TruncatedAll}
	return &out
}

// isNameOnly reports whether the other members of the object were left out.
func (r *row) isNameOnly() bool { return slices.Contains(r.Truncated, TruncatedAll) }

// looks returns the limiter for objects that are read one by one, see Options.MaxLooks.
func looks(o *Options) *rate.Limiter { return rate.NewLimiter(rate.Limit(o.MaxLooks), o.MaxLooks) }
