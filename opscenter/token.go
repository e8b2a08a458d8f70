package opscenter

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/opscenter-go/sdk/internal/page"
	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/storage"
)

// Token admits new servers. Its UUID is the secret: no log, event or error contains it.
type Token struct {
	UUID        string
	Description string
	// UsesRemaining is how many more servers it admits.
	UsesRemaining int64
	ExpireAt      time.Time
	// Channel of the servers that it admits.
	Channel string
	// Applications that its servers fetch from the update feed when they are installed. A release without them does not
	// become the newest of the channel.
	Applications []string `json:",omitempty"`
	// AutoRemove deletes the token Options.TokenRetention after it has expired, or was used up at SpentAt.
	AutoRemove bool      `json:",omitempty"`
	SpentAt    time.Time `json:",omitzero"`
	CreatedAt  time.Time
}

// usable reports whether the token still admits servers.
func (t *Token) usable(at time.Time) bool { return t.UsesRemaining > 0 && t.ExpireAt.After(at) }

// TokenSpec is the part of a token that an operator sets.
type TokenSpec struct {
	Description string
	// Uses is how many servers it admits, at most MaxTokenUses. Default for a new token: 1.
	Uses int64
	// ExpireAt ends the validity of the token. Default for a new token: Options.TokenLifetime from now.
	ExpireAt time.Time
	// Channel must exist. Default: Channels.Default.
	Channel string
	// Applications that its servers fetch from the update feed when they are installed. At most MaxTokenApplications.
	Applications []string
	// AutoRemove deletes the token, with its seeds, Options.TokenRetention after it has expired, or was used up.
	AutoRemove bool
}

// CreateToken creates a token. Errors: ErrInvalidToken, ErrTooLong, ErrNotFound for the channel.
func (r *Registry) CreateToken(ctx context.Context, spec TokenSpec) (token *Token, err error) {
	err = r.Write(ctx, func(tx *Tx) (err error) {
		token, err = tx.CreateToken(spec)
		return err
	})
	if err != nil {
		return nil, err
	}
	return token, nil
}

// CreateToken creates a token, as Registry.CreateToken does.
func (t *Tx) CreateToken(spec TokenSpec) (*Token, error) {
	r, at := t.registry, t.Now()
	if spec.Uses == 0 {
		spec.Uses = 1
	}
	if spec.ExpireAt.IsZero() {
		spec.ExpireAt = at.Add(r.options.TokenLifetime)
	}
	if !spec.ExpireAt.After(at) {
		return nil, fmt.Errorf("expiry %s is in the past: %w", spec.ExpireAt.Format(time.RFC3339), ErrInvalidToken)
	}
	token := &Token{UUID: uuid.NewString(), CreatedAt: at}
	if err := r.fillToken(token, spec); err != nil {
		return nil, err
	}
	entry := event.Event{At: at, Kind: event.TokenCreated, Reason: fmt.Sprintf("%s: %d uses until %s, channel %s",
		token.label(), token.UsesRemaining, token.ExpireAt.Format(time.RFC3339), token.Channel)}
	if err := channelExists(t, token.Channel); err != nil {
		return nil, err
	}
	if err := tokens.Insert(t, token); err != nil {
		return nil, err
	}
	return token, t.Record(entry)
}

func (r *Registry) fillToken(token *Token, spec TokenSpec) error {
	if spec.Uses < 0 || spec.Uses > MaxTokenUses {
		return fmt.Errorf("%d uses, 0 to %d are allowed: %w", spec.Uses, MaxTokenUses, ErrInvalidToken)
	}
	if err := checkLength("description", spec.Description, MaxDescriptionLength); err != nil {
		return err
	}
	if spec.Channel == "" {
		spec.Channel = r.Channels().Default()
	}
	if len(spec.Applications) > MaxTokenApplications {
		return fmt.Errorf("%d applications, at most %d are allowed: %w", len(spec.Applications), MaxTokenApplications, ErrInvalidToken)
	}
	for _, application := range spec.Applications {
		if err := checkObjectName("application", application); err != nil {
			return err
		}
	}
	token.Description, token.UsesRemaining, token.Channel, token.Applications = spec.Description, spec.Uses, spec.Channel, slices.Clone(spec.Applications)
	token.ExpireAt, token.AutoRemove = spec.ExpireAt.UTC().Round(0), spec.AutoRemove
	switch {
	case token.UsesRemaining > 0:
		token.SpentAt = time.Time{}
	case token.SpentAt.IsZero():
		token.SpentAt = r.now()
	}
	return nil
}

