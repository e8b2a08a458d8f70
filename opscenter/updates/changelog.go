package updates

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// Changelog lists the packages that changed between two updates, by component. Its form is that of the publisher's changelog.
type Changelog struct {
	// Version of the newer update.
	Version string
	// PriorVersion is the version of the older update. Empty: there is none, so all packages count as added.
	PriorVersion string
	// Channel for which the changelog was made; empty: none.
	Channel string
	// Components has an entry for "IncusOS" and for each application, if it changed.
	Components map[string]Changes
}

// Changes are the changed packages of a component.
type Changes struct {
	// Added and Removed have entries of the form "NAME version V", sorted.
	Added []string
	// Updated has entries of the form "NAME version V to version W", sorted.
	Updated []string
	// Removed: see Added.
	Removed []string
}

// manifest is the content of an image-manifest: the packages of an image, and further artifacts built into it.
type manifest struct {
	Packages  []softwarePackage `json:"packages"`
	Artifacts []softwarePackage `json:"artifacts"`
}

type softwarePackage struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// maxManifest is the maximum size of an unpacked manifest, in bytes.
const maxManifest = 16 << 20

// Limits of a comparison. A manifest of IncusOS has about 300 packages.
const (
	maxManifests = 64
	maxPackages  = 20_000 // in all manifests together
)

// versions returns the versions of each package, joined by ", ", and the number of entries. It returns nil for more than
// maxPackages entries.
func (m *manifest) versions() (out map[string]string, n int) {
	lists := map[string][]string{}
	for _, p := range slices.Concat(m.Packages, m.Artifacts) {
		if n++; n > maxPackages {
			return nil, n
		}
		if !slices.Contains(lists[p.Name], p.Version) && len(lists[p.Name]) < maxVersions {
			lists[p.Name] = append(lists[p.Name], p.Version)
		}
	}
	out = map[string]string{}
	for name, versions := range lists {
		out[name] = strings.Join(versions, ", ")
	}
	return out, n
}

// maxVersions is the maximum number of versions of one package that are compared.
const maxVersions = 16

