package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// configMap is a map of strings. It reads numbers and booleans as their text, as Operations Center does.
type configMap map[string]string

func (m *configMap) UnmarshalJSON(data []byte) error {
	var loose map[string]json.RawMessage
	if err := json.Unmarshal(data, &loose); err != nil {
		return err
	}
	if loose == nil {
		*m = nil
		return nil
	}
	out := configMap{}
	for key, value := range loose {
		var text string
		switch {
		case json.Unmarshal(value, &text) == nil:
		case len(value) > 0 && (value[0] == '{' || value[0] == '['):
			return fmt.Errorf("%.80q is neither text, number nor boolean", key)
		default:
			text = string(value)
		}
		out[key] = text
	}
	*m = out
	return nil
}

// serverPut holds the fields of a server that an operator edits. A field that is left out, or null, keeps its value. So does an empty
// channel.
type serverPut struct {
	PublicConnectionURL *string   `json:"public_connection_url"`
	PublicURLTrusted    *bool     `json:"public_connection_url_trusted"`
	ConnectionURL       *string   `json:"connection_url"`
	Channel             string    `json:"channel"`
	Description         *string   `json:"description"`
	Properties          configMap `json:"properties"`
}

func (p *serverPut) edit(spec *opscenter.ServerSpec) {
	for from, to := range map[**string]*string{&p.PublicConnectionURL: &spec.PublicConnectionURL, &p.ConnectionURL: &spec.ConnectionURL, &p.Description: &spec.Description} {
		if *from != nil {
			*to = **from
		}
	}
	if p.PublicURLTrusted != nil {
		spec.PublicURLTrusted = *p.PublicURLTrusted
	}
	spec.Channel = p.Channel
	if p.Properties != nil {
		spec.Properties = p.Properties
	}
}

// bmcConfig is a field of Operations Center that has no effect here. It is refused unless all of it is empty.
var bmcConfig = fields{notDone: []string{"bmc_config"}}

// serverPost is the body of a registration by a server, or of an announcement by an operator.
type serverPost struct {
	PublicConnectionURL string    `json:"public_connection_url"`
	Channel             string    `json:"channel"`
	Description         string    `json:"description"`
	Properties          configMap `json:"properties"`
	Name                string    `json:"name"`
	ConnectionURL       string    `json:"connection_url"`
	SystemUUID          string    `json:"system_uuid"`
	MachineID           string    `json:"machine_id"`
}

func (p serverPost) spec() opscenter.ServerSpec {
	return opscenter.ServerSpec{Description: p.Description, Properties: p.Properties, PublicConnectionURL: p.PublicConnectionURL, ConnectionURL: p.ConnectionURL, Channel: p.Channel}
}

// registered is the answer to a registration: the certificate with which the control plane connects to the server.
type registered struct {
	Certificate string `json:"certificate"`
}

// postServers answers POST /1.0/provisioning/servers. With a token a server registers itself. Without one an operator announces a
// server.
func (h *Handler) postServers(w http.ResponseWriter, r *http.Request) {
	if !r.URL.Query().Has("token") {
		h.announceServers(w, r)
		return
	}
	if h.tooMany(w, r, h.isAdmitted) {
		return
	}
	var done opscenter.Registered
	var err error
	h.patient(w, func() { done, err = h.register(r) }) // Options.Admit may take long
	if err != nil {
		if status := statusOf(err); status < http.StatusInternalServerError {
			if h.isStranger(r) {
				h.limiter.failed(r.RemoteAddr)
			}
		}
		h.fail(w, r, err)
		return
	}
	respondCreated(w, serverPath(done.Name), registered{h.certificate})
}

func (h *Handler) register(r *http.Request) (opscenter.Registered, error) {
	certificate := clientCertificate(r)
	if certificate == nil {
		return opscenter.Registered{}, opscenter.ErrNoCertificate
	}
	var body serverPost
	if err := decodeLenient(r, &body); err != nil {
		return opscenter.Registered{}, err
	}
	return h.registry.Register(r.Context(), opscenter.Registration{
		Token: r.URL.Query().Get("token"), Certificate: certificate,
		Name: body.Name, ConnectionURL: body.ConnectionURL, PublicConnectionURL: body.PublicConnectionURL,
		Channel: body.Channel, Description: body.Description, Properties: body.Properties,
		SystemUUID: body.SystemUUID, MachineID: body.MachineID, RemoteAddr: r.RemoteAddr,
	})
}

func (h *Handler) announceServer(w http.ResponseWriter, r *http.Request) {
	var body serverPost
	err := decode(r, &body, bmcConfig)
	if err == nil {
		_, err = h.registry.PreRegister(r.Context(), opscenter.PreRegistration{ServerSpec: body.spec(), Name: body.Name,
			SystemUUID: body.SystemUUID, MachineID: body.MachineID})
	}
	if err != nil {
		// For an operator a known machine is a conflict, and no matter of trust.
		if errors.Is(err, opscenter.ErrIdentityTaken) {
			err = fmt.Errorf("%w: %w", errConflict, err)
		}
		h.fail(w, r, err)
		return
	}
	respondCreated(w, serverPath(body.Name), nil)
}

// selfPut is what a server tells of itself.
type selfPut struct {
	ConnectionURL string          `json:"connection_url"`
	Cause         lifecycle.Cause `json:"cause"`
}

// putSelf answers PUT /1.0/provisioning/servers/:self, by which a registered server tells its connection URL and state.
func (h *Handler) putSelf(w http.ResponseWriter, r *http.Request) {
	if h.tooMany(w, r, h.isRegistered) {
		return
	}
	certificate := clientCertificate(r)
	if certificate == nil {
		h.limiter.failed(r.RemoteAddr)
		h.fail(w, r, fmt.Errorf("%w: %w", errForbidden, opscenter.ErrNoCertificate))
		return
	}
	var body selfPut
	err := decodeLenient(r, &body)
	if err == nil {
		err = h.registry.SelfUpdate(r.Context(), certificate, opscenter.SelfUpdate{ConnectionURL: body.ConnectionURL, Cause: body.Cause})
	}
	if err != nil {
		if errors.Is(err, opscenter.ErrUnknownCertificate) {
			h.limiter.failed(r.RemoteAddr)
		}
		h.fail(w, r, err)
		return
	}
	respond(w, nil)
}

func serverPath(name string) string { return "/1.0/provisioning/servers/" + url.PathEscape(name) }
