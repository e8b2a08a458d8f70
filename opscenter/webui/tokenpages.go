package webui

import (
	"encoding/json"
	"net/url"

	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/accesstoken"
	"github.com/opscenter-go/sdk/opscenter/client"
	"github.com/opscenter-go/sdk/opscenter/seed"
)

// tokensPage is the data of the page of tokens.
type tokensPage struct {
	paged[client.Token]
	Access   []accesstoken.Token
	Channels []client.Channel
	Roles    []access.Role
}

func loadTokens(v *visit) (any, error) {
	p := &tokensPage{Roles: access.Roles}
	var err error
	if p.paged, err = loadPage[client.Token](v, client.Path("provisioning/tokens"), url.Values{}); err != nil {
		return nil, err
	}
	if p.Channels, err = listOf[client.Channel](v, client.Path("provisioning/channels"), nil); err != nil {
		return nil, err
	}
	p.Access, err = listOf[accesstoken.Token](v, client.Path("access-tokens"), nil)
	return p, err
}

// tokenPage is the data of the page of a token, with its seeds and images.
type tokenPage struct {
	client.Token
	Seeds []client.Seed
	// Images: installation images can be made here.
	Images bool
	Files  []string
	// Provider is the provider seed, for people who write their own image.
	Provider string
}

func (p *tokenPage) title() string { return "Token " + p.Description }

func loadToken(v *visit) (any, error) {
	id := v.r.PathValue("uuid")
	found, err := client.Get[client.Token](v.ctx(), v.api, client.Path("provisioning/tokens", id), nil)
	if err != nil {
		return nil, err
	}
	p := &tokenPage{Token: found, Files: seed.Files}
	list, _, err := client.List[client.Seed](v.ctx(), v.api, client.Path("provisioning/tokens", id, "seeds"), nil)
	p.Seeds, p.Images = list, err == nil
	if optional(err) != nil {
		return nil, err
	}
	provider, err := client.Get[json.RawMessage](v.ctx(), v.api, client.Path("provisioning/tokens", id, "provider-config"), nil)
	if err == nil {
		p.Provider = indented(provider)
	}
	return p, nil
}
