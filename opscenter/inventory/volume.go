package inventory

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// apart reports whether the daemon lists the snapshots of volumes by themselves: Incus does since it
// tells all of a volume at once (storage_volume_full); before, they were listed among the volumes.
func (w *worker) apart() bool { return slices.Contains(w.daemon.Extensions, "storage_volume_full") }

// isSnapshot reports whether an object is a snapshot of a volume.
func (r *row) isSnapshot() bool { return r.Kind == KindStorageVolume && strings.Contains(r.Name, "/") }

// volumes lists the volumes of a pool, and then the snapshots of each custom one: those of instances are
// told with their instances.
func (l *lister) volumes(ctx context.Context, have known, what ref, path string) error {
	var custom []*row
	among := false
	err := l.list(ctx, have, what, path, func(r *row) {
		switch {
		case r.isSnapshot():
			among = true // it lists them as before
		case r.Type == "custom":
			custom = append(custom, &row{Kind: r.Kind, Project: r.Project, Parent: r.Parent, Type: r.Type, Name: r.Name, Location: r.Location})
		}
	})
	if err != nil || among || l.shallow {
		return err
	}
	for _, volume := range custom {
		if err := l.snapshots(ctx, have, volume, ""); err != nil {
			return err
		}
	}
	return nil
}

// snapshots lists the snapshots of a volume: all, or the one of that name. What the daemon can't say, as when the
// member is away that has the volume, stays as it is known.
func (l *lister) snapshots(ctx context.Context, have known, volume *row, only string) error {
	query := url.Values{"recursion": {"1"}, "project": {volume.Project}}
	if volume.Location != "" {
		query.Set("target", volume.Location)
	}
	path := "/1.0/storage-pools/" + url.PathEscape(volume.Parent) + "/volumes/" + url.PathEscape(volume.Type) + "/" + url.PathEscape(volume.Name) + "/snapshots?" + query.Encode()
	what := ref{kind: KindStorageVolume, parent: volume.Parent, project: volume.Project}
	err := l.w.m.incus.ReadList(ctx, l.w.target, path, func(entry json.RawMessage) error {
		found, err := normalize(what, entry, l.w.m.options.KeepSecrets)
		if err != nil {
			l.miss(err)
			return nil
		}
		if !strings.Contains(found.Name, "/") {
			found.Name = volume.Name + "/" + found.Name
		}
		found.Type, found.Location = volume.Type, volume.Location
		if only != "" && found.Name != only {
			return nil
		}
		return l.batch.compare(ctx, have, found)
	})
	if err != nil && status(err) != 0 {
		l.miss(fmt.Errorf("snapshots of %s: %w", limited(volume.Name), err))
		return nil
	}
	return err
}

// snapshot looks for one snapshot of a volume, on each member that has a volume of that name.
func (l *lister) snapshot(ctx context.Context, have known, r ref) error {
	volume := r
	volume.name, _, _ = strings.Cut(r.name, "/")
	var all []*row
	err := l.w.m.incus.ReadList(ctx, l.w.target, searchPath(volume), func(entry json.RawMessage) error {
		found, err := normalize(volume, entry, l.w.m.options.KeepSecrets)
		if err != nil {
			l.miss(err)
		} else if found.Name == volume.name && found.Type == volume.typ {
			all = append(all, found)
		}
		return nil
	})
	for _, found := range all {
		if err == nil {
			err = l.snapshots(ctx, have, found, r.name)
		}
	}
	return err
}
