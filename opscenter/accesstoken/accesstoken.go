// Package accesstoken keeps the access tokens of the operators' API, with which programs and people without a client certificate
// authenticate themselves. A token has a role and a scope (package access), and ends at a time.
//
// A client sends the secret of a token in the header "Authorization: Bearer SECRET". httpapi.TrustAccessTokens admits such clients. The store
// keeps only the SHA-256 digest of the secret. Create returns the secret once. It has 130 random bits, so trying cannot reverse the
// digest.
//
// Registration tokens (opscenter.Token) are different: servers register with them.
package accesstoken

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/opscenter-go/sdk/internal/defaults"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/storage"
)

// Limits and defaults.
const (
	// Prefix begins each token, so that programs that look for leaked secrets recognize one.
	Prefix = "oca_"
	// MaxName bounds the name of a token, in bytes.
	MaxName = 64
	// DefaultLifetime is the time for which a token is valid unless Spec.ExpireAt says otherwise, and DefaultMaxLifetime the default of
	// Options.MaxLifetime.
	DefaultLifetime    = 90 * 24 * time.Hour
	DefaultMaxLifetime = 366 * 24 * time.Hour
	// DefaultMaxTokens is the default of Options.MaxTokens.
	DefaultMaxTokens = 1000
)

// Errors of Create.
var (
	// ErrInvalid means that a Spec is not valid. It names the field.
	ErrInvalid = errors.New("invalid access token")
	// ErrTooMany means that there are Options.MaxTokens valid tokens.
	ErrTooMany = errors.New("too many access tokens")
)

// Token is an access token without its secret.
type Token struct {
	UUID string `json:"uuid"`
	// Name is that of the principal: "access token NAME". Tokens have different names.
	Name string `json:"name"`
	access.Grant
	// CreatedBy is the principal that made the token.
	CreatedBy string    `json:"created_by"`
	CreatedAt time.Time `json:"created_at"`
	ExpireAt  time.Time `json:"expire_at"`
}

// Spec describes a new token.
type Spec struct {
	Name string `json:"name"`
	access.Grant
	// ExpireAt is when the token ends. Default: in 90 days.
	ExpireAt time.Time `json:"expire_at,omitzero"`
}

// Options of New.
type Options struct {
	// MaxLifetime bounds the time for which a new token is valid. Default 366 days.
	MaxLifetime time.Duration
	// MaxTokens bounds the tokens, without expired ones: a new token replaces those. Default 1,000.
	MaxTokens int
}

// row is a token with the digest of its secret.
type row struct {
	Token
	Digest string
}

var (
	tokens   = storage.NewTable("access_tokens", func(r *row) storage.Key { return storage.StringKey(r.UUID) })
	byDigest = tokens.Unique("digest", func(r *row) []storage.Key { return []storage.Key{storage.StringKey(r.Digest)} })
	byName   = tokens.Unique("name", func(r *row) []storage.Key { return []storage.Key{storage.StringKey(r.Name)} })
)

// Tokens are the access tokens of a registry's store. The methods may be called concurrently.
type Tokens struct {
	registry *opscenter.Registry
	options  Options
}

// New returns the tokens of a registry's store. Errors: opscenter.ErrInvalidOptions, and those of the store.
func New(registry *opscenter.Registry, options Options) (*Tokens, error) {
	err := defaults.Fill(opscenter.ErrInvalidOptions,
		defaults.Of("MaxLifetime", &options.MaxLifetime, DefaultMaxLifetime), defaults.Of("MaxTokens", &options.MaxTokens, DefaultMaxTokens))
	if err != nil {
		return nil, err
	}
	if err := registry.Store().Attach(context.Background(), tokens.Schema()); err != nil {
		return nil, err
	}
	return &Tokens{registry, options}, nil
}

