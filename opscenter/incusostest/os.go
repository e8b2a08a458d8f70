package incusostest

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/internal/release"
)

// state is the state of a server, apart from its network.
type state struct {
	machineID, systemUUID string

	// next is the version that was installed last, and boots next. If it failed to boot, it is also the alternate
	// version, and is not booted again. needsReboot is the value that the server reports; it stays false with
	// auto_reboot.
	version, next, alternate string
	needsReboot              bool
	applications             []deployed
	available                string // the version that Offer set
	bootedAt                 time.Time
	ready                    bool

	update      updateConfig
	forgetful   bool
	lastCheck   time.Time
	updateState string
	updating    bool

	config     map[string]any // of Incus, as it was set
	operations map[string]*operation

	hardware, storage, security json.RawMessage
	keysRetrieved               bool
	kernel, logging             json.RawMessage // configurations

	keys        map[string]bool // Secure Boot keys from updates
	keyBoot     bool            // a key waits for a boot
	offeredKeys []string        // set by OfferKeys
	bare        bool            // freshly installed: no application, and no client certificate
}

type deployed struct {
	name, version string
	primary       bool
}

type updateConfig struct {
	AutoReboot         bool              `json:"auto_reboot"`
	Channel            string            `json:"channel"`
	CheckFrequency     release.Frequency `json:"check_frequency"`
	MaintenanceWindows []any             `json:"maintenance_windows,omitempty"`
}

func newState(options Options, machineID, systemUUID string) state {
	out := state{
		machineID: machineID, systemUUID: systemUUID,
		version: options.Version, available: options.Version,
		applications: []deployed{{options.Application, options.Version, true}, {"debug", options.Version, false}},
		bootedAt:     time.Now().Add(-time.Hour), ready: true,
		update:      updateConfig{Channel: "stable", CheckFrequency: "6h"},
		updateState: "Update check completed", lastCheck: time.Now().Add(-time.Hour), // the check at startup
		operations: map[string]*operation{},
		hardware:   hardware(options.Seed, options.VirtualFunctions), storage: storage(options.Seed), security: security(options.Seed),
		kernel: json.RawMessage(`{}`), logging: json.RawMessage(`{}`),
	}
	if options.Hardware != nil {
		out.hardware = options.Hardware
	}
	if options.Fresh {
		out.applications, out.ready, out.bare = nil, false, true
	}
	if options.Architecture != "x86_64" {
		out.hardware = json.RawMessage(strings.Replace(string(out.hardware), `"architecture":"x86_64"`, fmt.Sprintf(`"architecture":%q`, options.Architecture), 1))
	}
	return out
}

func isIncus(application string) bool {
	return application == "incus" || len(application) > 10 && application[:10] == "incus-lts-"
}

// Offer sets the version that the server finds at its next check for updates.
func (s *Server) Offer(version string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.available = version
	s.saveSoon()
}

// OfferKeys adds Secure Boot keys to the offered update, such as "KEK_1" or "db_2". The server applies new keys in this
// order, before other updates. Each key needs a reboot.
func (s *Server) OfferKeys(keys ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.offeredKeys = slices.Clone(keys)
}

// Version returns the running OS version, and the staged one, which is "" if there is none.
func (s *Server) Version() (running, staged string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.needsReboot {
		staged = s.state.next
	}
	return s.state.version, staged
}

// RecoveryKeysRetrieved reports whether the server's recovery keys count as retrieved. If not, its console warns.
func (s *Server) RecoveryKeysRetrieved() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.keysRetrieved
}

// SetUpdateSettings sets the server's settings for updates, as if at its console. The frequency is a duration
// such as "6h", or "never".
func (s *Server) SetUpdateSettings(autoReboot bool, channel, checkFrequency string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.update = updateConfig{AutoReboot: autoReboot, Channel: channel, CheckFrequency: release.Frequency(checkFrequency)}
}

// SetApplications sets the installed applications, each with the version of the OS. The first one is the primary
// one. Without names, the list is empty, as right after an update of the OS.
func (s *Server) SetApplications(names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.applications = nil
	for i, name := range names {
		s.state.applications = append(s.state.applications, deployed{name, s.state.version, i == 0})
	}
}

// supports reports whether the simulated release has a feature that was added in the release since. s.mu is held.
func (s *Server) supports(since string) bool {
	simulated := s.options.Release
	if simulated != "" && s.state.version != s.options.Version && newer(s.state.version, simulated) {
		simulated = s.state.version
	}
	return simulated == "" || !release.Before(simulated, since)
}

// SetReady sets whether the server reports that it is ready.
func (s *Server) SetReady(ready bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.ready = ready
}

// envelope is the form of all answers.
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

