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
	"slices"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/opscenter-go/sdk/internal/defaults"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/seed"
	"github.com/opscenter-go/sdk/opscenter/updates"
)

// Kinds of images, as Operations Center names them.
const (
	// Raw is for USB sticks, disks and virtual machines.
	Raw = "raw"
	// ISO is for CD-ROM drives and virtual media alone.
	ISO = "iso"
)

var (
	// ErrKind: there is no such kind of image, or architecture.
	ErrKind = errors.New("there is no such image")
	// ErrPublic: public seeds are switched off.
	ErrPublic = errors.New("public seeds are switched off")
)

// Defaults of Options.
const (
	DefaultPrepared = time.Hour
	// rememberMade is for how long the same image, for the same principal, is one entry of the audit log: it is fetched in parts.
	rememberMade = time.Hour
	maxMade      = 10_000
)

// Options of New.
type Options struct {
	// ServerURL is where servers reach the control plane. It is needed.
	ServerURL string
	// Certificate of the control plane, which servers pin; nil: their system trusts it.
	Certificate *x509.Certificate
	// Prepared is for how long an image can be fetched that was prepared. Default 1 hour.
	Prepared time.Duration
	// Public allows seeds whose images are fetched without authentication.
	Public bool
	// Audit has an entry for each image that is made. Default: none is written.
	Audit *audit.Log
}

// Manager makes images of what the update feed has. All methods may be called concurrently.
type Manager struct {
	registry *opscenter.Registry
	feed     *updates.Manager
	store    *Store
	options  Options
	made     *lru.Cache[string, time.Time] // what the audit log has
}

// New returns a Manager. Errors: opscenter.ErrInvalidOptions.
func New(registry *opscenter.Registry, feed *updates.Manager, store *Store, options Options) (*Manager, error) {
	if registry == nil || feed == nil || store == nil || options.ServerURL == "" {
		return nil, fmt.Errorf("a registry, a feed, a store and ServerURL are needed: %w", opscenter.ErrInvalidOptions)
	}
	if err := defaults.Fill(opscenter.ErrInvalidOptions, defaults.Of("Prepared", &options.Prepared, DefaultPrepared)); err != nil {
		return nil, err
	}
	made, err := lru.New[string, time.Time](maxMade)
	if err != nil {
		return nil, err
	}
	return &Manager{registry: registry, feed: feed, store: store, options: options, made: made}, nil
}

// Request says which image is wanted.
type Request struct {
	// Kind is Raw or ISO.
	Kind string
	// Architecture is updates.ArchitectureX8664, the default, or updates.ArchitectureAArch64.
	Architecture string
	// Channel whose newest release it is. Default: that of the token.
	Channel string
}

func (r *Request) check() error {
	if r.Kind != Raw && r.Kind != ISO {
		return fmt.Errorf("type %.40q, %s or %s is wanted: %w", r.Kind, ISO, Raw, ErrKind)
	}
	r.Architecture = cmp.Or(r.Architecture, updates.ArchitectureX8664)
	if r.Architecture != updates.ArchitectureX8664 && r.Architecture != updates.ArchitectureAArch64 {
		return fmt.Errorf("architecture %.40q, %s or %s is wanted: %w", r.Architecture, updates.ArchitectureX8664, updates.ArchitectureAArch64, ErrKind)
	}
	return nil
}

// Seed returns what servers that a token admits are installed with: the files, and what they need to come to this control plane. Errors:
// seed.ErrInvalid.
func (m *Manager) Seed(token *opscenter.Token, files map[string]json.RawMessage) (*seed.Seed, error) {
	out, err := Files(files)
	if err != nil {
		return nil, err
	}
	if out.Applications == nil && len(token.Applications) > 0 {
		out.Applications = seed.ApplicationsOf(token.Applications...)
	}
	out.Manage(m.ProviderConfig(token), token.Channel)
	return out, out.Validate(seed.Rules{})
}

