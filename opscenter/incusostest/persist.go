package incusostest

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"
)

// saved is the file of a server in Options.StateDir.
type saved struct {
	Certificate, Key      string
	MachineID, SystemUUID string
	Version, Next         string
	Alternate, Available  string
	NeedsReboot           bool
	UpdateState           string
	LastCheck             time.Time
	Applications          []savedApplication
	BootedAt              time.Time
	Trusted               []string
	Address               string
	ServerURL, Token      string
	Pinned                string // the control plane's certificate
	Off, Rebooting        bool
	Reboots               int
	Feed                  bool
	Keys                  map[string]bool
	KeyBoot               bool
}

type savedApplication struct {
	Name, Version string
	Primary       bool
}

// savedCluster is the file of a cluster, or of the instances of a server that is in no cluster.
type savedCluster struct {
	Clustered        bool
	Certificate, Key string
	Members          []savedMember
	Instances        []*Instance
}

type savedMember struct{ Name, Status, Action string }

func (s *Server) stateFile() string {
	return filepath.Join(s.options.StateDir, s.options.Name+".json")
}

// saveSoon saves the server in the background. s.mu is held.
func (s *Server) saveSoon() {
	if s.options.StateDir != "" {
		s.laterLocked(0, s.save)
	}
}

// save writes the server to its file.
func (s *Server) save() {
	if s.options.StateDir == "" {
		return
	}
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	st := &s.state
	out := saved{MachineID: st.machineID, SystemUUID: st.systemUUID, Version: st.version, Next: st.next, Alternate: st.alternate, Available: st.available,
		NeedsReboot: st.needsReboot, UpdateState: st.updateState, LastCheck: st.lastCheck, BootedAt: st.bootedAt, Address: s.address, ServerURL: s.provider.ServerURL, Token: s.provider.Token, Off: s.off, Rebooting: s.rebooting, Reboots: s.reboots, Feed: s.feed, Keys: maps.Clone(st.keys), KeyBoot: st.keyBoot}
	for _, a := range st.applications {
		out.Applications = append(out.Applications, savedApplication{a.name, a.version, a.primary})
	}
	for pin := range s.trusted {
		out.Trusted = append(out.Trusted, pin)
	}
	if s.provider.Certificate != nil {
		out.Pinned = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.provider.Certificate.Raw}))
	}
	out.Certificate, out.Key = encodeIdentity(&s.identity)
	closed := s.closed
	s.mu.Unlock()
	if !closed {
		writeState(s.stateFile(), out)
	}
}

func writeState(path string, state any) {
	data, err := json.Marshal(state)
	if err == nil {
		err = os.WriteFile(path+".new", data, 0o600)
	}
	if err == nil {
		_ = os.Rename(path+".new", path)
	}
}

// restore reads the file of a server with this name, if there is one.
func (s *Server) restore() error {
	if s.options.StateDir == "" {
		return nil
	}
	if err := s.restoreCluster(); err != nil {
		return err
	}
	data, err := os.ReadFile(s.stateFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var in saved
	if err == nil {
		err = json.Unmarshal(data, &in)
	}
	if err != nil {
		return err
	}
	identity, err := decodeIdentity(in.Certificate, in.Key)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.identity = identity
	s.transport.TLSClientConfig.Certificates = []tls.Certificate{identity}
	st := &s.state
	st.machineID, st.systemUUID, st.version, st.next, st.alternate, st.available, st.bootedAt = in.MachineID, in.SystemUUID, in.Version, in.Next, in.Alternate, in.Available, in.BootedAt
	st.needsReboot, st.updateState, st.lastCheck = in.NeedsReboot, in.UpdateState, in.LastCheck
	st.applications = nil
	for _, a := range in.Applications {
		st.applications = append(st.applications, deployed{a.Name, a.Version, a.Primary})
	}
	for _, pin := range in.Trusted {
		s.trusted[pin] = true
	}
	s.provider = Provider{ServerURL: in.ServerURL, Token: in.Token}
	if block, _ := pem.Decode([]byte(in.Pinned)); block != nil {
		if s.provider.Certificate, err = x509.ParseCertificate(block.Bytes); err != nil {
			return err
		}
	}
	s.off, s.rebooting, s.reboots = in.Off, in.Rebooting, in.Reboots
	s.feed, st.keys, st.keyBoot = in.Feed, in.Keys, in.KeyBoot
	if len(in.Applications) > 0 {
		st.bare, st.ready = false, true
	}
	if s.options.Address == "" {
		s.options.Address = in.Address
	}
	return nil
}

func encodeIdentity(identity *tls.Certificate) (certificate, key string) {
	der, err := x509.MarshalPKCS8PrivateKey(identity.PrivateKey)
	if err != nil {
		return "", ""
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: identity.Certificate[0]})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func decodeIdentity(certificate, key string) (tls.Certificate, error) {
	out, err := tls.X509KeyPair([]byte(certificate), []byte(key))
	if err == nil && out.Leaf == nil {
		out.Leaf, err = x509.ParseCertificate(out.Certificate[0])
	}
	return out, err
}

// save writes the cluster to its file.
func (d *daemon) save() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file == "" {
		return
	}
	out := savedCluster{Clustered: d.clustered, Instances: d.instances}
	if d.certificate != nil {
		out.Certificate, out.Key = encodeIdentity(d.certificate)
	}
	for _, m := range d.members {
		out.Members = append(out.Members, savedMember{m.name, m.status, m.action})
	}
	writeState(d.file, out)
}

// restored reports whether the cluster was read from its file.
func (d *daemon) restored() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.file != "" && d.certificate != nil
}

// restoreCluster reads the file of the cluster whose first member is this server, or of the server's own
// instances. It continues an evacuation or a restore that was active.
func (s *Server) restoreCluster() error {
	d := s.incus
	d.mu.Lock()
	defer d.mu.Unlock()
	d.file = filepath.Join(s.options.StateDir, "incus-"+s.options.Name+".json")
	data, err := os.ReadFile(d.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var in savedCluster
	if err == nil {
		err = json.Unmarshal(data, &in)
	}
	if err != nil {
		return err
	}
	d.clustered, d.instances, d.members = in.Clustered, in.Instances, nil
	if in.Certificate != "" {
		certificate, err := decodeIdentity(in.Certificate, in.Key)
		if err != nil {
			return err
		}
		d.certificate = &certificate
	}
	for _, m := range in.Members {
		member := &clusterMember{name: m.Name, status: m.Status, action: m.Action}
		if m.Name == s.options.Name {
			member.server = s
		}
		d.members = append(d.members, member)
		if m.Action != "" {
			s.later(s.options.EvacuateDelay, func() { d.finish(member) })
		}
	}
	return nil
}
