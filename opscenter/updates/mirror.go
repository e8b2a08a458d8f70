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

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

// RefreshOptions are the options of Refresh.
type RefreshOptions struct {
	// AcceptOlder accepts an index that is older than the one read before, after its publisher withdrew an update.
	AcceptOlder bool
}

// signerWarning is the time before the expiry of a signing certificate at which WarningSigner is raised.
const signerWarning = 90 * 24 * time.Hour

// Refresh reads the index of the source and fetches new updates. It waits for another Refresh that is running. A failed
// update does not stop the others: the error names each failed update, and warning.Updates stands until a Refresh
// succeeds. Errors: ErrNoSource, ErrSignature, ErrReplay, ErrInvalid, ErrDiskFull, those of the source and of the context.
func (m *Manager) Refresh(ctx context.Context, options RefreshOptions) error {
	select {
	case m.refreshing <- struct{}{}:
		defer func() { <-m.refreshing }()
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
	m.progress.change(func(p *Progress) { *p = Progress{Running: true, Started: m.now()} })
	err := m.refresh(ctx, s, options)
	if err != nil {
		m.progress.problem(err.Error())
	}
	m.progress.change(func(p *Progress) { p.Running, p.Version, p.Ended = false, "", m.now() })
	if ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	if err == nil {
		return m.registry.Warnings().Clear(ctx, "", warning.Updates)
	}
	return errors.Join(err, m.warn(ctx, warning.Updates, err.Error()))
}

// warn raises a warning of the fleet. It clears an older warning of the kind first if the message differs.
func (m *Manager) warn(ctx context.Context, kind warning.Kind, message string) error {
	page, err := m.registry.Warnings().List(ctx, opscenter.WarningFilter{Kind: kind}, opscenter.Page{Limit: 1})
	if err == nil && len(page.Warnings) > 0 && page.Warnings[0].Message != message && !strings.HasPrefix(message, page.Warnings[0].Message) {
		err = m.registry.Warnings().Clear(ctx, "", kind)
	}
	return errors.Join(err, m.registry.Warnings().Raise(ctx, "", warning.Input{Kind: kind, Message: message}))
}

// refresh reads the index, fetches the chosen updates and applies retention.
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
	m.countMissing(ctx, wanted)
	for _, w := range wanted {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(problems, err)...)
		}
		if err := m.fetchUpdate(ctx, s, w); err != nil {
			problems = append(problems, fmt.Errorf("update %s: %w", w.Version, err))
		}
	}
	problems = append(problems, m.tidy(ctx, s, index))
	return errors.Join(problems...)
}

// readIndex reads the index of the source. It returns ErrReplay for an index that is older than the last one.
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

// checkSignature raises WarningSigner if a signing certificate has expired or expires soon, and clears it otherwise.
func (m *Manager) checkSignature(ctx context.Context, signature *Signature) error {
	if signature == nil {
		return nil
	}
	if left := time.Until(signature.Ends); left < signerWarning {
		state := "ends on"
		if signature.Late {
			state = "is accepted for a while longer, but ended on"
		}
		return m.warn(ctx, warning.Signer, fmt.Sprintf("the certificate %q that signs updates %s %s: its publisher must renew it", signature.Name, state, signature.Ends.Format(time.DateOnly)))
	}
	return m.registry.Warnings().Clear(ctx, "", warning.Signer)
}

// checkFresh stores the publication time of the newest update in the index. If that is older than the stored time, it
// returns ErrReplay instead.
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
			return fmt.Errorf("the source's index, with its newest update of %s, %w, with its newest of %s: if the publisher has withdrawn an update, refresh with force",
				newest.Format(time.RFC3339), ErrReplay, row.Newest.Format(time.RFC3339))
		}
		if row.Source == source && newest.Equal(row.Newest) {
			return nil
		}
		row.Source, row.Newest = source, newest
		return feeds.Put(tx, row)
	})
}

// choose returns the updates of the index to fetch, newest first, each with its files to fetch. It leaves out updates that
// the filters reject or that retention would drop.
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
		candidate.setUUID()
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
	// The updates as they will be after a complete refresh.
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
	here := map[string]bool{} // a version that servers claim to run is retained, but not fetched
	for _, u := range known.Updates() {
		here[u.Version] = inUse[u.Version]
	}
	stays := Retain(then, s.Keep, here)
	return slices.DeleteFunc(candidates, func(u *Update) bool { return !stays[u.UUID] }), nil
}

// fleet returns the architectures of all servers, and the versions that they run or have staged.
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

// maxInUse is the number of releases that one server can retain. A server runs one release and has staged another. Its
// applications may be of two more.
const maxInUse = 4

// inUseBy returns up to maxInUse versions that a server runs or has staged. Primary applications come before others.
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

