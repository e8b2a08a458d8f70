package incusostest

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// state is what a server is, apart from its network.
type state struct {
	machineID, systemUUID string

	version, next, alternate string
	applications             []application
	available                string // what the update feed offers
	bootedAt                 time.Time
	ready                    bool

	update      updateConfig
	forgetful   bool
	lastCheck   time.Time
	updateState string
	updating    bool

	config     map[string]any // Incus's, as it was set
	operations map[string]*operation

	hardware, storage, security json.RawMessage
	kernel, logging             json.RawMessage // configurations
}

type application struct {
	name, version string
	primary       bool
}

type updateConfig struct {
	AutoReboot         bool   `json:"auto_reboot"`
	Channel            string `json:"channel"`
	CheckFrequency     string `json:"check_frequency"`
	MaintenanceWindows []any  `json:"maintenance_windows,omitempty"`
}

func newState(options Options, machineID, systemUUID string) state {
	return state{
		machineID: machineID, systemUUID: systemUUID,
		version: options.Version, available: options.Version,
		applications: []application{{options.Application, options.Version, true}, {"debug", options.Version, false}},
		bootedAt:     time.Now().Add(-time.Hour), ready: true,
		update:      updateConfig{Channel: "stable", CheckFrequency: "6h"},
		updateState: "Update check completed",
		operations:  map[string]*operation{},
		hardware:    Hardware(options.Seed), storage: storage(options.Seed), security: security(options.Seed),
		kernel: json.RawMessage(`{}`), logging: json.RawMessage(`{}`),
	}
}

func isIncus(application string) bool {
	return application == "incus" || len(application) > 10 && application[:10] == "incus-lts-"
}

// Offer makes the update feed offer a version; the server fetches it when told to check.
func (s *Server) Offer(version string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.available = version
	s.unsaved()
}

// Version returns the running OS version, and the staged one if there is any.
func (s *Server) Version() (running, staged string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.version, s.state.next
}

// SetReady makes the server say that it is ready, or not.
func (s *Server) SetReady(ready bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.ready = ready
}

// envelope is the answer of all three APIs.
type envelope struct {
	Type       string `json:"type"`
	Status     string `json:"status"`
	StatusCode int    `json:"status_code"`
	Operation  string `json:"operation"`
	ErrorCode  int    `json:"error_code"`
	Error      string `json:"error"`
	Metadata   any    `json:"metadata"`
}

func respond(w http.ResponseWriter, metadata any) {
	send(w, http.StatusOK, envelope{Type: "sync", Status: "Success", StatusCode: 200, Metadata: metadata})
}

func respondError(w http.ResponseWriter, status int, format string, args ...any) {
	send(w, status, envelope{Type: "error", ErrorCode: status, Error: fmt.Sprintf(format, args...)})
}