// compare returns the changes from one map of package versions to another.
func compare(before, after map[string]string) (out Changes) {
	for _, name := range slices.Sorted(maps.Keys(after)) {
		switch have, ok := before[name]; {
		case !ok:
			out.Added = append(out.Added, name+" version "+after[name])
		case have != after[name]:
			out.Updated = append(out.Updated, name+" version "+have+" to version "+after[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if _, ok := after[name]; !ok {
			out.Removed = append(out.Removed, name+" version "+before[name])
		}
	}
	return out
}

// manifestComponent returns the component of a manifest: "IncusOS" for x86_64/IncusOS_202610010000.manifest.json.gz.
func manifestComponent(f *File, version string) string {
	return strings.TrimSuffix(strings.TrimSuffix(path.Base(f.Filename), ".manifest.json.gz"), "_"+version)
}

// packages reads the manifests of an update and returns the versions of the packages of each component.
func (m *Manager) packages(ctx context.Context, u *Update, architecture string) (map[string]map[string]string, error) {
	out := map[string]map[string]string{}
	packages := 0
	for i := range u.Files {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		f := &u.Files[i]
		if f.Type != TypeImageManifest || !f.isFor(architecture) {
			continue
		}
		if len(out) == maxManifests {
			return nil, fmt.Errorf("update %s has more than %d manifests: %w", u.Version, maxManifests, ErrInvalid)
		}
		var found manifest
		if err := m.readJSON(ctx, f, &found); err != nil {
			return nil, fmt.Errorf("update %s, %s: %w", u.Version, f.Filename, err)
		}
		versions, n := found.versions()
		if packages += n; packages > maxPackages {
			return nil, fmt.Errorf("update %s has more than %d packages: %w", u.Version, maxPackages, ErrInvalid)
		}
		out[manifestComponent(f, u.Version)] = versions
	}
	return out, nil
}

// readJSON reads a gzipped JSON file of at most maxManifest bytes.
func (m *Manager) readJSON(ctx context.Context, f *File, into any) error {
	file, err := m.files.Open(ctx, f.SHA256)
	if err != nil {
		return err
	}
	defer file.Close()
	unpacked, err := gzip.NewReader(file)
	if err != nil {
		return fmt.Errorf("%w: %v", ErrInvalid, err)
	}
	data, err := readBounded(io.Reader(unpacked), maxManifest)
	if err != nil {
		return fmt.Errorf("%w: %v", ErrInvalid, err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%w: %v", ErrInvalid, err)
	}
	return nil
}

// Compare returns the changes from one update to another, according to their manifests. With a nil before, all packages
// count as added. An update without stored manifests has no packages. Errors: ErrInvalid for a manifest.
func (m *Manager) Compare(ctx context.Context, before, after *Update, architecture string) (*Changelog, error) {
	out := &Changelog{Version: after.Version, Components: map[string]Changes{}}
	to, err := m.packages(ctx, after, architecture)
	if err != nil {
		return nil, err
	}
	from := map[string]map[string]string{}
	if before != nil {
		out.PriorVersion = before.Version
		if from, err = m.packages(ctx, before, architecture); err != nil {
			return nil, err
		}
	}
	for component := range maps.Keys(union(from, to)) {
		changes := compare(from[component], to[component])
		if len(changes.Added)+len(changes.Updated)+len(changes.Removed) > 0 {
			out.Components[component] = changes
		}
	}
	return out, nil
}

// union returns the keys of both maps.
func union[K comparable, V any](a, b map[K]V) map[K]bool {
	out := map[K]bool{}
	for key := range a {
		out[key] = true
	}
	for key := range b {
		out[key] = true
	}
	return out
}

// Changelog returns the changes of an update since the ready update before it. With a channel, the update before is the
// next older one in that channel: of this control plane or, if upstream, of the publisher. With an empty channel, it is the
// next older one of all. Errors: opscenter.ErrNotFound, ErrInvalid for a manifest.
func (m *Manager) Changelog(ctx context.Context, uuid, channel string, upstream bool, architecture string) (*Changelog, error) {
	s := m.Snapshot()
	u, err := s.ready(uuid)
	if err != nil {
		return nil, err
	}
	return m.changelog(ctx, s, u, channel, upstream, architecture)
}

// ready returns a ready update. Errors: opscenter.ErrNotFound.
func (s *Snapshot) ready(uuid string) (*Update, error) {
	u, err := s.Update(uuid)
	if err == nil && u.Status != StatusReady {
		err = fmt.Errorf("update %s is not ready: %w", u.Version, opscenter.ErrNotFound)
	}
	return u, err
}

// ChangelogSince returns the changes from the update since to the update uuid. Errors: opscenter.ErrNotFound if one of
// them is unknown or not ready, ErrInvalid for a manifest.
func (m *Manager) ChangelogSince(ctx context.Context, uuid, since, architecture string) (*Changelog, error) {
	s := m.Snapshot()
	after, err := s.ready(uuid)
	if err != nil {
		return nil, err
	}
	before, err := s.ready(since)
	if err != nil {
		return nil, err
	}
	return m.Compare(ctx, before, after, architecture)
}

// changelog implements Changelog on a snapshot.
func (m *Manager) changelog(ctx context.Context, s *Snapshot, u *Update, channel string, upstream bool, architecture string) (*Changelog, error) {
	var before *Update
	for _, other := range s.updates { // newest first
		in := other.Channels
		if upstream {
			in = other.UpstreamChannels
		}
		if newestFirst(u, other) < 0 && other.Status == StatusReady && (channel == "" || slices.Contains(in, channel)) {
			before = other
			break
		}
	}
	out, err := m.Compare(ctx, before, u, architecture)
	if err != nil {
		return nil, err
	}
	out.Channel = channel
	return out, nil
}

// ChannelChangelog returns the changelog of each ready update of a channel, newest first. Errors: ErrInvalid for a
// manifest.
func (m *Manager) ChannelChangelog(ctx context.Context, channel, architecture string) (out []*Changelog, err error) {
	s := m.Snapshot()
	for _, u := range s.updates {
		if u.Status != StatusReady || !slices.Contains(u.Channels, channel) {
			continue
		}
		one, err := m.changelog(ctx, s, u, channel, false, architecture)
		if err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	return out, nil
}

// ServerChangelog returns the changes that a server would get from an update: from the version of its operating system to
// the newest update of its channel. If the version that it runs is not stored, all packages count as added. A server with
// an unknown architecture counts as x86_64. Errors: opscenter.ErrNotFound if its channel offers no update, ErrInvalid for a
// manifest.
func (m *Manager) ServerChangelog(ctx context.Context, info *opscenter.ServerInfo) (*Changelog, error) {
	s := m.Snapshot()
	after := Offered(s.updates, info.Channel)
	if after == nil {
		return nil, fmt.Errorf("channel %q offers no update: %w", info.Channel, opscenter.ErrNotFound)
	}
	architecture := info.State.Architecture
	if architecture == "" {
		architecture = ArchitectureX8664
	}
	running, _ := info.State.Versions.Staged(lifecycle.ComponentOS)
	if running == after.Version {
		return &Changelog{Version: after.Version, PriorVersion: running, Channel: info.Channel, Components: map[string]Changes{}}, nil
	}
	var before *Update
	for _, u := range s.updates {
		if u.Version == running && u.Status == StatusReady {
			before = u
		}
	}
	out, err := m.Compare(ctx, before, after, architecture)
	if err != nil {
		return nil, err
	}
	out.Channel = info.Channel
	if before == nil {
		out.PriorVersion = running
	}
	return out, nil
}