// sent flushes an answer before the server goes down.
func sent(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() }

func fingerprint(certificate *x509.Certificate) string {
	sum := sha256.Sum256(certificate.Raw)
	return hex.EncodeToString(sum[:])
}

// isTrusted reports whether the server trusts the client certificate of a request.
func (s *Server) isTrusted(r *http.Request) bool {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trusted[fingerprint(r.TLS.PeerCertificates[0])]
}

// routes returns the handler of all requests.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	osAPI := http.NewServeMux()
	s.osRoutes(osAPI)
	mux.HandleFunc("/os/", func(w http.ResponseWriter, r *http.Request) {
		if s.options.Plain {
			respondError(w, http.StatusBadRequest, "System isn't running IncusOS")
			return
		}
		if !s.isTrusted(r) {
			respondError(w, http.StatusForbidden, "Not authorized")
			return
		}
		osAPI.ServeHTTP(w, r)
	})
	s.incusRoutes(mux)
	return s.injectFaults(s.injectAttacks(mux))
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
				state := map[string]any{"initialized": true, "version": a.version, "friendly_version": "7.3", "available_versions": []string{a.version}}
				if s.supports(release.Primary) {
					state["is_primary"] = a.primary
				}
				return map[string]any{"config": map[string]any{}, "state": state}
			}
		}
		return nil
	})
	get("/1.0/system", func(*http.Request) any {
		return []string{"/1.0/system/kernel", "/1.0/system/logging", "/1.0/system/network", "/1.0/system/provider", "/1.0/system/resources", "/1.0/system/security", "/1.0/system/storage", "/1.0/system/update"}
	})
	get("/1.0/system/resources", func(*http.Request) any { return s.state.hardware })
	get("/1.0/system/storage", func(*http.Request) any { return s.state.storage })
	get("/1.0/system/security", func(*http.Request) any {
		was := s.state.keysRetrieved
		if !s.supports(release.SecurityReads) {
			s.state.keysRetrieved = true
		}
		return json.RawMessage(strings.Replace(string(s.state.security), `"encryption_recovery_keys_retrieved":true`, fmt.Sprintf(`"encryption_recovery_keys_retrieved":%t`, was), 1))
	})
	mux.HandleFunc("POST /os/1.0/system/security/{action}", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		known := r.PathValue("action") == ":retrieved" && s.supports(release.SecurityReads)
		s.state.keysRetrieved = s.state.keysRetrieved || known
		s.mu.Unlock()
		if !known {
			respondError(w, http.StatusNotFound, "Not Found")
			return
		}
		respond(w, nil)
	})
	get("/1.0/system/kernel", func(*http.Request) any {
		return map[string]any{"config": s.state.kernel, "state": map[string]any{"memory": map[string]any{}}}
	})
	get("/1.0/system/logging", func(*http.Request) any { return map[string]any{"config": s.state.logging, "state": map[string]any{}} })
	get("/1.0/system/network", func(*http.Request) any { return s.network.document(s) })
	get("/1.0/system/update", func(*http.Request) any {
		out := map[string]any{"needs_reboot": s.state.needsReboot, "status": s.state.updateState}
		if !s.state.lastCheck.IsZero() {
			out["last_check"] = s.state.lastCheck.UTC().Format(time.RFC3339)
		}
		return map[string]any{"config": s.updateConfig(), "state": out}
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
	mux.HandleFunc("POST /os/1.0/applications/{name}/{action}", s.checkApplication)
	mux.HandleFunc("POST /os/1.0/system/{action}", s.power)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { respondError(w, http.StatusNotFound, "Not Found") })
}

// updateConfig returns the settings for updates in the form of the simulated release. s.mu is held.
func (s *Server) updateConfig() any {
	if s.supports(release.FrequencyText) {
		return s.state.update
	}
	n, _ := s.state.update.CheckFrequency.Nanoseconds()
	return map[string]any{"auto_reboot": s.state.update.AutoReboot, "channel": s.state.update.Channel, "check_frequency": n}
}

// environment returns the description of the OS in the form of the simulated release. s.mu is held.
func (s *Server) environment() map[string]any {
	up := int64(time.Since(s.state.bootedAt).Seconds())
	out := map[string]any{"hostname": s.options.Name, "os_name": "IncusOS", "os_version": s.state.version}
	if s.supports(release.MachineID) {
		out["machine_id"] = s.state.machineID
	}
	if s.supports(release.NextVersion) {
		out["uptime"] = up
		out["os_version_next"] = cmp.Or(s.state.next, s.state.version)
		if s.state.alternate != "" {
			out["os_version_alternate"] = s.state.alternate
		}
	}
	switch {
	case s.options.LegacyReady:
		out["uptime"] = strconv.FormatInt(up, 10)
	case s.supports(release.Ready):
		out["system_is_ready"] = s.state.ready
	}
	return out
}

