package webui

import (
	"net/url"
	"strings"

	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/client"
)

// eventsPage is the data of the list of events.
type eventsPage struct {
	paged[client.Event]
	Server string
}

func loadEvents(v *visit) (any, error) {
	p, query := &eventsPage{Server: strings.TrimSpace(v.r.URL.Query().Get("server"))}, url.Values{}
	if p.Server != "" {
		query.Set("server", p.Server)
	}
	var err error
	p.paged, err = loadPage[client.Event](v, client.Path("events"), query)
	return p, err
}

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
