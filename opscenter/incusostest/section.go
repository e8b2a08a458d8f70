package incusostest

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"net/http"

	"github.com/opscenter-go/sdk/opscenter/seed"
)

// putSection replaces the configuration of a section. s.mu is held while set runs.
func (s *Server) putSection(set func(json.RawMessage) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			Config json.RawMessage `json:"config"`
		}
		if !decode(w, r, &body) {
			return
		}
		if len(body.Config) == 0 || body.Config[0] != '{' {
			respondError(w, http.StatusBadRequest, "The configuration is missing")
			return
		}
		s.mu.Lock()
		err := set(body.Config)
		s.mu.Unlock()
		if err != nil {
			respondError(w, http.StatusBadRequest, "%v", err)
			return
		}
		respond(w, nil)
	}
}

// setStorage replaces the configuration of the storage. The state of the storage does not change.
func (s *Server) setStorage(config json.RawMessage) error {
	var document map[string]json.RawMessage
	if err := json.Unmarshal(s.state.storage, &document); err != nil {
		return err
	}
	document["config"] = config
	data, err := json.Marshal(document)
	if err == nil {
		s.state.storage = data
	}
	return err
}

// providerSeed is the provider configuration, in the form of the API and of seeds.
type providerSeed struct {
	Name   string            `json:"name"`
	Config map[string]string `json:"config"`
}

func (p *providerSeed) provider() (Provider, error) {
	out := Provider{ServerURL: p.Config["server_url"], Token: p.Config["server_token"]}
	if p.Name != "operations-center" || out.ServerURL == "" {
		return out, errors.New("the provider must be operations-center, with a server_url")
	}
	if text := p.Config["server_certificate"]; text != "" {
		block, _ := pem.Decode([]byte(text))
		if block == nil {
			return out, errors.New("the provider's certificate is not in PEM form")
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return out, err
		}
		out.Certificate = certificate
	}
	return out, nil
}

func (s *Server) setProvider(config json.RawMessage) error {
	var parsed providerSeed
	if err := json.Unmarshal(config, &parsed); err != nil {
		return err
	}
	provider, err := parsed.provider()
	if err == nil {
		s.provider = provider
	}
	return err
}

// factoryReset closes the connection without an answer, like a real server. The server comes back freshly installed,
// with the network and the provider of its seeds, and registers.
func (s *Server) factoryReset(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Seeds map[string]json.RawMessage `json:"seeds"`
		Wipe  bool                       `json:"wipe_existing_seeds"`
	}
	if r.ContentLength != 0 && !decode(w, r, &body) {
		return
	}
	// The seeds of the request are added to those on disk, and replace those of the same name.
	files := map[string][]byte{}
	s.mu.Lock()
	installed := s.seeds != nil // with Boot, from an image
	if !body.Wipe {
		maps.Copy(files, s.seeds)
	}
	s.mu.Unlock()
	for name, data := range body.Seeds {
		files[name] = data
	}
	if body.Seeds[seed.FileInstall] != nil { // the server would boot the installer from its own disk
		respondError(w, http.StatusBadRequest, "seed install: the system would install itself")
		return
	}
	var config map[string]any
	if data := files[seed.FileNetwork]; data != nil { // read leniently: the server's own release wrote it
		if err := json.Unmarshal(data, &config); err != nil {
			respondError(w, http.StatusBadRequest, "seed network: %v", err)
			return
		}
		delete(config, "version")
	}
	parsed := &seed.Seed{}
	err := read(parsed, files, seed.FileApplications, seed.FileIncus, seed.FileKernel, seed.FileProvider, seed.FileSecurity, seed.FileServices, seed.FileUpdate)
	var provider Provider
	if err == nil && parsed.Provider != nil {
		provider, err = providerOf(parsed.Provider)
	}
	if err != nil {
		respondError(w, http.StatusBadRequest, "seeds: %v", err)
		return
	}
	s.later(0, func() {
		s.down()
		if s.hasTrouble(TroubleReset) {
			s.PowerOn()
			return
		}
		s.mu.Lock()
		if parsed.Applications != nil || installed {
			s.options.Application = parsed.Applications.Primary()
		}
		s.mu.Unlock()
		if s.Reinstall() != nil {
			return
		}
		parsed.Network = nil // applied below
		if parsed.Incus == nil && !installed && !body.Wipe {
			parsed.Incus = &seed.Incus{} // without the defaults, like a server from New
		}
		_ = s.applySeed(parsed, files)
		s.mu.Lock()
		if !installed {
			s.seeds = nil
		}
		s.provider = Provider{}
		feed := s.feed
		if feed { // install the application from the feed again
			s.state.applications, s.state.bare, s.state.ready = nil, true, false
		}
		if config != nil {
			s.network.config = config
			s.address = s.network.configuredAddress(s.address)
		}
		s.mu.Unlock()
		s.PowerOn()
		if provider.ServerURL != "" {
			if feed {
				_ = s.Install(s.ctx, provider)
			} else {
				_ = s.Register(s.ctx, provider)
			}
		}
	})
	panic(http.ErrAbortHandler)
}