// decode parses the body of a request, of at most 1 MiB. If that fails, it sends the error and returns false.
func decode(w http.ResponseWriter, r *http.Request, into any) bool {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(into); err != nil {
		respondError(w, http.StatusBadRequest, "%v", err)
		return false
	}
	return true
}

func (s *Server) putUpdate(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Config struct {
			updateConfig
			Frequency json.RawMessage `json:"check_frequency"`
		} `json:"config"`
	}
	if !decode(w, r, &body) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if text := bytes.HasPrefix(body.Config.Frequency, []byte(`"`)); text != s.supports(release.FrequencyText) {
		respondError(w, http.StatusBadRequest, "json: cannot unmarshal check_frequency")
		return
	}
	if !s.state.forgetful {
		s.state.update = body.Config.updateConfig
		_ = json.Unmarshal(body.Config.Frequency, &s.state.update.CheckFrequency)
	}
	respond(w, nil)
}

// SetForgetful makes the server accept new settings for updates, but keep the current ones. False ends that.
func (s *Server) SetForgetful(forgetful bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.forgetful = forgetful
	s.state.update.CheckFrequency = "6h"
}

// checkUpdate applies the available updates. The OS is staged, and booted at once with auto_reboot. Applications are
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
	begun := s.beginUpdate()
	if body.OSOnly { // answered at the end of the update
		if sleep(s, s.options.UpdateDelay) {
			s.applyUpdate(true)
			respond(w, nil)
		}
		return
	}
	respond(w, nil)
	if begun {
		s.later(s.options.UpdateDelay, func() { s.applyUpdate(false) })
	}
}

// checkApplication updates one application. Only the newest release has this.
func (s *Server) checkApplication(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	s.mu.Lock()
	known := s.options.Release == "" && r.PathValue("action") == ":check-update" && slices.ContainsFunc(s.state.applications, func(a deployed) bool { return a.name == name })
	s.mu.Unlock()
	if !known {
		respondError(w, http.StatusNotFound, "Not Found")
		return
	}
	respond(w, nil)
	s.later(s.options.UpdateDelay, func() {
		got, err := s.offered(false)
		updated := false
		s.mu.Lock()
		for i := range s.state.applications {
			if a := &s.state.applications[i]; err == nil && a.name == name && s.trouble != TroubleApplication && newer(got.apps[name], a.version) {
				a.version, updated = got.apps[name], true
			}
		}
		s.mu.Unlock()
		if updated {
			s.save()
			_ = s.SelfUpdate(s.ctx, "application-update-applied")
		}
	})
}

// beginUpdate marks the begin of an update. It returns false if one is active already.
func (s *Server) beginUpdate() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	busy := s.state.updating
	if !busy && s.trouble != TroubleUpdate {
		s.state.updating = true
		s.state.lastCheck, s.state.updateState = time.Now(), "Running update check"
	}
	return !busy
}

func (s *Server) applyUpdate(osOnly bool) {
	if s.hasTrouble(TroubleUpdate) {
		s.mu.Lock()
		s.state.updating = false
		s.mu.Unlock()
		return
	}
	got, err := s.offered(osOnly)
	s.mu.Lock()
	s.state.updating = false
	osUpdated, updated, keyApplied, auto := false, false, false, false
	s.state.updateState = "Update check completed"
	switch {
	case s.trouble == TroubleDownload || err != nil:
		s.state.updateState = "Failed to check for OS updates"
	case got.key != "":
		// One key at a time, and before other updates.
		if s.state.keys == nil {
			s.state.keys = map[string]bool{}
		}
		s.state.keys[got.key], s.state.keyBoot, keyApplied = true, true, true
		if auto = s.state.update.AutoReboot; !auto {
			s.state.needsReboot = true
			s.state.updateState = "Secure Boot key " + got.key + " has been applied"
		}
	case newer(got.os, s.state.version) && s.state.next != got.os: // a version that failed to boot is not tried again
		s.state.next, osUpdated = got.os, true
		if auto = s.state.update.AutoReboot; auto {
			s.state.updateState = "Running update check" // the check includes the reboot
		} else {
			s.state.needsReboot = true
			s.state.updateState = "IncusOS has been updated to version " + got.os
		}
	}
	for i := range s.state.applications {
		if a := &s.state.applications[i]; err == nil && !osOnly && s.trouble != TroubleDownload && s.trouble != TroubleApplication && newer(got.apps[a.name], a.version) {
			a.version, updated = got.apps[a.name], true
		}
	}
	s.mu.Unlock()
	s.save()
	if keyApplied {
		_ = s.SelfUpdate(s.ctx, "secure-boot-update-applied")
	}
	if osUpdated {
		_ = s.SelfUpdate(s.ctx, "os-update-applied")
	}
	if updated {
		_ = s.SelfUpdate(s.ctx, "application-update-applied")
	}
	if auto {
		s.later(0, s.Reboot)
	}
}

