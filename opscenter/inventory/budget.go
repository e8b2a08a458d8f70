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

// What a unit may cost. Its servers may be hostile: they say what there is, and how much.

// Defaults of Options that bound what is kept of a unit.
const (
	DefaultMaxObjects = 5_000
	DefaultMaxSize    = 8 << 20
	DefaultMaxLooks   = 200
)

// MaxNameLength bounds the names of an object, of its project, parent, type and location, in bytes. Incus has
// none that are longer. An object with a longer one is not kept.
const MaxNameLength = 512

// MaxSourceLength bounds the path of what an event is about, in bytes. A longer one causes a scan.
const MaxSourceLength = 4 << 10

// MaxMembers is how many members of an object are kept; of one that has more, its name is. Incus has at most
// about 30.
const MaxMembers = 1000

// rowSize is what a row takes in the memory of a store, in bytes, beside its names and its object.
const rowSize = 2 << 10

// Of each kind, so many times the objects are read that may be kept of all, and in a scan so many times the bytes:
// more than once, so that what is known stays current where there is a little too much, and as what is told of an
// object is more than what is kept.
const (
	readObjects = 2
	readSize    = 8
)

// readRate is how many bytes of lists and objects are read of a unit in a second, once burst were read: what a
// server tells costs the others memory and time while it is looked at.
const (
	readRate  = 16 << 20
	readBurst = 4 << 20
)

// budget is what may be kept of a unit.
type budget struct{ servers, objects, size int }

// budget of the unit: that of each of its servers together.
func (w *worker) budget() budget {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := max(1, len(w.members))
	return budget{n, n * w.m.options.MaxObjects, n * w.m.options.MaxSize}
}

// usage is what is kept of a unit.
type usage struct{ objects, size int }

// size is what a row is counted as.
func (r *row) size() int {
	return rowSize + len(r.Object) + len(r.Packed) + 2*(len(r.Project)+len(r.Parent)+len(r.Type)+len(r.Name)+len(r.Location))
}

func (u *usage) add(r *row)    { u.objects, u.size = u.objects+1, u.size+r.size() }
func (u *usage) remove(r *row) { u.objects, u.size = u.objects-1, u.size-r.size() }

// fits reports whether a row may take the place of another, or of none. One that is no larger than the other always may:
// a budget shrinks when a server leaves its cluster.
func (b budget) fits(u usage, old, next *row) bool {
	if old != nil {
		u.remove(old)
		u.add(next)
		return u.size <= b.size || next.size() <= old.size()
	}
	u.add(next)
	return u.objects <= b.objects && u.size <= b.size
}

// usage counts what is kept of the unit.
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

// excess is what was beyond the budget since the last scan began.
type excess struct {
	objects int  // that are not kept, or by their names only
	names   int  // objects that have a name over MaxNameLength
	cut     bool // a list went on beyond what is read
}

// String says what was beyond the budget; empty: nothing.
func (e excess) String(b budget) string {
	var out []string
	if e.cut {
		out = append(out, fmt.Sprintf("more is listed than is read (%d times what may be kept)", readObjects))
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

// judgeExcess raises the standing warning where there was more than may be kept, and clears it where a scan has
// found no more than that.
func (w *worker) judgeExcess(ctx context.Context, whole bool) error {
	why := w.excess.String(w.budget())
	switch {
	case why != "" && (whole || !w.warned):
		if w.excessNext.IsZero() {
			w.excessNext = time.Now().Add(max(minScanGap, w.m.options.MaxBackoff))
		}
		w.set(func(s *Status) { s.Truncated = why })
		w.warned, w.cleared = true, false
		err := w.m.registry.Warn(ctx, w.target.Name, warning.Input{Kind: warning.Inventory, Message: why})
		if !errors.Is(err, opscenter.ErrNotFound) {
			return err
		}
	case why == "" && whole:
		return w.clearExcess(ctx)
	}
	return nil
}

// clearExcess clears the warning, of whichever server of the unit it is.
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
		page, err := w.m.registry.ListWarnings(ctx, opscenter.WarningFilter{Kind: warning.Inventory, Server: name}, opscenter.Page{Limit: 1})
		if err == nil && len(page.Warnings) > 0 {
			err = w.m.registry.ClearWarning(ctx, name, warning.Inventory)
		}
		if err != nil && !errors.Is(err, opscenter.ErrNotFound) {
			return err
		}
	}
	w.warned, w.cleared = false, true
	return nil
}

// errCut: a list goes on beyond what is read.
var errCut = errors.New("more is listed than is read")

// reading counts what a lister has read: entries of a kind, and bytes of all.
type reading struct{ entries, size int }

// take counts an entry; false: it is beyond what is read.
func (l *lister) take(size int) bool {
	l.read.entries++
	l.read.size += size
	return l.read.entries <= readObjects*l.budget.objects && l.read.size <= readSize*l.budget.size
}

// readList reads a list, as far as that is within the budget: what it has beyond is noted, and no error.
func (l *lister) readList(ctx context.Context, path string, use func(entry json.RawMessage) error) error {
	err := l.w.m.incus.ReadList(ctx, l.w.target, path, func(entry json.RawMessage) error {
		if !l.take(len(entry)) {
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

// readObject reads an object, where that is within the budget still.
func (l *lister) readObject(ctx context.Context, path string) (json.RawMessage, error) {
	if !l.take(0) {
		return nil, errCut
	}
	data, err := l.w.m.incus.ReadObject(ctx, l.w.target, path)
	l.read.size += len(data)
	if err == nil {
		err = l.w.reads.WaitN(ctx, min(len(data), readBurst))
	}
	return data, err
}

// nameOnly returns the row with nothing but its name.
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

// isNameOnly reports whether only the name is kept of an object that has more.
func (r *row) isNameOnly() bool { return slices.Contains(r.Truncated, TruncatedAll) }

// looks bounds how many objects of a unit are looked at one by one in a second.
func looks(o *Options) *rate.Limiter { return rate.NewLimiter(rate.Limit(o.MaxLooks), o.MaxLooks) }
