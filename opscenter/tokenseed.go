package opscenter

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/google/uuid"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/storage"
)

// TokenSeed is the installation seed of the servers of a token, under a name. Package image writes it into images.
type TokenSeed struct {
	// Token is the UUID of its token, which is a secret.
	Token       string
	Name        string
	Description string
	// Public is a random name, by which images of the seed can be fetched without authentication. The holder of an
	// image can register with its token. Empty: images need authentication.
	Public string `json:",omitempty"`
	// Files are JSON documents, by file name without extension, as install and network. Package seed has their types.
	Files       map[string]json.RawMessage
	CreatedAt   time.Time
	LastUpdated time.Time
}

// TokenSeedSpec is the part of a TokenSeed that an operator sets.
type TokenSeedSpec struct {
	Description string
	// Public gives the seed a public name, which it keeps while it is public.
	Public bool
	Files  map[string]json.RawMessage
}

// PreparedImage is an image that an operator asked for. It can be fetched until it expires.
type PreparedImage struct {
	UUID  string
	Token string
	// Kind is "raw" or "iso".
	Kind         string
	Architecture string
	Files        map[string]json.RawMessage
	// Update is the release that the image is made of, and SHA256 the digest of its file. All parts of a download are of
	// that file.
	Update, SHA256 string
	ExpireAt       time.Time
}

// Limits of seeds.
const (
	MaxTokenSeeds     = 100       // of a token
	MaxSeedSize       = 768 << 10 // of the files of one, in bytes
	MaxPreparedImages = 1000      // of all tokens; a further one replaces the one that expires first
)

// tokenSeeds are the seeds of tokens; tokenImages are the prepared images.
var (
	tokenSeeds = storage.NewTable("token_seeds", func(s *TokenSeed) storage.Key {
		return storage.StringKey(s.Token).Str(s.Name)
	}).Secret()
	tokenSeedsByPublic = tokenSeeds.Unique("public", func(s *TokenSeed) []storage.Key { return optionalKey(s.Public) })
	tokenImages        = storage.NewTable("token_images", func(i *PreparedImage) storage.Key { return storage.StringKey(i.Token).Str(i.UUID) }).Secret()
	tokenImagesByEnd   = tokenImages.Unique("end", func(i *PreparedImage) []storage.Key {
		return []storage.Key{storage.Key(nil).Time(i.ExpireAt).Str(i.UUID)}
	})
)

func checkSeedFiles(files map[string]json.RawMessage) error {
	size := 0
	for name, data := range files {
		if size += len(name) + len(data); !json.Valid(data) {
			return fmt.Errorf("seed file %q is not JSON: %w", truncate.Name(name), ErrInvalidOptions)
		}
	}
	if size > MaxSeedSize {
		return fmt.Errorf("the files of a seed have %d bytes, at most %d are allowed: %w", size, MaxSeedSize, ErrTooLong)
	}
	return nil
}

func (s *TokenSeed) apply(spec TokenSeedSpec) error {
	if err := errors.Join(checkLength("description", spec.Description, MaxDescriptionLength), checkSeedFiles(spec.Files)); err != nil {
		return err
	}
	s.Description, s.Files = spec.Description, maps.Clone(spec.Files)
	switch {
	case !spec.Public:
		s.Public = ""
	case s.Public == "":
		s.Public = rand.Text()
	}
	return nil
}

// withToken runs fn in a transaction, with the token of a UUID.
func (r *Registry) withToken(ctx context.Context, id string, fn func(tx *Tx, token *Token) error) error {
	id, err := tokenID(id)
	if err != nil {
		return err
	}
	return r.Write(ctx, func(tx *Tx) error {
		token, err := tokens.Get(tx, storage.StringKey(id))
		if err != nil {
			return tokenNotFound(err)
		}
		return fn(tx, token)
	})
}