// Create makes a token. The secret is what a client sends. It is returned once, and not stored. The principal of ctx is the token's
// CreatedBy. Create removes expired tokens. Errors: ErrInvalid; opscenter.ErrNameTaken; ErrTooMany.
func (t *Tokens) Create(ctx context.Context, spec Spec) (out *Token, secret string, err error) {
	if err := checkName(spec.Name); err != nil {
		return nil, "", err
	}
	if err := spec.Grant.Validate(); err != nil {
		return nil, "", fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	secret = Prefix + rand.Text()
	err = t.registry.Write(ctx, func(tx *opscenter.Tx) error {
		now := tx.Now()
		made := &row{Digest: digest(secret), Token: Token{UUID: uuid.NewString(), Name: spec.Name, Grant: spec.Grant, CreatedBy: opscenter.Principal(ctx), CreatedAt: now, ExpireAt: spec.ExpireAt.UTC()}}
		if made.ExpireAt.IsZero() {
			made.ExpireAt = now.Add(min(DefaultLifetime, t.options.MaxLifetime))
		}
		switch {
		case !made.ExpireAt.After(now):
			return fmt.Errorf("%w: field expire_at: %s is in the past", ErrInvalid, made.ExpireAt.Format(time.RFC3339))
		case made.ExpireAt.Sub(now) > t.options.MaxLifetime:
			return fmt.Errorf("%w: field expire_at: at most %s from now are allowed", ErrInvalid, t.options.MaxLifetime)
		}
		valid := 0
		var expired []string
		for known, err := range tokens.Scan(tx, storage.Range{}) {
			switch {
			case err != nil:
				return err
			case !known.ExpireAt.After(now):
				expired = append(expired, known.UUID)
			case known.Name == spec.Name:
				return fmt.Errorf("access token %q: %w", spec.Name, opscenter.ErrNameTaken)
			default:
				valid++
			}
		}
		if valid >= t.options.MaxTokens {
			return fmt.Errorf("%w: %d are allowed", ErrTooMany, t.options.MaxTokens)
		}
		for _, id := range expired {
			if err := tokens.Delete(tx, storage.StringKey(id)); err != nil {
				return err
			}
		}
		out = &made.Token
		return tokens.Insert(tx, made)
	})
	if err != nil {
		return nil, "", err
	}
	return out, secret, nil
}

// checkName refuses names that can't stand in a log.
func checkName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: field name: it is wanted", ErrInvalid)
	case len(name) > MaxName:
		return fmt.Errorf("%w: field name: at most %d bytes are allowed", ErrInvalid, MaxName)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) || strings.TrimSpace(name) != name:
		return fmt.Errorf("%w: field name: it must be of printable characters, without spaces at its ends", ErrInvalid)
	}
	return nil
}

// digest returns what the store has of a secret.
func digest(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// Principal returns the principal of a token that a client has sent. Errors: access.ErrForbidden if there is no such token, or if it
// has expired; those of the store.
func (t *Tokens) Principal(ctx context.Context, secret string) (access.Principal, error) {
	var found *row
	err := t.registry.Read(ctx, func(s *opscenter.Snapshot) (err error) {
		found, err = byDigest.Find(s, storage.StringKey(digest(secret)))
		return err
	})
	switch {
	case err != nil:
		return access.Principal{}, err
	case found == nil:
		return access.Principal{}, fmt.Errorf("the access token is not known: %w", access.ErrForbidden)
	case !found.ExpireAt.After(t.registry.Observer().Now()):
		return access.Principal{}, fmt.Errorf("access token %s has expired: %w", found.Name, access.ErrForbidden)
	}
	return access.Principal{Name: "access token " + found.Name, Grant: found.Grant}, nil
}

// List returns all tokens by name, expired ones too.
func (t *Tokens) List(ctx context.Context) (out []*Token, err error) {
	err = t.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		out = nil
		for found, err := range byName.Scan(s, storage.Range{}) {
			if err != nil {
				return err
			}
			shown := found.Token
			out = append(out, &shown)
		}
		return nil
	})
	return out, err
}

// Get returns a token by its UUID. Errors: opscenter.ErrNotFound.
func (t *Tokens) Get(ctx context.Context, id string) (out *Token, err error) {
	err = t.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		found, err := tokens.Get(s, storage.StringKey(id))
		if err == nil {
			shown := found.Token
			out = &shown
		}
		return notFound(id, err)
	})
	return out, err
}

// Revoke removes a token. The next request with it is refused. Requests under way go on, and streams end within
// httpapi.HeartbeatInterval. Tokens that its holder made stay valid. Errors: opscenter.ErrNotFound.
func (t *Tokens) Revoke(ctx context.Context, id string) error {
	return t.registry.Write(ctx, func(tx *opscenter.Tx) error { return notFound(id, tokens.Delete(tx, storage.StringKey(id))) })
}

func notFound(id string, err error) error {
	if errors.Is(err, storage.ErrNotFound) {
		return fmt.Errorf("access token %.40q: %w", id, opscenter.ErrNotFound)
	}
	return err
}
