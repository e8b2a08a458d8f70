package httpapi

import (
	"cmp"
	"net/http"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
)

// tokenPut holds the fields of a token that an operator edits.
type tokenPut struct {
	Description   string    `json:"description"`
	UsesRemaining int64     `json:"uses_remaining"`
	ExpireAt      time.Time `json:"expire_at"`
	Channel       string    `json:"channel"`
	// Applications are fetched from the update feed by the token's servers when they are installed.
	Applications []string `json:"applications,omitempty"`
	// AutoRemove removes the token 7 days after it has expired, or was used up.
	AutoRemove bool `json:"auto_remove,omitempty"`
}

func (p tokenPut) spec() opscenter.TokenSpec {
	return opscenter.TokenSpec{Description: p.Description, Uses: p.UsesRemaining, ExpireAt: p.ExpireAt, Channel: p.Channel, Applications: p.Applications, AutoRemove: p.AutoRemove}
}

// token is the document of a token.
type token struct {
	tokenPut
	UUID string `json:"uuid"`
}

func showToken(t *opscenter.Token) token {
	return token{UUID: t.UUID, tokenPut: tokenPut{Description: t.Description, UsesRemaining: t.UsesRemaining,
		ExpireAt: t.ExpireAt.Truncate(time.Second), Channel: t.Channel, Applications: t.Applications, AutoRemove: t.AutoRemove}}
}

func (h *Handler) tokens() resource[*opscenter.Token] {
	return resource[*opscenter.Token]{h: h, show: always(showToken), path: func(t *opscenter.Token) string { return tokenPath(t.UUID) },
		covers: func(t *opscenter.Token) any { return showToken(t) }}
}

func tokenPath(uuid string) string { return "/1.0/provisioning/tokens/" + uuid }

func (h *Handler) getTokens(w http.ResponseWriter, r *http.Request) {
	h.tokens().list(w, r, queryOf(r), nil, func(page opscenter.Page) ([]*opscenter.Token, string, error) {
		found, err := h.registry.ListTokens(r.Context(), page)
		return pointers(found.Tokens), found.Next, err
	})
}

func (h *Handler) postTokens(w http.ResponseWriter, r *http.Request) {
	var body tokenPut
	if err := decode(r, &body, fields{notDone: []string{"uuid"}}); err != nil {
		h.fail(w, r, err)
		return
	}
	created, err := h.registry.CreateToken(r.Context(), body.spec())
	h.tokens().created(w, r, created, err)
}

// tokenEdit is an edit of a token. A field that is left out keeps its value.
type tokenEdit struct {
	Description   *string    `json:"description"`
	UsesRemaining *int64     `json:"uses_remaining"`
	ExpireAt      *time.Time `json:"expire_at"`
	Channel       *string    `json:"channel"`
	Applications  *[]string  `json:"applications"`
	AutoRemove    *bool      `json:"auto_remove"`
	UUID          string     `json:"uuid"`
}

// putToken edits a token. A field that is left out keeps its value.
func (h *Handler) putToken(w http.ResponseWriter, r *http.Request) {
	var body tokenEdit
	err := cmp.Or(decode(r, &body), sameUUID(r, body.UUID))
	if err == nil {
		err = h.registry.EditToken(r.Context(), r.PathValue("uuid"), func(t *opscenter.Token, spec *opscenter.TokenSpec) error {
			replace(&spec.Description, body.Description)
			replace(&spec.Uses, body.UsesRemaining)
			replace(&spec.ExpireAt, body.ExpireAt)
			replace(&spec.Channel, body.Channel)
			replace(&spec.Applications, body.Applications)
			replace(&spec.AutoRemove, body.AutoRemove)
			return h.tokens().matches(r, t)
		})
	}
	h.done(w, r, err)
}

// replace sets a field to the given value, if there is one.
func replace[T any](old *T, given *T) {
	if given != nil {
		*old = *given
	}
}

func (h *Handler) deleteToken(w http.ResponseWriter, r *http.Request) {
	h.done(w, r, h.registry.RevokeToken(r.Context(), r.PathValue("uuid")))
}