// countMissing sets the number and size of the files to fetch in the progress.
func (m *Manager) countMissing(ctx context.Context, wanted []*Update) {
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

// fetchUpdate fetches the missing files of an update and makes it ready.
func (m *Manager) fetchUpdate(ctx context.Context, s *prepared, wanted *Update) error {
	have := m.Snapshot().byUUID[wanted.UUID]
	if have != nil && have.Status == StatusReady {
		return m.fetchNewFiles(ctx, s, have, wanted)
	}
	pending := *wanted
	pending.Status, pending.CreatedAt = StatusPending, m.now()
	if have == nil || !slices.Equal(have.Files, pending.Files) {
		err := m.change(ctx, "an update is being fetched", func(c *changeSet) error {
			row := pending
			if known := c.rows[pending.UUID]; known != nil { // keep the operators' changes
				row = *known
				row.Files = pending.Files
			}
			c.put(row)
			return c.tx.Record(event.Event{At: c.tx.Now(), Kind: event.UpdateFetching, Reason: fmt.Sprintf("update %s of %s: %d files, %d MiB", row.Version, row.Origin, len(row.Files), row.Size()>>20)})
		})
		if err != nil {
			return err
		}
	}
	for _, f := range pending.Files { // the filters may change meanwhile
		defer m.pin(f.SHA256)()
	}
	if err := m.fetchAll(ctx, s.source, wanted, pending.Files); err != nil {
		if ctx.Err() == nil {
			problem := truncate.Text(err.Error(), maxProblem)
			err = errors.Join(err, m.change(ctx, "an update could not be fetched", func(c *changeSet) error {
				known := c.rows[pending.UUID]
				if known == nil || known.Status != StatusPending || known.Problem == problem {
					return nil // the problem is recorded already
				}
				failed := *known
				failed.Problem = problem
				c.put(failed)
				return c.tx.Record(event.Event{At: c.tx.Now(), Kind: event.UpdateFailed, Reason: fmt.Sprintf("update %s of %s: %s", failed.Version, failed.Origin, problem)})
			}))
		}
		return err
	}
	return m.makeReady(ctx, s, pending, "fetched")
}

// fetchAll fetches the files, Options.MaxFetches at a time. A failure does not stop the other files.
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

// uniqueFiles returns the files without those whose content occurred before under another name.
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

// makeReady makes an update with all its files ready. It puts a new update into the default channel, or holds it back.
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
	err = m.change(ctx, reason, func(c *changeSet) error {
		u.Held, u.Problem, u.Channels = "", "", nil
		switch known := c.rows[u.UUID]; {
		case known == nil && !u.Local:
			return fmt.Errorf("the update was removed meanwhile: %w", opscenter.ErrNotFound)
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
		return c.tx.Record(event.Event{At: c.tx.Now(), Kind: event.UpdateReady, Reason: reason + byPrincipal(ctx)})
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

// fetchNewFiles fetches files of a ready update that the filters rejected before and now accept.
func (m *Manager) fetchNewFiles(ctx context.Context, s *prepared, have, wanted *Update) error {
	var more []File
	for _, f := range wanted.Files {
		switch other := have.file(f.Filename); {
		case other == nil:
			more = append(more, f)
		case other.SHA256 != f.SHA256:
			return fmt.Errorf("the source changed the content of %s: %w", f.Filename, ErrMismatch)
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
	return m.addFiles(ctx, have, more)
}

// addFiles adds stored files to a ready update.
func (m *Manager) addFiles(ctx context.Context, have *Update, more []File) error {
	whole := *have
	whole.Files = slices.Concat(have.Files, more)
	keys, err := m.countKeys(ctx, &whole)
	if err != nil {
		return err
	}
	return m.change(ctx, "files were added to an update", func(c *changeSet) error {
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
				return fmt.Errorf("update %s of %s is stored with a different %s: %w", u.Version, u.Origin, f.Filename, ErrInvalid)
			}
		}
		extended.SecureBootKeys = keys
		c.put(extended)
		return nil
	})
}

// tidy removes updates that retention drops, pending updates that left the index, and files that the filters reject. It
// puts a held update into its channel if nothing is lacking any more. index is nil if it was not read.
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
			named.setUUID()
			offered[named.UUID] = true
		}
	}
	held := ""
	err = m.change(ctx, "updates were tidied up", func(c *changeSet) error {
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
				if err := c.tx.Record(event.Event{At: c.tx.Now(), Kind: event.UpdateRemoved, Reason: fmt.Sprintf("update %s of %s: it is not among the newest", u.Version, u.Origin)}); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err == nil && held == "" {
		err = m.registry.Warnings().Clear(ctx, "", warning.UpdateHeld)
	}
	if err != nil {
		return err
	}
	return m.sweep(ctx)
}

// maxProblem bounds what is stored of a problem, in bytes.
const maxProblem = 500
