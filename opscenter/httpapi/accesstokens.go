package httpapi

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/accesstoken"
)

var errNoAccessTokens = errors.New("access tokens are not set up here")

// TrustAccessTokens admits clients that send an access token, in the header "Authorization: Bearer TOKEN", with the role and scope of the
// token. The principal is "access token" and its name.
func TrustAccessTokens(tokens *accesstoken.Tokens) Authorizer {
	return func(r *http.Request) (access.Principal, error) {
		secret, err := bearer(r)
		if err != nil {
			return access.Principal{}, err
		}
		return tokens.Principal(r.Context(), secret)
	}
}

// bearer returns the token that a request shows (RFC 6750, 2.1).
func bearer(r *http.Request) (string, error) {
	given := r.Header.Values("Authorization")
	if len(given) == 0 {
		return "", access.ErrUnauthenticated
	}
	scheme, secret, ok := strings.Cut(given[0], " ")
	if len(given) > 1 || !ok || !strings.EqualFold(scheme, "Bearer") || len(secret) > maxBearer {
		return "", fmt.Errorf("the header Authorization holds no bearer token: %w", access.ErrForbidden)
	}
	return strings.TrimSpace(secret), nil
}

// maxBearer bounds a token that a client sends, in bytes.
const maxBearer = 8 << 10

// accessTokenMade is a new access token. Token is its secret, which is shown this once.
type accessTokenMade struct {
	accesstoken.Token
	Secret string `json:"token"`
}

func accessTokenPath(id string) string { return "/1.0/access-tokens/" + id }

func (h *Handler) accessTokens() resource[*accesstoken.Token] {
	return resource[*accesstoken.Token]{h: h, path: func(t *accesstoken.Token) string { return accessTokenPath(t.UUID) }, show: always(func(t *accesstoken.Token) *accesstoken.Token { return t })}
}

func (h *Handler) getAccessTokens(w http.ResponseWriter, r *http.Request) {
	h.accessTokens().list(w, r, queryOf(r), nil, func(opscenter.Page) ([]*accesstoken.Token, string, error) {
		found, err := h.options.AccessTokens.List(r.Context())
		return found, "", err
	})
}

func (h *Handler) postAccessTokens(w http.ResponseWriter, r *http.Request) {
	var spec accesstoken.Spec
	err := decode(r, &spec)
	var made *accesstoken.Token
	var secret string
	if err == nil {
		made, secret, err = h.options.AccessTokens.Create(r.Context(), spec)
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	respondCreated(w, accessTokenPath(made.UUID), accessTokenMade{*made, secret})
}

func (h *Handler) deleteAccessToken(w http.ResponseWriter, r *http.Request) {
	h.done(w, r, h.options.AccessTokens.Revoke(r.Context(), r.PathValue("uuid")))
}