// ProviderConfig is what leads a server to this control plane, and admits it.
func (m *Manager) ProviderConfig(token *opscenter.Token) *seed.Provider {
	return seed.OperationsCenterProvider(m.options.ServerURL, token.UUID, m.options.Certificate)
}

// Files reads the files of a seed, strictly. The provider is the control plane's to say. Errors: seed.ErrInvalid.
func Files(files map[string]json.RawMessage) (*seed.Seed, error) {
	out := &seed.Seed{}
	for _, name := range seed.Files {
		if data, ok := files[name]; ok {
			if err := out.Set(name, data); err != nil {
				return nil, err
			}
		}
	}
	for name := range files {
		if !slices.Contains(seed.Files, name) {
			return nil, fmt.Errorf("%.40q is no seed file: %w", name, seed.ErrInvalid)
		}
	}
	if out.Applications != nil && len(out.Applications.Applications) == 0 {
		out.Applications = nil // a client that was told of none sends it so
	}
	if out.Provider != nil {
		return nil, fmt.Errorf("%s: it is the control plane that says it: %w", seed.FileProvider, seed.ErrInvalid)
	}
	return out, nil
}

// Check checks what an operator says of a seed. Errors: seed.ErrInvalid, ErrPublic.
func (m *Manager) Check(spec opscenter.TokenSeedSpec) error {
	if spec.Public && !m.options.Public {
		return ErrPublic
	}
	s, err := Files(spec.Files)
	if err != nil {
		return err
	}
	return s.Validate(seed.Rules{})
}

// Made is an image. Close it when nothing is read of it any more.
type Made struct {
	*Image
	kept *Kept
	// Name of its file, Version of its release, and PublishedAt.
	Name, Version string
	PublishedAt   time.Time
	// ETag changes with each byte of it.
	ETag string
}

// Close ends reading.
func (m *Made) Close() error { return m.kept.Close() }

// Prepare keeps what an image is to be made of, to be fetched until Options.Prepared has passed. Errors: those of Make.
func (m *Manager) Prepare(ctx context.Context, token string, files map[string]json.RawMessage, request Request) (*opscenter.PreparedImage, error) {
	if err := request.check(); err != nil {
		return nil, err
	}
	usable, err := m.registry.UsableToken(ctx, token)
	if err != nil {
		return nil, err
	}
	s, err := m.Seed(usable, files)
	if err != nil {
		return nil, err
	}
	if _, _, err := m.choose(ctx, usable, s, request); err != nil {
		return nil, err
	}
	return m.registry.PrepareImage(ctx, opscenter.PreparedImage{Token: token, Kind: request.Kind, Architecture: request.Architecture, Files: files, ExpireAt: time.Now().Add(m.options.Prepared)})
}

// MakePrepared makes an image that was prepared. Errors: those of Make.
func (m *Manager) MakePrepared(ctx context.Context, token, id string) (*Made, error) {
	p, err := m.registry.PreparedImage(ctx, token, id)
	if err != nil {
		return nil, err
	}
	return m.make(ctx, p.Token, p.UUID, p.Files, Request{Kind: p.Kind, Architecture: p.Architecture})
}

// Make makes an image of a named seed of a token. Errors: opscenter.ErrNotFound for the token, the seed, the channel, and where its release has no
// such image; those of a token that admits no more servers; a *updates.LackError where the release lacks an application; ErrKind,
// seed.ErrInvalid, those of Store.Base.
func (m *Manager) Make(ctx context.Context, token, name string, request Request) (*Made, error) {
	s, err := m.registry.TokenSeed(ctx, token, name)
	if err != nil {
		return nil, err
	}
	return m.make(ctx, s.Token, s.Name, s.Files, request)
}

// MakePublic makes an image of the seed with a public name. Errors: those of Make, ErrPublic.
func (m *Manager) MakePublic(ctx context.Context, public string, request Request) (*Made, error) {
	if !m.options.Public {
		return nil, ErrPublic
	}
	s, err := m.registry.PublicTokenSeed(ctx, public)
	if err != nil {
		return nil, err
	}
	return m.make(ctx, s.Token, s.Name, s.Files, request)
}