// Label describes a token without its UUID.
func (t *Token) Label() string { return t.label() }

// label describes a token without its UUID.
func (t *Token) label() string {
	if t.Description != "" {
		return fmt.Sprintf("token %q", truncate.Name(t.Description))
	}
	return "a token without a description"
}

// Token returns a token. Errors: ErrTokenMalformed, ErrNotFound.
func (r *Registry) Token(ctx context.Context, id string) (*Token, error) {
	id, err := tokenID(id)
	if err != nil {
		return nil, err
	}
	var out Token
	err = r.store.View(ctx, func(tx storage.ReadTx) error {
		token, err := tokens.Get(tx, storage.StringKey(id))
		if err != nil {
			return tokenNotFound(err)
		}
		out = *token
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &out, nil
}

// tokenNotFound removes the key, which is the secret, from the error.
func tokenNotFound(err error) error {
	if isNotFound(err) {
		return fmt.Errorf("token: %w", ErrNotFound)
	}
	return err
}

// TokenPage is a page of tokens.
type TokenPage struct {
	Tokens []Token
	// Next is the cursor of the next page. Empty: this page is the last.
	Next string
}

// position is the place of a token in lists: by age, and by a hash among tokens of one instant.
func (t *Token) position() storage.Key {
	sum := sha256.Sum256([]byte(t.UUID))
	return storage.Key(nil).Time(t.CreatedAt).Str(hex.EncodeToString(sum[:]))
}

// ListTokens returns a page of all tokens, the oldest first. Expired and used up tokens are among them. Errors:
// ErrInvalidCursor.
func (r *Registry) ListTokens(ctx context.Context, from Page) (out TokenPage, err error) {
	limit := page.Size(from.Limit)
	err = r.store.View(ctx, func(tx storage.ReadTx) error {
		out = TokenPage{}
		within := storage.Range{}
		if from.Cursor != "" {
			last, err := page.Decode(from.Cursor, MaxNameLength)
			if err != nil {
				return err
			}
			within.After = storage.Key(last)
		}
		for token, err := range tokensByAge.Scan(tx, within) {
			if err != nil {
				return err
			}
			if len(out.Tokens) == limit {
				out.Next = page.Encode(string(out.Tokens[limit-1].position()))
				break
			}
			out.Tokens = append(out.Tokens, *token)
		}
		return nil
	})
	return out, err
}

// EditToken changes the part of a token that an operator sets. edit gets the token as it is, and its spec to change. An
// error of edit ends the edit. edit may be called more than once. Uses 0 leaves the token used up; a zero ExpireAt keeps
// the expiry. Errors: ErrTokenMalformed, ErrInvalidToken, ErrTooLong, those of edit; ErrNotFound for the token or the
// channel.
func (r *Registry) EditToken(ctx context.Context, id string, edit func(*Token, *TokenSpec) error) error {
	id, err := tokenID(id)
	if err != nil {
		return err
	}
	var entry event.Event
	err = r.Write(ctx, func(tx *Tx) error {
		token, err := tokens.Get(tx, storage.StringKey(id))
		if err != nil {
			return tokenNotFound(err)
		}
		changed, before := *token, *token
		wanted := TokenSpec{Description: token.Description, Uses: token.UsesRemaining, ExpireAt: token.ExpireAt, Channel: token.Channel, Applications: token.Applications, AutoRemove: token.AutoRemove}
		if err := edit(&before, &wanted); err != nil {
			return err
		}
		if wanted.ExpireAt.IsZero() {
			wanted.ExpireAt = token.ExpireAt
		}
		if err := r.fillToken(&changed, wanted); err != nil {
			return err
		}
		if err := channelExists(tx, changed.Channel); err != nil {
			return err
		}
		if err := tokens.Put(tx, &changed); err != nil {
			return err
		}
		entry = event.Event{At: r.now(), Kind: event.TokenUpdated, Reason: fmt.Sprintf("%s: %d uses until %s, channel %s",
			changed.label(), changed.UsesRemaining, changed.ExpireAt.Format(time.RFC3339), changed.Channel)}
		return tx.Record(entry)
	})
	return err
}

// RevokeToken deletes a token, with its seeds. The servers that it admitted stay. Errors: ErrTokenMalformed, ErrNotFound.
func (r *Registry) RevokeToken(ctx context.Context, id string) error {
	return r.withToken(ctx, id, func(tx *Tx, token *Token) error { return tx.deleteToken(token, "") })
}

// RevokeToken deletes a token, as Registry.RevokeToken does. It ignores a token that was deleted already.
func (t *Tx) RevokeToken(id string) error {
	token, err := tokens.Find(t, storage.StringKey(id))
	if err != nil || token == nil {
		return err
	}
	return t.deleteToken(token, "")
}

// spent returns the token with one use less.
func (t *Token) spent(at time.Time) *Token {
	out := *t
	if out.UsesRemaining--; out.UsesRemaining == 0 {
		out.SpentAt = at
	}
	return &out
}

// findToken returns a token that still admits servers. Errors: ErrTokenUnknown, ErrTokenExpired, ErrTokenExhausted.
func findToken(tx storage.ReadTx, id string, at time.Time) (*Token, error) {
	token, err := tokens.Find(tx, storage.StringKey(id))
	switch {
	case err != nil:
		return nil, err
	case token == nil:
		return nil, ErrTokenUnknown
	case !at.Before(token.ExpireAt):
		return nil, fmt.Errorf("%w at %s", ErrTokenExpired, token.ExpireAt.Format(time.RFC3339))
	case token.UsesRemaining <= 0:
		return nil, ErrTokenExhausted
	}
	return token, nil
}

// UsableUntil returns an error unless a token still admits a server at a time. Errors: ErrTokenUnknown, ErrTokenExpired,
// ErrTokenExhausted.
func (s *Snapshot) UsableUntil(id string, at time.Time) error {
	_, err := findToken(s, id, at)
	return err
}

// deleteToken removes a token with its seeds and images.
func (t *Tx) deleteToken(token *Token, why string) error {
	if err := tokens.Delete(t, storage.StringKey(token.UUID)); err != nil {
		return err
	}
	var keys [2][]storage.Key
	for s, err := range tokenSeeds.Scan(t, storage.Range{Prefix: storage.StringKey(token.UUID)}) {
		if err != nil {
			return err
		}
		keys[0] = append(keys[0], storage.StringKey(s.Token).Str(s.Name))
	}
	for i, err := range tokenImages.Scan(t, storage.Range{Prefix: storage.StringKey(token.UUID)}) {
		if err != nil {
			return err
		}
		keys[1] = append(keys[1], storage.StringKey(i.Token).Str(i.UUID))
	}
	for _, key := range keys[0] {
		if err := tokenSeeds.Delete(t, key); err != nil {
			return err
		}
	}
	for _, key := range keys[1] {
		if err := tokenImages.Delete(t, key); err != nil {
			return err
		}
	}
	return t.Record(event.Event{At: t.Now(), Kind: event.TokenRevoked, Reason: token.label() + why})
}

// spentBatch is how many tokens one transaction removes.
const spentBatch = 20

// removeSpentTokens removes tokens with AutoRemove that have admitted no server for Options.TokenRetention, and expired
// images. It returns the number of tokens. Observer.Maintain calls it.
func (r *Registry) removeSpentTokens(ctx context.Context) (removed int, err error) {
	at := r.now()
	before := at.Add(-r.options.TokenRetention)
	var due []string
	expired := false
	err = r.store.View(ctx, func(tx storage.ReadTx) error {
		due, expired = nil, false
		for t, err := range tokensByAge.Scan(tx, rangeAll) {
			if err != nil {
				return err
			}
			if t.spentBefore(before) {
				due = append(due, t.UUID)
			}
		}
		for i, err := range tokenImagesByEnd.Scan(tx, rangeAll) {
			if err != nil {
				return err
			}
			expired = !i.ExpireAt.After(at)
			break
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	if expired {
		if err := r.Write(ctx, func(tx *Tx) error { return tx.pruneImages(at, MaxPreparedImages) }); err != nil {
			return 0, err
		}
	}
	for batch := range slices.Chunk(due, spentBatch) {
		n := 0
		err := r.Write(ctx, func(tx *Tx) error {
			n = 0
			for _, id := range batch {
				token, err := tokens.Find(tx, storage.StringKey(id))
				if err != nil {
					return err
				}
				if token == nil || !token.spentBefore(before) { // an operator gave it more uses meanwhile
					continue
				}
				if err := tx.deleteToken(token, ", which admits no more servers"); err != nil {
					return err
				}
				n++
			}
			return nil
		})
		if err != nil {
			return removed, err
		}
		removed += n
	}
	return removed, nil
}

// spentBefore reports whether a token is to be removed, because it expired or was used up before a time.
func (t *Token) spentBefore(at time.Time) bool {
	return t.AutoRemove && (!t.ExpireAt.After(at) || t.UsesRemaining <= 0 && !t.SpentAt.IsZero() && !t.SpentAt.After(at))
}
