package updates

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

// RefreshOptions of Refresh.
type RefreshOptions struct {
	// AcceptOlder takes an index that is older than the one read before: its publisher has withdrawn an update.
	AcceptOlder bool
}

// signerWarning is how long before the end of a signing certificate there is a warning.
const signerWarning = 90 * 24 * time.Hour

// Refresh reads the index of the source, and fetches what is new; if another refresh is under way, it waits for that to
// end first. What can be fetched is, whatever becomes of the rest: the error names each update that could not be, and
// opscenter.WarningUpdates stands until one ends without any. Errors: ErrNoSource, ErrSignature, ErrReplay, ErrInvalid,
// ErrDiskFull, those of sources.
func (m *Manager) Refresh(ctx context.Context, options RefreshOptions) error {
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	s := m.settings.Load()
	if s.source == nil {
		return errors.Join(ErrNoSource, m.tidy(ctx, s, nil))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m.cancel.Store(&cancel)
	m.progress.change(func(p *Progress) { *p = Progress{Running: true, Started: now()} })
	err := m.refresh(ctx, s, options)
	if err != nil {
		m.progress.problem(err.Error())
	}
	m.progress.change(func(p *Progress) { p.Running, p.Version, p.Ended = false, "", now() })
	if ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	if err == nil {
		return m.registry.ClearWarning(ctx, "", warning.Updates)
	}
	return errors.Join(err, m.warn(ctx, warning.Updates, err.Error()))
}

// warn raises a warning of the fleet, with what it says now.
func (m *Manager) warn(ctx context.Context, kind warning.Kind, message string) error {
	page, err := m.registry.ListWarnings(ctx, opscenter.WarningFilter{Kind: kind}, opscenter.Page{Limit: 1})
	if err == nil && len(page.Warnings) > 0 && page.Warnings[0].Message != message && !strings.HasPrefix(message, page.Warnings[0].Message) {
		err = m.registry.ClearWarning(ctx, "", kind)
	}
	return errors.Join(err, m.registry.Warn(ctx, "", warning.Input{Kind: kind, Message: message}))
}

func (m *Manager) refresh(ctx context.Context, s *prepared, options RefreshOptions) error {
	index, err := m.readIndex(ctx, s, options)
	var wanted []*Update
	if err == nil {
		wanted, err = m.choose(ctx, s, index)
	}
	if err != nil {
		return errors.Join(err, m.tidy(ctx, s, nil))
	}
	problems := []error{index.Unusable}
	m.announce(ctx, wanted)
	for _, w := range wanted {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(problems, err)...)
		}
		if err := m.complete(ctx, s, w); err != nil {
			problems = append(problems, fmt.Errorf("update %s: %w", w.Version, err))
		}
	}
	problems = append(problems, m.tidy(ctx, s, index))
	return errors.Join(problems...)
}

// readIndex reads the index of the source, and refuses one that is older than the last.
func (m *Manager) readIndex(ctx context.Context, s *prepared, options RefreshOptions) (*Index, error) {
	index, err := s.source.Index(ctx)
	if err != nil {
		return nil, fmt.Errorf("the source's index: %w", err)
	}
	if err := m.checkSignature(ctx, index.Signature); err != nil {
		return nil, err
	}
	return index, m.checkFresh(ctx, s.name, index, options)
}

// checkSignature warns of a signing certificate that ends soon, or has.
func (m *Manager) checkSignature(ctx context.Context, signature *Signature) error {
	if signature == nil {
		return nil
	}
	if left := time.Until(signature.Ends); left < signerWarning {
		what := "ends"
		if signature.Late {
			what = "has ended, and counts for a while longer: it"
		}
		return m.warn(ctx, warning.Signer, fmt.Sprintf("the certificate %q that signs updates %s on %s: its publisher needs another one", signature.Name, what, signature.Ends.Format(time.DateOnly)))
	}
	return m.registry.ClearWarning(ctx, "", warning.Signer)
}

