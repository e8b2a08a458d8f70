package image

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/opscenter-go/sdk/internal/defaults"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/seed"
	"github.com/opscenter-go/sdk/opscenter/updates"
)

// Kinds of images, with the names of Operations Center.
const (
	// Raw is for USB sticks, disks and virtual machines.
	Raw = "raw"
	// ISO is only for CD-ROM drives and virtual media.
	ISO = "iso"
)

// Errors of a Manager.
var (
	// ErrKind: the kind of image or the architecture is unknown.
	ErrKind = errors.New("no kind of image")
	// ErrPublic: public seeds are switched off.
	ErrPublic = errors.New("public seeds are switched off (image.Options.Public)")
)

const (
	// DefaultPrepared is the default of Options.Prepared.
	DefaultPrepared = time.Hour
	// auditInterval is the time within which one principal's fetches of one image make one audit entry. Clients fetch images
	// in parts.
	auditInterval = time.Hour
	// maxMade is the maximum number of images that are remembered for this.
	maxMade = 10_000
)

// Options are the options of New.
type Options struct {
	// ServerURL is the https URL at which servers reach the control plane. Required.
	ServerURL string
	// Certificate of the control plane, which servers pin. Nil: the servers' systems trust it already.
	Certificate *x509.Certificate
	// Prepared is the time for which a prepared image can be fetched. Default 1 hour.
	Prepared time.Duration
	// Public allows public seeds, whose images are fetched without authentication.
	Public bool
	// Audit gets an entry for each image. Default: no entry is written.
	Audit *audit.Log
}

// Manager makes images from the releases of the update feed. All methods may be called concurrently.
type Manager struct {
	registry *opscenter.Registry
	feed     *updates.Manager
	store    *Store
	options  Options
	made     *lru.Cache[string, time.Time] // time of the audit entry of each image
}

// New returns a Manager. Errors: opscenter.ErrInvalidOptions for a nil argument or an unusable option.
func New(registry *opscenter.Registry, feed *updates.Manager, store *Store, options Options) (*Manager, error) {
	if registry == nil || feed == nil || store == nil || options.ServerURL == "" {
		return nil, fmt.Errorf("a registry, a feed, a store and ServerURL are required: %w", opscenter.ErrInvalidOptions)
	}
	if err := defaults.Fill(opscenter.ErrInvalidOptions, defaults.Of("Prepared", &options.Prepared, DefaultPrepared)); err != nil {
		return nil, err
	}
	check := &seed.Seed{Provider: seed.OperationsCenterProvider(options.ServerURL, "token", options.Certificate)}
	if err := check.Validate(seed.Rules{}); err != nil {
		return nil, fmt.Errorf("ServerURL %.200q: %w: %w", options.ServerURL, opscenter.ErrInvalidOptions, err)
	}
	made, err := lru.New[string, time.Time](maxMade)
	if err != nil {
		return nil, err
	}
	return &Manager{registry: registry, feed: feed, store: store, options: options, made: made}, nil
}

// Request selects an image.
type Request struct {
	// Kind is Raw or ISO.
	Kind string
	// Architecture is updates.ArchitectureX8664, the default, or updates.ArchitectureAArch64.
	Architecture string
	// Channel whose newest release is used. Default: the channel of the token.
	Channel string
}

// check rejects an unknown kind or architecture with ErrKind, and sets the default architecture.
func (r *Request) check() error {
	if r.Kind != Raw && r.Kind != ISO {
		return fmt.Errorf("type %.40q is %w: %s or %s is wanted", r.Kind, ErrKind, ISO, Raw)
	}
	r.Architecture = cmp.Or(r.Architecture, updates.ArchitectureX8664)
	if r.Architecture != updates.ArchitectureX8664 && r.Architecture != updates.ArchitectureAArch64 {
		return fmt.Errorf("architecture %.40q is %w: %s or %s is wanted", r.Architecture, ErrKind, updates.ArchitectureX8664, updates.ArchitectureAArch64)
	}
	return nil
}

// seedOf returns the seed for servers that a token admits: the files, and the settings that lead the server to this control
// plane. Errors: seed.ErrInvalid.
func (m *Manager) seedOf(token *opscenter.Token, files map[string]json.RawMessage) (*seed.Seed, error) {
	out, err := filesOf(files)
	if err != nil {
		return nil, err
	}
	if out.Applications == nil && len(token.Applications) > 0 {
		out.Applications = seed.ApplicationsOf(token.Applications...)
	}
	out.Manage(m.ProviderConfig(token), token.Channel)
	return out, out.Validate(seed.Rules{})
}

// ProviderConfig returns the provider file for a server that the token admits. It contains the token.
func (m *Manager) ProviderConfig(token *opscenter.Token) *seed.Provider {
	return seed.OperationsCenterProvider(m.options.ServerURL, token.UUID, m.options.Certificate)
}