func (m *Manager) make(ctx context.Context, token, name string, files map[string]json.RawMessage, request Request) (*Made, error) {
	if err := request.check(); err != nil {
		return nil, err
	}
	usable, err := m.registry.UsableToken(ctx, token)
	if err != nil {
		return nil, err
	}
	s, err := m.Seed(usable, files)
	if err != nil {
		return nil, err
	}
	u, file, err := m.choose(ctx, usable, s, request)
	if err != nil {
		return nil, err
	}
	archive, err := s.Tar()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(slices.Concat([]byte(file.SHA256), archive))
	tag := `"` + hex.EncodeToString(sum[:16]) + `"`
	detail := fmt.Sprintf("%s image of %s for %s, seed %s of %s", request.Kind, u.Version, request.Architecture, name, usable.Label())
	if err := m.record(ctx, tag, detail); err != nil {
		return nil, err
	}
	kept, err := m.store.Base(ctx, Source{Name: file.Filename, SHA256: file.SHA256, Open: func() (io.ReadCloser, error) {
		_, _, content, err := m.feed.Open(context.WithoutCancel(ctx), u.UUID, file.Filename) // others may wait for it, too
		return content, err
	}})
	if err != nil {
		return nil, err
	}
	seeded, err := kept.With(archive)
	if err == nil && kept.ISO() != (request.Kind == ISO) {
		err = fmt.Errorf("%s: %w of that kind", file.Filename, ErrNoImage)
	}
	if err != nil {
		return nil, errors.Join(err, kept.Close())
	}
	extension := map[string]string{Raw: ".img", ISO: ".iso"}[request.Kind]
	return &Made{Image: seeded, kept: kept, Name: "pre-seed-" + name + extension, Version: u.Version, PublishedAt: u.PublishedAt, ETag: tag}, nil
}

// choose returns the release, and the file of it, that an image is made of.
func (m *Manager) choose(ctx context.Context, token *opscenter.Token, s *seed.Seed, request Request) (*updates.Update, *updates.File, error) {
	channel := cmp.Or(request.Channel, token.Channel)
	if _, err := m.registry.Channel(ctx, channel); err != nil {
		return nil, nil, err
	}
	u := updates.Offered(m.feed.Snapshot().Updates(), channel)
	if u == nil {
		return nil, nil, fmt.Errorf("channel %s offers no release to make an image of: %w", channel, opscenter.ErrNotFound)
	}
	kind := map[string]updates.FileType{Raw: updates.TypeImageRaw, ISO: updates.TypeImageISO}[request.Kind]
	for i := range u.Files {
		f := &u.Files[i]
		if f.Type != kind || f.Architecture != request.Architecture || f.Component != opscenter.ComponentOS {
			continue
		}
		need := []updates.Need{{By: "the seed", Architecture: request.Architecture, Components: append(s.Applications.Names(), opscenter.ComponentOS)}}
		if lacks := updates.Lacking(u, need); len(lacks) > 0 {
			return nil, nil, &updates.LackError{Version: u.Version, Channel: channel, Lacks: lacks}
		}
		return u, f, nil
	}
	return nil, nil, fmt.Errorf("release %s of channel %s has no %s image for %s (%s): %w", u.Version, channel, request.Kind, request.Architecture, kind, opscenter.ErrNotFound)
}

// record writes an entry of the audit log, once for all parts in which an image is fetched.
func (m *Manager) record(ctx context.Context, tag, detail string) error {
	key := opscenter.Principal(ctx) + " " + tag + " " + detail
	if at, ok := m.made.Peek(key); ok && time.Since(at) < rememberMade {
		return nil
	}
	err := m.options.Audit.Do(ctx, audit.Entry{Action: "image.make", Detail: detail}, func(context.Context) error { return nil })
	if err == nil {
		m.made.Add(key, time.Now())
	}
	return err
}