// checkFresh refuses an index whose newest update was published before that of the one read last, and remembers this one.
func (m *Manager) checkFresh(ctx context.Context, source string, index *Index, options RefreshOptions) error {
	var newest time.Time
	for _, u := range index.Updates {
		if u.PublishedAt.After(newest) {
			newest = u.PublishedAt
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.registry.Write(ctx, func(tx *opscenter.Tx) error {
		row, err := loadFeed(tx)
		if err != nil {
			return err
		}
		if row.Source == source && newest.Before(row.Newest) && !options.AcceptOlder {
			return fmt.Errorf("the source's index, whose newest update is of %s, %w, whose newest was of %s: if its publisher has withdrawn one, refresh with force",
				newest.Format(time.RFC3339), ErrReplay, row.Newest.Format(time.RFC3339))
		}
		if row.Source == source && newest.Equal(row.Newest) {
			return nil
		}
		row.Source, row.Newest = source, newest
		return feeds.Put(tx, row)
	})
}

// choose returns the updates of the index that are wanted, each with those of its files that are, newest first: what
// retention would drop is not fetched.
func (m *Manager) choose(ctx context.Context, s *prepared, index *Index) ([]*Update, error) {
	fleet, inUse, err := m.fleet(ctx)
	if err != nil {
		return nil, err
	}
	f := s.filters
	f.fleet = fleet
	known := m.Snapshot()
	var candidates []*Update
	for _, u := range index.Updates {
		candidate := *u
		candidate.identify()
		ok, err := f.passes(&candidate)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		candidate.Files = nil
		for i := range u.Files {
			ok, err := f.passesFile(&u.Files[i])
			if err != nil {
				return nil, err
			}
			if ok {
				candidate.Files = append(candidate.Files, u.Files[i])
			}
		}
		if len(candidate.Files) > 0 {
			candidates = append(candidates, &candidate)
		}
	}
	// As it will be when all is here.
	then := make([]*Update, 0, len(candidates))
	listed := map[string]bool{}
	for _, c := range candidates {
		planned := *c
		planned.Status, planned.Channels = StatusReady, []string{s.DefaultChannel}
		if have := known.byUUID[c.UUID]; have != nil && have.Placed {
			planned.Channels = have.Channels
		}
		listed[c.UUID] = true
		then = append(then, &planned)
	}
	for _, u := range known.Updates() {
		if !listed[u.UUID] {
			then = append(then, u)
		}
	}
	here := map[string]bool{} // what a server says that it runs is kept if it is here, and not fetched for that
	for _, u := range known.Updates() {
		here[u.Version] = inUse[u.Version]
	}
	stays := Retain(then, s.Keep, here)
	return slices.DeleteFunc(candidates, func(u *Update) bool { return !stays[u.UUID] }), nil
}

// fleet returns the architectures that servers have, and the versions that they run or have staged.
func (m *Manager) fleet(ctx context.Context) (architectures []string, inUse map[string]bool, err error) {
	inUse = map[string]bool{}
	err = m.registry.Read(ctx, func(tx *opscenter.Snapshot) error {
		for info, err := range tx.Servers(opscenter.ServerFilter{}) {
			if err != nil {
				return err
			}
			if a := info.State.Architecture; a != "" && !slices.Contains(architectures, a) {
				architectures = append(architectures, a)
			}
			for _, version := range inUseBy(&info.State.Versions) {
				inUse[version] = true
			}
		}
		return nil
	})
	return architectures, inUse, err
}

// maxInUse is how many releases a server can keep from being dropped: it runs one, has staged one, and may have applications of a third
// and a fourth.
const maxInUse = 4

// inUseBy returns the versions that a server runs, or has staged; those of its primary applications before others.
func inUseBy(v *lifecycle.Versions) (out []string) {
	add := func(version string) {
		if version != "" && len(out) < maxInUse && !slices.Contains(out, version) {
			out = append(out, version)
		}
	}
	add(v.OS.Version)
	add(v.OS.VersionNext)
	for _, primary := range []bool{true, false} {
		for _, a := range v.Applications {
			if a.Primary == primary {
				add(a.Version)
			}
		}
	}
	return out
}

// announce counts what is missing of the wanted updates.
func (m *Manager) announce(ctx context.Context, wanted []*Update) {
	var bytes int64
	files := 0
	seen := map[string]bool{}
	for _, u := range wanted {
		for i := range u.Files {
			f := &u.Files[i]
			if seen[f.SHA256] {
				continue
			}
			seen[f.SHA256] = true
			if !m.has(ctx, f) {
				bytes += f.Size
				files++
			}
		}
	}
	m.progress.change(func(p *Progress) { p.Bytes, p.Files = bytes, files })
}

// complete fetches what is missing of an update, and makes it ready.
func (m *Manager) complete(ctx context.Context, s *prepared, wanted *Update) error {
	have := m.Snapshot().byUUID[wanted.UUID]
	if have != nil && have.Status == StatusReady {
		return m.extend(ctx, s, have, wanted)
	}
	pending := *wanted
	pending.Status, pending.CreatedAt = StatusPending, now()
	if have == nil || !slices.Equal(have.Files, pending.Files) {
		err := m.change(ctx, "an update is fetched", func(c *changing) error {
			row := pending
			if known := c.rows[pending.UUID]; known != nil { // what operators said of it holds
				row = *known
				row.Files = pending.Files
			}
			c.put(row)
			return c.tx.Record(event.Event{At: now(), Kind: event.UpdateFetching, Reason: fmt.Sprintf("update %s of %s: %d files, %d MiB", row.Version, row.Origin, len(row.Files), row.Size()>>20)})
		})
		if err != nil {
			return err
		}
	}
	for _, f := range pending.Files { // whatever becomes of the filters meanwhile
		defer m.pin(f.SHA256)()
	}
	if err := m.fetchAll(ctx, s.source, wanted, pending.Files); err != nil {
		if ctx.Err() == nil {
			problem := cut(err.Error())
			err = errors.Join(err, m.change(ctx, "an update could not be fetched", func(c *changing) error {
				known := c.rows[pending.UUID]
				if known == nil || known.Status != StatusPending || known.Problem == problem {
					return nil // it is said already
				}
				failed := *known
				failed.Problem = problem
				c.put(failed)
				return c.tx.Record(event.Event{At: now(), Kind: event.UpdateFailed, Reason: fmt.Sprintf("update %s of %s: %s", failed.Version, failed.Origin, problem)})
			}))
		}
		return err
	}
	return m.makeReady(ctx, s, pending, "fetched")
}

// fetchAll fetches files, some at a time. One that fails does not stop the others.
func (m *Manager) fetchAll(ctx context.Context, source Source, u *Update, files []File) error {
	m.progress.change(func(p *Progress) { p.Version = u.Version })
	var missing int64
	for _, f := range uniqueFiles(files) {
		if !m.has(ctx, &f) {
			missing += f.Size
		}
	}
	if missing > 0 {
		if err := m.checkSpace(ctx, missing); err != nil {
			return err
		}
	}
	group := errgroup.Group{}
	group.SetLimit(m.options.MaxFetches)
	var mu sync.Mutex
	var failures []error
	for _, f := range uniqueFiles(files) {
		group.Go(func() error {
			fetched, err := m.fetch(ctx, source, u, &f)
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				failures = append(failures, err)
			}
			if fetched {
				m.progress.change(func(p *Progress) { p.FilesDone++ })
			}
			return nil
		})
	}
	_ = group.Wait()
	return errors.Join(failures...)
}

// uniqueFiles leaves out what is there twice under two names.
func uniqueFiles(files []File) (out []File) {
	seen := map[string]bool{}
	for _, f := range files {
		if !seen[f.SHA256] {
			seen[f.SHA256] = true
			out = append(out, f)
		}
	}
	return out
}

// makeReady offers an update whose files are all here.
func (m *Manager) makeReady(ctx context.Context, s *prepared, u Update, how string) error {
	u.Status = StatusReady
	var err error
	if u.SecureBootKeys, err = m.countKeys(ctx, &u); err != nil {
		return err
	}
	needs, err := m.Needs(ctx, s.DefaultChannel)
	if err != nil {
		return err
	}
	lacks := Lacking(&u, needs)
	reason := fmt.Sprintf("update %s of %s was %s", u.Version, u.Origin, how)
	err = m.change(ctx, reason, func(c *changing) error {
		u.Held, u.Problem, u.Channels = "", "", nil
		switch known := c.rows[u.UUID]; {
		case known == nil && !u.Local:
			return fmt.Errorf("it was removed meanwhile: %w", opscenter.ErrNotFound)
		case known != nil && u.Local && known.Status == StatusReady:
			return fmt.Errorf("update %s of %s: %w", u.Version, u.Origin, ErrExists)
		case known != nil && known.Placed:
			u.Channels, u.Held, u.Problem = known.Channels, known.Held, known.Problem
			if known.Held == "" {
				u.Problem = ""
			}
		case len(lacks) > 0:
			u.Held, u.Problem = s.DefaultChannel, heldBecause(s.DefaultChannel, lacks)
		default:
			if err := c.tx.RequireChannel(s.DefaultChannel); err != nil {
				return err
			}
			u.Channels = []string{s.DefaultChannel}
		}
		u.Placed = true
		c.put(u)
		return c.tx.Record(event.Event{At: now(), Kind: event.UpdateReady, Reason: reason + by(ctx)})
	})
	if err != nil {
		return err
	}
	m.log.InfoContext(ctx, "an update is ready", "version", u.Version, "origin", u.Origin, "channels", u.Channels, "problem", u.Problem)
	if u.Held != "" {
		return m.warn(ctx, warning.UpdateHeld, fmt.Sprintf("update %s %s", u.Version, u.Problem))
	}
	return nil
}

// extend adds files to a ready update that pass the filters by now.
func (m *Manager) extend(ctx context.Context, s *prepared, have, wanted *Update) error {
	var more []File
	for _, f := range wanted.Files {
		switch other := have.file(f.Filename); {
		case other == nil:
			more = append(more, f)
		case other.SHA256 != f.SHA256:
			return fmt.Errorf("the source has another %s than it had: %w", f.Filename, ErrMismatch)
		}
	}
	if len(more) == 0 {
		return nil
	}
	for _, f := range more {
		defer m.pin(f.SHA256)()
	}
	if err := m.fetchAll(ctx, s.source, wanted, more); err != nil {
		return err
	}
	return m.add(ctx, have, more)
}

// add adds files, which are here, to a ready update.
func (m *Manager) add(ctx context.Context, have *Update, more []File) error {
	whole := *have
	whole.Files = slices.Concat(have.Files, more)
	keys, err := m.countKeys(ctx, &whole)
	if err != nil {
		return err
	}
	return m.change(ctx, "more files of an update are here", func(c *changing) error {
		u := c.rows[have.UUID]
		if u == nil || u.Status != StatusReady {
			return nil // removed meanwhile
		}
		extended := *u
		extended.Files = slices.Clone(u.Files)
		for _, f := range more {
			switch other := extended.file(f.Filename); {
			case other == nil:
				extended.Files = append(extended.Files, f)
			case other.SHA256 != f.SHA256:
				return fmt.Errorf("update %s of %s is here with another %s: %w", u.Version, u.Origin, f.Filename, ErrInvalid)
			}
		}
		extended.SecureBootKeys = keys
		c.put(extended)
		return nil
	})
}

// tidy drops what is not kept any more: updates by retention, pending ones that the source has no more, and files that the
// filter does not let pass. It looks again at updates that are held back. Without a source index is nil.
func (m *Manager) tidy(ctx context.Context, s *prepared, index *Index) error {
	fleet, inUse, err := m.fleet(ctx)
	if err != nil {
		return err
	}
	needs, err := m.Needs(ctx, s.DefaultChannel)
	if err != nil {
		return err
	}
	f := s.filters
	f.fleet = fleet
	offered := map[string]bool{}
	if index != nil {
		for _, u := range index.Updates {
			named := *u
			named.identify()
			offered[named.UUID] = true
		}
	}
	held := ""
	err = m.change(ctx, "updates were tidied up", func(c *changing) error {
		held = ""
		for _, u := range c.list() {
			if index != nil && u.Status == StatusPending && !u.Local && !offered[u.UUID] {
				c.remove(u.UUID)
				continue
			}
			changed := *u
			if !u.Local {
				changed.Files = nil
				for i := range u.Files {
					ok, err := f.passesFile(&u.Files[i])
					if err != nil {
						return err
					}
					if ok {
						changed.Files = append(changed.Files, u.Files[i])
					}
				}
			}
			if u.Held != "" && u.Status == StatusReady {
				if lacks := Lacking(&changed, needs); len(lacks) > 0 {
					changed.Problem = heldBecause(u.Held, lacks)
					held = fmt.Sprintf("update %s %s", u.Version, changed.Problem)
				} else {
					changed.Held, changed.Problem, changed.Channels = "", "", append(slices.Clone(u.Channels), u.Held)
				}
			}
			if len(changed.Files) == 0 {
				c.remove(u.UUID)
			} else if len(changed.Files) != len(u.Files) || changed.Held != u.Held || changed.Problem != u.Problem {
				c.put(changed)
			}
		}
		list := c.list()
		stays := Retain(list, s.Keep, inUse)
		for _, u := range list {
			if !stays[u.UUID] {
				c.remove(u.UUID)
				if err := c.tx.Record(event.Event{At: now(), Kind: event.UpdateRemoved, Reason: fmt.Sprintf("update %s of %s: newer ones are kept", u.Version, u.Origin)}); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err == nil && held == "" {
		err = m.registry.ClearWarning(ctx, "", warning.UpdateHeld)
	}
	if err != nil {
		return err
	}
	return m.sweep(ctx)
}

// cut bounds what is stored of a problem.
func cut(text string) string {
	const most = 500
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