// filesOf reads the files of a seed as seed.FromFiles does. It rejects a provider file, which the control plane sets itself.
// Errors: seed.ErrInvalid.
func filesOf(files map[string]json.RawMessage) (*seed.Seed, error) {
	out, err := seed.FromFiles(files)
	if err == nil && out.Provider != nil {
		err = fmt.Errorf("%s: the control plane sets this file: %w", seed.FileProvider, seed.ErrInvalid)
	}
	return out, err
}

// Check validates an operator's seed. wasPublic tells whether the seed is public already. Errors: seed.ErrInvalid, ErrPublic.
func (m *Manager) Check(spec opscenter.TokenSeedSpec, wasPublic bool) error {
	if spec.Public && !wasPublic && !m.options.Public {
		return ErrPublic
	}
	s, err := filesOf(spec.Files)
	if err != nil {
		return err
	}
	return s.Validate(seed.Rules{})
}

// Made is a finished image, which the caller closes.
type Made struct {
	*Image
	kept *Kept
	// Name is the file name of the image.
	Name string
	// Version of its release.
	Version string
	// ETag, in quotes, differs for images with different bytes.
	ETag string
}

// Close closes the image. It must not be read afterwards.
func (m *Made) Close() error { return m.kept.Close() }

// Prepare stores the request and the release for an image, which MakePrepared makes until Options.Prepared has passed. Errors:
// those of Make.
func (m *Manager) Prepare(ctx context.Context, token string, files map[string]json.RawMessage, request Request) (*opscenter.PreparedImage, error) {
	if err := request.check(); err != nil {
		return nil, err
	}
	usable, err := m.registry.TokenSeeds().UsableToken(ctx, token)
	if err != nil {
		return nil, err
	}
	s, err := m.seedOf(usable, files)
	if err != nil {
		return nil, err
	}
	u, file, err := m.choose(ctx, usable, s, request)
	if err != nil {
		return nil, err
	}
	return m.registry.TokenSeeds().PrepareImage(ctx, opscenter.PreparedImage{Token: token, Kind: request.Kind, Architecture: request.Architecture, Files: files, Update: u.UUID, SHA256: file.SHA256, ExpireAt: m.registry.Observer().Now().Add(m.options.Prepared)})
}

// imageSpec describes an image to make.
type imageSpec struct {
	Request
	token, name string
	files       map[string]json.RawMessage
	// update is the UUID of the release and sum the SHA-256 of its file; empty: the newest release is used.
	update, sum string
	// remote is the address of a client without authentication; empty: the client is the principal.
	remote string
}

// MakePrepared makes a prepared image, from the release that Prepare chose. Errors: those of Make.
func (m *Manager) MakePrepared(ctx context.Context, token, id string) (*Made, error) {
	p, err := m.registry.TokenSeeds().PreparedImage(ctx, token, id)
	if err != nil {
		return nil, err
	}
	return m.makeImage(ctx, imageSpec{Request: Request{Kind: p.Kind, Architecture: p.Architecture}, token: p.Token, name: p.UUID, files: p.Files, update: p.Update, sum: p.SHA256})
}

// Make makes an image with a named seed of a token. Errors: opscenter.ErrNotFound for an unknown token, seed or channel, and for
// a release without such an image; those of a token that admits no more servers; opscenter.ErrBlocked for a release without an
// application of the seed; ErrKind, seed.ErrInvalid, those of Store.Base.
func (m *Manager) Make(ctx context.Context, token, name string, request Request) (*Made, error) {
	s, err := m.registry.TokenSeeds().Get(ctx, token, name)
	if err != nil {
		return nil, err
	}
	return m.makeImage(ctx, imageSpec{Request: request, token: s.Token, name: s.Name, files: s.Files})
}

// MakePublic makes an image with the seed of a public name, for an unauthenticated client at the address remote. Errors: those
// of Make, ErrPublic.
func (m *Manager) MakePublic(ctx context.Context, public string, request Request, remote string) (*Made, error) {
	if !m.options.Public {
		return nil, ErrPublic
	}
	s, err := m.registry.TokenSeeds().Public(ctx, public)
	if err != nil {
		return nil, err
	}
	return m.makeImage(ctx, imageSpec{Request: request, token: s.Token, name: s.Name, files: s.Files, remote: remote})
}

