package webui

import (
	"net/url"

	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/client"
)

// auditPage is the data of the audit log.
type auditPage struct {
	paged[audit.Entry]
	Form     url.Values
	Outcomes []audit.Outcome
}

func loadAudit(v *visit) (any, error) {
	p := &auditPage{Form: v.r.URL.Query(), Outcomes: audit.Outcomes}
	query := url.Values{}
	for _, name := range []string{"by", "action", "server", "cluster", "outcome"} {
		if value := p.Form.Get(name); value != "" {
			query.Set(name, value)
		}
	}
	var err error
	p.paged, err = loadPage[audit.Entry](v, client.Path("audit"), query)
	return p, err
}