// offered returns the available updates, from the feed of the control plane or from Offer.
func (s *Server) offered(osOnly bool) (*fetched, error) {
	s.mu.Lock()
	feed, available, waits := s.feed, s.state.available, s.state.keyBoot
	missing := slices.DeleteFunc(slices.Clone(s.state.offeredKeys), func(key string) bool { return s.state.keys[key] })
	var names []string
	for _, a := range s.state.applications {
		names = append(names, a.name)
	}
	if feed {
		s.listed = nil // an explicit check does not use the cache
	}
	s.mu.Unlock()
	if feed {
		got, err := s.fetchUpdates(s.ctx, names, osOnly)
		if err != nil {
			s.printConsole("Failed to check for updates: " + err.Error())
		}
		return got, err
	}
	switch {
	case waits:
		return &fetched{}, nil
	case len(missing) > 0:
		return &fetched{version: available, key: missing[0], keys: len(missing) - 1}, nil
	}
	out := &fetched{version: available, os: available, apps: map[string]string{}}
	for _, name := range names {
		out.apps[name] = available
	}
	return out, nil
}

// newer reports whether version a is newer than b.
func newer(a, b string) bool {
	x, _ := strconv.ParseUint(a, 10, 64)
	y, _ := strconv.ParseUint(b, 10, 64)
	return x > y
}

func (s *Server) power(w http.ResponseWriter, r *http.Request) {
	switch r.PathValue("action") {
	case ":reboot":
		s.beginReboot()
		respond(w, nil)
		sent(w)
		s.later(0, s.Reboot)
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

// beginReboot records that the server accepted a reboot.
func (s *Server) beginReboot() {
	s.mu.Lock()
	s.rebooting = true
	s.reboots++
	s.mu.Unlock()
	s.save()
}

// Reboot reboots the server, and returns when the server is back. The server sends a self update, goes down, and comes
// back with the staged version. It is not ready at first, and sends another self update when it is.
func (s *Server) Reboot() {
	_ = s.SelfUpdate(s.ctx, "system-reboot-triggered")
	s.down()
	if s.options.WhileDown != nil {
		s.options.WhileDown()
	}
	if sleep(s, s.options.RebootDelay) && !s.hasTrouble(TroubleReboot) {
		s.PowerOn()
	}
}

// Reboots returns the number of reboot commands that the server accepted.
func (s *Server) Reboots() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reboots
}

// PowerOff sends a self update with the cause, and shuts the server down.
func (s *Server) PowerOff(cause string) {
	_ = s.SelfUpdate(s.ctx, cause)
	s.down()
}

// Suspend sends a self update, and suspends the server to memory. Resume wakes it without a boot.
func (s *Server) Suspend() { s.PowerOff("suspend-triggered") }

// Resume wakes a suspended server in its earlier state. It sends no self update.
func (s *Server) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.off, s.state.ready = false, true
	if s.web == nil {
		_ = s.serve()
	}
}

// Restart reboots the server without self updates, as after a power cut between two polls.
func (s *Server) Restart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.boot()
	s.saveSoon()
}

// Crash shuts the server down without a self update.
func (s *Server) Crash() { s.down() }

func (s *Server) down() {
	s.mu.Lock()
	s.state.ready, s.off = false, true
	s.network.dropPending()
	s.stopServing()
	s.address = s.network.configuredAddress(s.address)
	s.mu.Unlock()
	s.save()
}

// boot activates a staged version. s.mu is held.
func (s *Server) boot() {
	if s.state.updateState == "Running update check" && !s.state.updating {
		s.state.updateState = "Update check completed" // the check at startup
	}
	switch staged := s.state.next != "" && s.state.next != s.state.alternate; {
	case staged && s.trouble == TroubleVersion: // boot from the backup image
		s.state.alternate = s.state.next
	case staged:
		s.state.alternate, s.state.version = s.state.version, s.state.next
		s.state.next = ""
	}
	s.state.needsReboot, s.state.keyBoot = false, false
	s.state.bootedAt = time.Now()
}

// PowerOn boots a server that is down, and activates a staged version. It returns after the server is ready, and
// has sent a self update.
func (s *Server) PowerOn() {
	s.mu.Lock()
	s.boot()
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

// sleep waits for d. It returns false if the server is closed before that.
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