// makeImage makes the image, and records it in the audit log.
func (m *Manager) makeImage(ctx context.Context, w imageSpec) (*Made, error) {
	if err := w.check(); err != nil {
		return nil, err
	}
	usable, err := m.registry.TokenSeeds().UsableToken(ctx, w.token)
	if err != nil {
		return nil, err
	}
	s, err := m.seedOf(usable, w.files)
	if err != nil {
		return nil, err
	}
	u, file, err := m.release(ctx, usable, s, &w)
	if err != nil {
		return nil, err
	}
	archive, err := s.Tar()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(slices.Concat([]byte(file.SHA256), archive))
	extension := map[string]string{Raw: ".img", ISO: ".iso"}[w.Kind]
	made := &Made{Name: "pre-seed-" + w.name + extension, Version: u.Version, ETag: `"` + hex.EncodeToString(sum[:16]) + `"`}
	origin := "seed " + w.name
	if w.update != "" {
		origin = "prepared as " + w.name
	}
	detail := fmt.Sprintf("%s image of %s for %s, %s of %s", w.Kind, u.Version, w.Architecture, origin, usable.Label())
	if host, _, err := net.SplitHostPort(w.remote); err == nil {
		detail += ", public, to " + host
	}
	err = m.recorded(ctx, made.ETag, detail, func(ctx context.Context) error {
		made.kept, err = m.store.Base(ctx, Source{Name: file.Filename, SHA256: file.SHA256, Open: func() (io.ReadCloser, error) {
			_, _, content, err := m.feed.Open(context.WithoutCancel(ctx), u.UUID, file.Filename) // other callers may wait for the same image
			return content, err
		}})
		if err != nil {
			return err
		}
		made.Image, err = made.kept.With(archive)
		if err == nil && made.kept.ISO() != (w.Kind == ISO) {
			err = fmt.Errorf("%s: %w of that kind", file.Filename, ErrNoImage)
		}
		if err != nil {
			err = errors.Join(err, made.kept.Close())
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return made, nil
}

// release returns the pinned release and its file, or chooses the newest one.
func (m *Manager) release(ctx context.Context, token *opscenter.Token, s *seed.Seed, w *imageSpec) (*updates.Update, *updates.File, error) {
	if w.update == "" {
		return m.choose(ctx, token, s, w.Request)
	}
	u, err := m.feed.Snapshot().Update(w.update)
	if err != nil {
		return nil, nil, fmt.Errorf("the release of the prepared image: %w", err)
	}
	for i := range u.Files {
		if u.Files[i].SHA256 == w.sum && u.Status == updates.StatusReady {
			return u, &u.Files[i], nil
		}
	}
	return nil, nil, fmt.Errorf("the file of release %s for the prepared image: %w", u.Version, opscenter.ErrNotFound)
}

// choose returns the newest release of the channel, and its file for the image.
func (m *Manager) choose(ctx context.Context, token *opscenter.Token, s *seed.Seed, request Request) (*updates.Update, *updates.File, error) {
	channel := cmp.Or(request.Channel, token.Channel)
	if _, err := m.registry.Channels().Get(ctx, channel); err != nil {
		return nil, nil, err
	}
	u := updates.Offered(m.feed.Snapshot().Updates(), channel)
	if u == nil {
		return nil, nil, fmt.Errorf("channel %s offers no release for an image: %w", channel, opscenter.ErrNotFound)
	}
	kind := map[string]updates.FileType{Raw: updates.TypeImageRaw, ISO: updates.TypeImageISO}[request.Kind]
	for i := range u.Files {
		f := &u.Files[i]
		if f.Type != kind || f.Architecture != request.Architecture || f.Component != lifecycle.ComponentOS {
			continue
		}
		return u, f, m.checkApplications(ctx, s, request.Architecture)
	}
	return nil, nil, fmt.Errorf("release %s of channel %s has no %s image for %s (%s): %w", u.Version, channel, request.Kind, request.Architecture, kind, opscenter.ErrNotFound)
}

// checkApplications returns opscenter.ErrBlocked unless the seed's channel offers all applications of the seed. The server
// fetches its applications from that channel, even if its image is of another release.
func (m *Manager) checkApplications(ctx context.Context, s *seed.Seed, architecture string) error {
	channel := s.Update.Channel
	if _, err := m.registry.Channels().Get(ctx, channel); err != nil {
		return fmt.Errorf("%s: %w", seed.FileUpdate, err)
	}
	offered := updates.Offered(m.feed.Snapshot().Updates(), channel)
	if offered == nil {
		return fmt.Errorf("channel %s offers no release that the server could fetch its applications of: %w", channel, opscenter.ErrNotFound)
	}
	need := []updates.Need{{By: "the seed", Architecture: architecture, Components: s.Applications.Names()}}
	if lacks := updates.Lacking(offered, need); len(lacks) > 0 {
		var missing []string
		for _, l := range lacks {
			missing = append(missing, l.Component)
		}
		return fmt.Errorf("release %s of channel %s has no %s for %s, which the seed names: the server would wait for it: %w", offered.Version, channel, strings.Join(missing, ", "), architecture, opscenter.ErrBlocked)
	}
	return nil
}

// recorded runs do, which makes an image, with one audit entry for all fetches of the image within auditInterval.
func (m *Manager) recorded(ctx context.Context, tag, detail string, do func(context.Context) error) error {
	key := opscenter.Principal(ctx) + " " + tag + " " + detail
	if at, ok := m.made.Peek(key); ok && time.Since(at) < auditInterval {
		return do(ctx)
	}
	err := m.options.Audit.Do(ctx, audit.Entry{Action: "image.make", Detail: detail}, do)
	if err == nil {
		m.made.Add(key, time.Now())
	}
	return err
}