// Create adds a seed to a token. Errors: ErrTokenMalformed, ErrInvalidName, ErrTooLong, ErrInvalidOptions; ErrNotFound
// for the token; ErrInUse if another seed of the token has the name.
func (h TokenSeeds) Create(ctx context.Context, token, name string, spec TokenSeedSpec) (out *TokenSeed, err error) {
	if err := checkObjectName("seed", name); err != nil {
		return nil, err
	}
	err = h.registry.withToken(ctx, token, func(tx *Tx, token *Token) error {
		at := h.registry.now()
		out = &TokenSeed{Token: token.UUID, Name: name, CreatedAt: at, LastUpdated: at}
		if err := out.apply(spec); err != nil {
			return err
		}
		n := 0
		for other, err := range tokenSeeds.Scan(tx, storage.Range{Prefix: storage.StringKey(token.UUID)}) {
			if err != nil {
				return err
			}
			if other.Name == name {
				return fmt.Errorf("seed %q of the token: %w", name, ErrInUse)
			}
			n++
		}
		if n >= MaxTokenSeeds {
			return fmt.Errorf("%s has %d seeds, at most %d are allowed: %w", token.label(), n, MaxTokenSeeds, ErrTooLong)
		}
		if err := tokenSeeds.Insert(tx, out); err != nil {
			return err
		}
		return tx.Record(event.Event{At: at, Kind: event.TokenUpdated, Reason: fmt.Sprintf("%s has seed %q", token.label(), name)})
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Get returns a seed of a token. Errors: ErrTokenMalformed; ErrNotFound for the token or the seed.
func (h TokenSeeds) Get(ctx context.Context, token, name string) (out *TokenSeed, err error) {
	token, err = tokenID(token)
	if err != nil {
		return nil, err
	}
	err = h.registry.store.View(ctx, func(tx storage.ReadTx) error {
		out, err = findTokenSeed(tx, token, name)
		return err
	})
	return out, err
}

func findTokenSeed(tx storage.ReadTx, token, name string) (*TokenSeed, error) {
	out, err := tokenSeeds.Find(tx, storage.StringKey(token).Str(name))
	if err == nil && out == nil {
		err = fmt.Errorf("seed %q of the token: %w", truncate.Name(name), ErrNotFound)
	}
	return out, err
}

// Public returns the seed with a public name. Errors: ErrNotFound.
func (h TokenSeeds) Public(ctx context.Context, public string) (out *TokenSeed, err error) {
	err = h.registry.store.View(ctx, func(tx storage.ReadTx) error {
		if out, err = tokenSeedsByPublic.Find(tx, storage.StringKey(public)); err == nil && out == nil {
			err = fmt.Errorf("there is no public seed of that name: %w", ErrNotFound)
		}
		return err
	})
	return out, err
}

// List returns the seeds of a token, by name. Errors: ErrTokenMalformed, ErrNotFound for the token.
func (h TokenSeeds) List(ctx context.Context, token string) (out []*TokenSeed, err error) {
	token, err = tokenID(token)
	if err != nil {
		return nil, err
	}
	err = h.registry.store.View(ctx, func(tx storage.ReadTx) error {
		out = nil
		if _, err := tokens.Get(tx, storage.StringKey(token)); err != nil {
			return tokenNotFound(err)
		}
		for s, err := range tokenSeeds.Scan(tx, storage.Range{Prefix: storage.StringKey(token)}) {
			if err != nil {
				return err
			}
			out = append(out, s)
		}
		return nil
	})
	return out, err
}

// Edit changes the part of a seed that an operator sets. edit gets the seed as it is, and its spec to change. An error of
// edit ends the edit. edit may be called more than once. Errors: those of Get, of edit, and the validation errors.
func (h TokenSeeds) Edit(ctx context.Context, token, name string, edit func(*TokenSeed, *TokenSeedSpec) error) error {
	return h.registry.withToken(ctx, token, func(tx *Tx, token *Token) error {
		known, err := findTokenSeed(tx, token.UUID, name)
		if err != nil {
			return err
		}
		changed, before := *known, *known
		spec := TokenSeedSpec{Description: known.Description, Public: known.Public != "", Files: maps.Clone(known.Files)}
		if err := edit(&before, &spec); err != nil {
			return err
		}
		if err := changed.apply(spec); err != nil {
			return err
		}
		changed.LastUpdated = h.registry.now()
		if err := tokenSeeds.Put(tx, &changed); err != nil {
			return err
		}
		return tx.Record(event.Event{At: changed.LastUpdated, Kind: event.TokenUpdated, Reason: fmt.Sprintf("seed %q of %s was changed", name, token.label())})
	})
}

// Delete removes a seed of a token. check, unless nil, gets the seed: its error ends the removal. Callers use it for
// optimistic locking. Errors: those of Get and of check.
func (h TokenSeeds) Delete(ctx context.Context, token, name string, check func(*TokenSeed) error) error {
	return h.registry.withToken(ctx, token, func(tx *Tx, token *Token) error {
		known, err := findTokenSeed(tx, token.UUID, name)
		if err == nil && check != nil {
			before := *known
			err = check(&before)
		}
		if err != nil {
			return err
		}
		if err := tokenSeeds.Delete(tx, storage.StringKey(token.UUID).Str(name)); err != nil {
			return err
		}
		return tx.Record(event.Event{At: h.registry.now(), Kind: event.TokenUpdated, Reason: fmt.Sprintf("seed %q of %s was removed", name, token.label())})
	})
}

// PrepareImage stores the parts of an image until it expires, and sets its UUID. Errors: ErrTokenMalformed, ErrNotFound,
// ErrTokenExpired, ErrTokenExhausted, ErrTooLong, ErrInvalidOptions.
func (h TokenSeeds) PrepareImage(ctx context.Context, image PreparedImage) (*PreparedImage, error) {
	if err := checkSeedFiles(image.Files); err != nil {
		return nil, err
	}
	err := h.registry.withToken(ctx, image.Token, func(tx *Tx, token *Token) error {
		at := h.registry.now()
		if _, err := findToken(tx, token.UUID, at); err != nil {
			return err
		}
		image.Token, image.UUID, image.ExpireAt = token.UUID, uuid.NewString(), image.ExpireAt.UTC().Round(0)
		if err := tx.pruneImages(at, MaxPreparedImages-1); err != nil {
			return err
		}
		row := image
		return tokenImages.Insert(tx, &row)
	})
	if err != nil {
		return nil, err
	}
	return &image, nil
}

// pruneImages removes expired images. If more than keep are left, it removes those that expire first.
func (t *Tx) pruneImages(at time.Time, keep int) error {
	var ends []time.Time
	var keys []storage.Key
	for other, err := range tokenImagesByEnd.Scan(t, storage.Range{}) {
		if err != nil {
			return err
		}
		ends, keys = append(ends, other.ExpireAt), append(keys, storage.StringKey(other.Token).Str(other.UUID))
	}
	for i, key := range keys {
		if ends[i].After(at) && len(keys)-i <= keep {
			break
		}
		if err := tokenImages.Delete(t, key); err != nil {
			return err
		}
	}
	return nil
}

// PreparedImage returns a prepared image that has not expired. Errors: ErrTokenMalformed, ErrNotFound.
func (h TokenSeeds) PreparedImage(ctx context.Context, token, id string) (out *PreparedImage, err error) {
	token, err = tokenID(token)
	if err != nil {
		return nil, err
	}
	err = h.registry.store.View(ctx, func(tx storage.ReadTx) error {
		out, err = tokenImages.Find(tx, storage.StringKey(token).Str(id))
		if err == nil && (out == nil || !out.ExpireAt.After(h.registry.now())) {
			err = fmt.Errorf("image %q of the token: %w", truncate.Name(id), ErrNotFound)
		}
		return err
	})
	return out, err
}

// UsableToken returns a token that still admits servers. Errors: ErrTokenMalformed, ErrTokenUnknown, ErrTokenExpired,
// ErrTokenExhausted.
func (h TokenSeeds) UsableToken(ctx context.Context, id string) (out *Token, err error) {
	id, err = tokenID(id)
	if err != nil {
		return nil, err
	}
	err = h.registry.store.View(ctx, func(tx storage.ReadTx) error {
		out, err = findToken(tx, id, h.registry.now())
		return err
	})
	return out, err
}