func send(w http.ResponseWriter, status int, answer envelope) {
	data, err := json.Marshal(answer)
	if err != nil {
		status, data = http.StatusInternalServerError, []byte(`{"type":"error","error_code":500,"error":"the answer could not be encoded"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	_, _ = w.Write(data)
}

// sent makes sure that an answer is on its way before the server goes down.
func sent(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() }

func fingerprint(certificate *x509.Certificate) string {
	sum := sha256.Sum256(certificate.Raw)
	return hex.EncodeToString(sum[:])
}

// isTrusted reports whether the request comes with a certificate the server trusts.
func (s *Server) isTrusted(r *http.Request) bool {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trusted[fingerprint(r.TLS.PeerCertificates[0])]
}

// routes returns all that the server answers.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	osAPI := http.NewServeMux()
	s.osRoutes(osAPI)
	mux.HandleFunc("/os/", func(w http.ResponseWriter, r *http.Request) {
		if !s.isTrusted(r) {
			respondError(w, http.StatusForbidden, "Not authorized")
			return
		}
		osAPI.ServeHTTP(w, r)
	})
	s.incusRoutes(mux)
	return s.faulty(mux)
}

func (s *Server) osRoutes(mux *http.ServeMux) {
	get := func(path string, metadata func(r *http.Request) any) {
		mux.HandleFunc("GET /os"+path, func(w http.ResponseWriter, r *http.Request) {
			s.mu.Lock()
			answer := metadata(r)
			data, err := json.Marshal(answer)
			s.mu.Unlock()
			switch {
			case err != nil:
				respondError(w, http.StatusInternalServerError, "%v", err)
			case answer == nil:
				respondError(w, http.StatusNotFound, "Not Found")
			default:
				respond(w, json.RawMessage(data))
			}
		})
	}
	get("/{$}", func(*http.Request) any { return []string{"/1.0"} })
	get("/1.0", func(*http.Request) any { return map[string]any{"environment": s.environment()} })
	get("/1.0/applications", func(*http.Request) any {
		paths := []string{}
		for _, a := range s.state.applications {
			paths = append(paths, "/os/1.0/applications/"+a.name)
		}
		return paths
	})
	get("/1.0/applications/{name}", func(r *http.Request) any {
		for _, a := range s.state.applications {
			if a.name == r.PathValue("name") {
				return map[string]any{"config": map[string]any{}, "state": map[string]any{
					"is_primary": a.primary, "initialized": true, "version": a.version, "friendly_version": "7.3",
					"available_versions": []string{a.version}}}
			}
		}
		return nil
	})
	get("/1.0/system", func(*http.Request) any {
		return []string{"/1.0/system/kernel", "/1.0/system/logging", "/1.0/system/network", "/1.0/system/provider", "/1.0/system/resources", "/1.0/system/security", "/1.0/system/storage", "/1.0/system/update"}
	})
	get("/1.0/system/resources", func(*http.Request) any { return s.state.hardware })
	get("/1.0/system/storage", func(*http.Request) any { return s.state.storage })
	get("/1.0/system/security", func(*http.Request) any { return s.state.security })
	get("/1.0/system/kernel", func(*http.Request) any {
		return map[string]any{"config": s.state.kernel, "state": map[string]any{"memory": map[string]any{}}}
	})
	get("/1.0/system/logging", func(*http.Request) any { return map[string]any{"config": s.state.logging, "state": map[string]any{}} })
	get("/1.0/system/network", func(*http.Request) any { return s.network.document(s) })
	get("/1.0/system/update", func(*http.Request) any {
		out := map[string]any{"needs_reboot": s.needsReboot(), "status": s.state.updateState}
		if !s.state.lastCheck.IsZero() {
			out["last_check"] = s.state.lastCheck.UTC().Format(time.RFC3339)
		}
		return map[string]any{"config": s.state.update, "state": out}
	})
	get("/1.0/system/provider", func(*http.Request) any {
		return map[string]any{"config": map[string]any{"name": "operations-center", "config": map[string]string{
			"server_url": s.provider.ServerURL, "server_token": s.provider.Token}},
			"state": map[string]any{"registered": len(s.trusted) > 0}}
	})
	mux.HandleFunc("PUT /os/1.0/system/update", s.putUpdate)
	mux.HandleFunc("PUT /os/1.0/system/network", s.putNetwork)
	for section, set := range map[string]func(json.RawMessage) error{
		"kernel":   func(config json.RawMessage) error { s.state.kernel = config; return nil },
		"logging":  func(config json.RawMessage) error { s.state.logging = config; return nil },
		"storage":  s.setStorage,
		"provider": s.setProvider,
	} {
		mux.HandleFunc("PUT /os/1.0/system/"+section, s.putSection(set))
	}
	mux.HandleFunc("/os/1.0/system/network/{action}", s.confirmNetwork)
	mux.HandleFunc("POST /os/1.0/system/update/{action}", s.checkUpdate)
	mux.HandleFunc("POST /os/1.0/system/{action}", s.power)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { respondError(w, http.StatusNotFound, "Not Found") })
}

// needsReboot: s.mu is held.
func (s *Server) needsReboot() bool { return s.state.next != "" && s.state.next != s.state.version }

// environment: s.mu is held.
func (s *Server) environment() map[string]any {
	up := int64(time.Since(s.state.bootedAt).Seconds())
	out := map[string]any{"hostname": s.options.Name, "machine_id": s.state.machineID, "os_name": "IncusOS",
		"os_version": s.state.version, "os_version_next": s.state.next, "os_version_alternate": s.state.alternate, "uptime": up}
	if s.options.LegacyReady {
		out["uptime"] = strconv.FormatInt(up, 10)
	} else {
		out["system_is_ready"] = s.state.ready
	}
	return out
}

// decode reads a request's body of at most 1 MiB.
func decode(w http.ResponseWriter, r *http.Request, into any) bool {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(into); err != nil {
		respondError(w, http.StatusBadRequest, "%v", err)
		return false
	}
	return true
}

func (s *Server) putUpdate(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Config updateConfig `json:"config"`
	}
	if !decode(w, r, &body) {
		return
	}
	s.mu.Lock()
	if !s.state.forgetful {
		s.state.update = body.Config
	}
	s.mu.Unlock()
	respond(w, nil)
}

// SetForgetful makes the server accept update settings, and keep those it has, or ends that.
func (s *Server) SetForgetful(forgetful bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.forgetful = forgetful
	s.state.update.CheckFrequency = "6h"
}

// checkUpdate fetches and applies what the feed offers: the OS is staged, applications are
// updated at once.
func (s *Server) checkUpdate(w http.ResponseWriter, r *http.Request) {
	if r.PathValue("action") != ":check" {
		respondError(w, http.StatusNotFound, "Not Found")
		return
	}
	var body struct {
		OSOnly bool `json:"os_only"`
	}
	if r.ContentLength != 0 && !decode(w, r, &body) {
		return
	}
	s.mu.Lock()
	busy := s.state.updating
	s.state.updating = true
	s.state.lastCheck = time.Now()
	s.mu.Unlock()
	if body.OSOnly { // answers when it is done
		if sleep(s, s.options.UpdateDelay) {
			s.applyUpdate(true)
			respond(w, nil)
		}
		return
	}
	respond(w, nil)
	if !busy {
		s.later(s.options.UpdateDelay, func() { s.applyUpdate(false) })
	}
}

func (s *Server) applyUpdate(osOnly bool) {
	s.mu.Lock()
	s.state.updating = false
	if s.trouble == TroubleUpdate {
		s.mu.Unlock()
		return
	}
	osUpdated, updated := false, false
	if newer(s.state.available, s.state.version) && s.state.next != s.state.available {
		s.state.next, osUpdated = s.state.available, true
	}
	for i := range s.state.applications {
		if a := &s.state.applications[i]; !osOnly && newer(s.state.available, a.version) {
			a.version, updated = s.state.available, true
		}
	}
	s.mu.Unlock()
	s.save()
	if osUpdated {
		_ = s.SelfUpdate(s.ctx, "os-update-applied")
	}
	if updated {
		_ = s.SelfUpdate(s.ctx, "application-update-applied")
	}
}

func newer(a, b string) bool {
	x, _ := strconv.ParseUint(a, 10, 64)
	y, _ := strconv.ParseUint(b, 10, 64)
	return x > y
}

func (s *Server) power(w http.ResponseWriter, r *http.Request) {
	switch r.PathValue("action") {
	case ":reboot":
		s.mu.Lock()
		s.rebooting = true
		s.reboots++
		s.mu.Unlock()
		s.save()
		respond(w, nil)
		sent(w)
		s.later(0, func() { s.Reboot() })
	case ":poweroff":
		respond(w, nil)
		sent(w)
		s.later(0, func() { s.PowerOff("system-shutdown-triggered") })
	case ":factory-reset":
		s.factoryReset(w, r)
	case ":suspend":
		respond(w, nil)
		sent(w)
		s.later(0, func() { s.PowerOff("suspend-triggered") })
	default:
		respondError(w, http.StatusNotFound, "Not Found")
	}
}

// Reboot reboots the server: it says so, goes down, and comes back with the staged version,
// not ready at first, and says when it is. It returns when the server is back.
func (s *Server) Reboot() {
	_ = s.SelfUpdate(s.ctx, "system-reboot-triggered")
	s.down()
	if s.options.WhileDown != nil {
		s.options.WhileDown()
	}
	if sleep(s, s.options.RebootDelay) && !s.has(TroubleReboot) {
		s.PowerOn()
	}
}

// Reboots returns how often the server was asked to reboot, and accepted.
func (s *Server) Reboots() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reboots
}

// PowerOff shuts the server down, which says so with that cause.
func (s *Server) PowerOff(cause string) {
	_ = s.SelfUpdate(s.ctx, cause)
	s.down()
}

// Crash takes the server down without a word.
func (s *Server) Crash() { s.down() }

func (s *Server) down() {
	s.mu.Lock()
	s.state.ready, s.off = false, true
	s.network.forget()
	s.hangUp()
	s.address = s.network.home(s.address)
	s.mu.Unlock()
	s.save()
}

// PowerOn boots a server that is down; a staged version becomes active.
func (s *Server) PowerOn() {
	s.mu.Lock()
	if s.needsReboot() && s.trouble != TroubleVersion {
		s.state.alternate, s.state.version = s.state.version, s.state.next
	}
	s.state.next = ""
	s.state.bootedAt = time.Now()
	s.off, s.rebooting = false, false
	if s.web == nil {
		_ = s.serve()
	}
	s.mu.Unlock()
	s.save()
	if sleep(s, s.options.RebootDelay) {
		s.SetReady(true)
		_ = s.SelfUpdate(s.ctx, "system-is-ready")
	}
}

func sleep(s *Server, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}
