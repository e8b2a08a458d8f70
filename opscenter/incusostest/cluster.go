package incusostest

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/lxc/incus/v6/shared/api"

	"github.com/opscenter-go/sdk/internal/selfsigned"
)

// daemon is the Incus database of a cluster, which its members share, or of a server that is in no cluster.
type daemon struct {
	mu          sync.Mutex
	clustered   bool
	certificate *tls.Certificate // of the cluster; nil if members present their own
	members     []*clusterMember
	instances   []*Instance
	entities    []*entity
	listeners   map[*subscriber]bool
	tokens      map[string]string // join tokens: member name by secret
	trust       map[string]string // trust tokens: client name by secret
	leftover    []api.Certificate // from joins that failed
	file        string            // path of its file; "" if it has none
}

type clusterMember struct {
	server *Server
	name   string
	status string
	action string        // active evacuation or restore, with its mode
	moving chan struct{} // closed at the end of the action; only in a Fleet
	listed string        // URL that the cluster lists; "" for its real one
	// trusted is the name of its certificate in the trust store, which keeps an older name of the member; "" for its name.
	trusted string
}

// Instance is a simulated instance, a container.
type Instance struct {
	// Project and Name identify the instance in its cluster.
	Project, Name string
	// Location is the name of its server. Running reports whether it runs.
	Location string
	Running  bool
	// Ephemeral means that Incus deletes the instance when it stops.
	Ephemeral bool
	// Origin is the name of the server that it was evacuated from; "" if none.
	Origin string
	// Description, Config and Profiles are those of Incus. nil Profiles mean the default one.
	Description string
	Config      map[string]string
	Profiles    []string

	snapshots []string
	// withoutVolume names the snapshots whose volumes are not there so far; "" is the instance itself.
	withoutVolume map[string]bool
}

func newDaemon(s *Server, clustered bool) *daemon {
	return &daemon{clustered: clustered, tokens: map[string]string{}, trust: map[string]string{}, listeners: map[*subscriber]bool{}, entities: []*entity{
		{of: collectionOf("projects"), name: "default", document: map[string]any{"description": "Default Incus project"}},
		{of: collectionOf("profiles"), project: "default", name: "default", document: map[string]any{"description": "Default Incus profile"}},
	}, members: []*clusterMember{{server: s, name: s.options.Name, status: "Online"}}}
}

// shared returns the cluster's certificate, or nil if its members present their own.
func (d *daemon) shared() *tls.Certificate {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.certificate
}

// member returns a member by name. d.mu is held.
func (d *daemon) member(name string) *clusterMember {
	for _, m := range d.members {
		if m.name == name {
			return m
		}
	}
	return nil
}

// db returns the database of the server.
func (s *Server) db() *daemon {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.incus
}

// isDown reports whether the server is down.
func (s *Server) isDown() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.off || s.closed || s.fault.Kind == FaultDown
}

// MemberStatus returns the server's status in its cluster, such as "Online" or "Evacuated".
func (s *Server) MemberStatus() string {
	d := s.db()
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.member(s.options.Name).status
}

// SetMemberStatus sets the server's status in its cluster, as if an operator had evacuated or restored it by
// hand. Instances do not move.
func (s *Server) SetMemberStatus(status string) {
	d := s.db()
	d.mu.Lock()
	d.member(s.options.Name).status = status
	d.mu.Unlock()
	d.save()
}

// AddInstance adds an instance to the server, and sends its event.
func (s *Server) AddInstance(project, name string, running bool) {
	d := s.db()
	d.mu.Lock()
	d.instances = append(d.instances, &Instance{Project: project, Name: name, Location: s.options.Name, Running: running})
	d.emit(s, "instance-created", "/1.0/instances/"+name+inProject(project), project, nil)
	d.mu.Unlock()
	d.save()
}

// Instances returns copies of the instances of the server's cluster.
func (s *Server) Instances() []Instance {
	d := s.db()
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]Instance, 0, len(d.instances))
	for _, i := range d.instances {
		out = append(out, *i)
	}
	return out
}

// Cluster makes servers members of one Incus cluster, before or after they register. The cluster takes over
// their instances, other objects, and trusted clients. Open connections are closed.
//
// From then on the servers present the cluster's certificate in place of their own. Tell the control plane
// with Registry.CreateCluster and Registry.SetClusterCertificate, or its polls fail. Fleet.Form does all of
// this. With Options.StateDir, Cluster keeps the cluster there, under the name of the first server.
//
// It is an error if there are no servers, or if two of them have instances of the same name and project.
func Cluster(servers ...*Server) error {
	if len(servers) == 0 {
		return errors.New("a cluster needs at least one server")
	}
	first := servers[0]
	d := first.db()
	if d.restored() {
		for _, s := range servers[1:] {
			s.joinCluster(d)
		}
		return nil
	}
	have := map[[2]string]string{}
	for _, s := range servers {
		for _, i := range s.Instances() {
			key := [2]string{i.Project, i.Name}
			if other := have[key]; other != "" && s.db() != d {
				return fmt.Errorf("servers %s and %s both have an instance %s in project %s", other, s.options.Name, i.Name, i.Project)
			}
			have[key] = s.options.Name
		}
	}
	certificate, err := selfsigned.New("cluster-of-" + first.options.Name)
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.clustered, d.certificate = true, &certificate
	d.assignLocation(first.options.Name)
	d.mu.Unlock()
	trusted := map[string]bool{}
	for _, s := range servers {
		if s != first {
			d.takeObjects(s)
			s.joinCluster(d)
		}
		s.mu.Lock()
		maps.Copy(trusted, s.trusted)
		s.mu.Unlock()
	}
	for _, s := range servers {
		s.mu.Lock()
		maps.Copy(s.trusted, trusted)
		s.endSessions()
		s.mu.Unlock()
		s.Cut()
	}
	d.save()
	return nil
}

// assignLocation sets the location of entities from a server that was in no cluster. d.mu is held.
func (d *daemon) assignLocation(server string) {
	for _, t := range d.entities {
		if t.location == "none" {
			t.location = server
		}
	}
}

// takeObjects moves the objects of a server to the cluster.
func (d *daemon) takeObjects(s *Server) {
	old := s.db()
	if old == d {
		return
	}
	old.mu.Lock()
	old.assignLocation(s.options.Name)
	instances, entities, trust := old.instances, old.entities, maps.Clone(old.trust)
	old.instances, old.entities = nil, nil
	for l := range old.listeners { // they reconnect, to the cluster
		l.cut()
	}
	old.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.instances = append(d.instances, instances...)
	for _, t := range entities {
		if !d.taken(t, t.name) {
			d.entities = append(d.entities, t)
		}
	}
	maps.Copy(d.trust, trust)
}

// ListAddress makes the server's cluster list another URL for it than its real one, like a cluster with a
// network of its own.
func (s *Server) ListAddress(url string) { s.setMember(func(m *clusterMember) { m.listed = url }) }

// NameCertificate sets the name of the server's certificate in its cluster's trust store. Incus keeps the old
// name after a member was renamed.
func (s *Server) NameCertificate(name string) {
	s.setMember(func(m *clusterMember) { m.trusted = name })
}

func (s *Server) setMember(set func(*clusterMember)) {
	d := s.db()
	d.mu.Lock()
	defer d.mu.Unlock()
	set(d.member(s.options.Name))
}

// LeaveCertificate adds another certificate of type server to the trust store of the server's cluster. A failed
// join leaves one.
func (s *Server) LeaveCertificate(name string, certificate *x509.Certificate) {
	d := s.db()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leftover = append(d.leftover, serverCertificate(name, certificate))
}

// joinCluster makes a server a member of a cluster. New handshakes use the cluster's certificate. Open connections
// stay.
func (s *Server) joinCluster(d *daemon) {
	d.mu.Lock()
	if m := d.member(s.options.Name); m != nil {
		m.server = s
	} else {
		d.members = append(d.members, &clusterMember{server: s, name: s.options.Name, status: "Online"})
	}
	d.mu.Unlock()
	s.mu.Lock()
	s.incus = d
	s.endSessions()
	s.mu.Unlock()
}

// ClusterCertificate returns the certificate of the server's cluster, or nil if the cluster has none.
func (s *Server) ClusterCertificate() *tls.Certificate { return s.db().shared() }

func (s *Server) getServer(w http.ResponseWriter, r *http.Request) {
	trusted := s.isTrusted(r)
	d := s.db()
	certificate := d.shared()
	d.mu.Lock()
	clustered := d.clustered
	d.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	answer := map[string]any{"api_extensions": s.extensions(), "api_status": "stable",
		"api_version": "1.0", "auth": "untrusted", "public": false, "auth_methods": []string{"tls"}}
	if trusted {
		if certificate == nil {
			certificate = &s.identity
		}
		config := map[string]any{"core.https_address": s.address}
		for key, value := range s.state.config {
			config[key] = value
		}
		osName, osVersion := "IncusOS", s.state.version
		if s.options.Plain {
			osName, osVersion = "Debian GNU/Linux", "12"
		}
		answer["auth"], answer["auth_user_method"] = "trusted", "tls"
		answer["config"] = config
		answer["environment"] = map[string]any{"addresses": []string{s.address}, "architectures": []string{"x86_64", "i686"},
			"certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]})), "certificate_fingerprint": fingerprint(certificate.Leaf),
			"kernel": "Linux", "kernel_architecture": "x86_64", "os_name": osName, "os_version": osVersion,
			"server": "incus", "server_version": "7.3", "server_name": s.options.Name, "server_clustered": clustered, "project": "default"}
	}
	respond(w, answer)
}

func (s *Server) patchConfig(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Config map[string]any `json:"config"`
	}
	if !decode(w, r, &body) {
		return
	}
	s.mu.Lock()
	if s.state.config == nil {
		s.state.config = map[string]any{}
	}
	for key, value := range body.Config {
		s.state.config[key] = value
	}
	s.mu.Unlock()
	respond(w, nil)
}

func (s *Server) getCluster(w http.ResponseWriter, _ *http.Request) {
	d := s.db()
	d.mu.Lock()
	defer d.mu.Unlock()
	name := ""
	if d.clustered {
		name = s.options.Name
	}
	respond(w, map[string]any{"server_name": name, "enabled": d.clustered, "member_config": []any{}})
}

// joinToken is the content of a join token, which is JSON in base64.
type joinToken struct {
	ServerName  string    `json:"server_name"`
	Fingerprint string    `json:"fingerprint"`
	Addresses   []string  `json:"addresses"`
	Secret      string    `json:"secret"`
	ExpiresAt   time.Time `json:"expires_at"`
}

// joinable has the *daemon of each cluster of this process, by the secrets of its join tokens.
var joinable sync.Map

func (s *Server) postMembers(w http.ResponseWriter, r *http.Request) {
	var body struct {
		ServerName string `json:"server_name"`
	}
	if !decode(w, r, &body) {
		return
	}
	d := s.db()
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case !d.clustered:
		respondError(w, http.StatusBadRequest, "Server isn't clustered")
		return
	case d.member(body.ServerName) != nil:
		respondError(w, http.StatusConflict, "The cluster already has a member with name: %s", body.ServerName)
		return
	}
	secret := uuid.NewString()
	for old, name := range d.tokens {
		if name == body.ServerName {
			delete(d.tokens, old) // a name has one token at a time
			joinable.Delete(old)
		}
	}
	d.tokens[secret] = body.ServerName
	joinable.Store(secret, d)
	digest := ""
	if d.certificate != nil {
		digest = fingerprint(d.certificate.Leaf)
	}
	s.mu.Lock()
	address := s.address
	s.mu.Unlock()
	op := &operation{id: uuid.NewString(), description: "Executing token operation", location: s.options.Name, createdAt: time.Now(), done: make(chan struct{}),
		metadata: map[string]any{"serverName": body.ServerName, "secret": secret, "fingerprint": digest, "addresses": []string{address}, "expiresAt": time.Now().Add(3 * time.Hour)}}
	w.Header().Set("Location", "/1.0/operations/"+op.id)
	send(w, http.StatusAccepted, envelope{Type: "async", Status: "Operation created", StatusCode: 100, Operation: "/1.0/operations/" + op.id, Metadata: op.document()})
}

// putCluster bootstraps a cluster with this server, or joins the server to another cluster.
func (s *Server) putCluster(w http.ResponseWriter, r *http.Request) {
	var body struct {
		ServerName     string `json:"server_name"`
		Enabled        bool   `json:"enabled"`
		ServerAddress  string `json:"server_address"`
		ClusterAddress string `json:"cluster_address"`
		Certificate    string `json:"cluster_certificate"`
		Token          string `json:"cluster_token"`
	}
	if !decode(w, r, &body) {
		return
	}
	d := s.db()
	d.mu.Lock()
	clustered := d.clustered
	d.mu.Unlock()
	s.mu.Lock()
	address, _ := s.state.config["cluster.https_address"].(string)
	s.mu.Unlock()
	switch {
	case clustered:
		respondError(w, http.StatusBadRequest, "This server is already clustered")
		return
	case !body.Enabled || body.ServerName != s.options.Name:
		respondError(w, http.StatusBadRequest, "A simulated server needs its own name as its member name")
		return
	case body.Token == "":
		if address == "" {
			respondError(w, http.StatusBadRequest, "No cluster.https_address config key is set on this member")
			return
		}
		certificate, err := selfsigned.New("cluster-of-" + s.options.Name)
		if err != nil {
			respondError(w, http.StatusInternalServerError, "%v", err)
			return
		}
		s.begin(w, "Creating bootstrap node", s.options.EvacuateDelay, nil, func() string {
			d.mu.Lock()
			d.clustered, d.certificate = true, &certificate
			d.assignLocation(s.options.Name)
			d.mu.Unlock()
			s.mu.Lock()
			s.endSessions()
			s.mu.Unlock()
			d.save()
			return ""
		})
		return
	}
	data, err := base64.StdEncoding.DecodeString(body.Token)
	var token joinToken
	if err == nil {
		err = json.Unmarshal(data, &token)
	}
	found, ok := joinable.Load(token.Secret)
	if err != nil || !ok || body.Certificate == "" || body.ClusterAddress == "" {
		respondError(w, http.StatusBadRequest, "The join token, the cluster's certificate or its address is invalid")
		return
	}
	cluster := found.(*daemon)
	s.begin(w, "Joining cluster", s.options.EvacuateDelay, nil, func() string {
		cluster.mu.Lock()
		name, ok := cluster.tokens[token.Secret]
		delete(cluster.tokens, token.Secret)
		cluster.mu.Unlock()
		joinable.Delete(token.Secret)
		if !ok || name != body.ServerName {
			return "Provided certificate isn't correct"
		}
		s.joinCluster(cluster)
		cluster.save()
		return ""
	})
}

func (s *Server) getMembers(w http.ResponseWriter, r *http.Request) {
	d := s.db()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.clustered {
		respondError(w, http.StatusBadRequest, "Server isn't clustered")
		return
	}
	out := []any{}
	for _, m := range d.members {
		if r.URL.Query().Get("recursion") == "1" {
			out = append(out, d.document(m))
		} else {
			out = append(out, "/1.0/cluster/members/"+m.name)
		}
	}
	respond(w, out)
}

// voters is the number of members with a database role.
const voters = 3

// document returns the API's description of a member. d.mu is held.
func (d *daemon) document(m *clusterMember) map[string]any {
	status, message, url := m.status, "Fully operational", ""
	if m.server != nil {
		url = m.server.URL()
	}
	if m.listed != "" {
		url = m.listed
	}
	if m.server == nil || m.server.isDown() {
		status, message = "Offline", "No heartbeat"
	}
	var roles []string
	switch i := slices.Index(d.members, m); {
	case i == 0:
		roles = []string{"database-leader", "database"}
	case i < voters && len(d.members) >= voters:
		roles = []string{"database"}
	default:
		roles = []string{"database-standby"}
	}
	return map[string]any{"server_name": m.name, "url": url, "database": len(roles) > 0 && roles[0] != "database-standby",
		"status": status, "message": message, "architecture": "x86_64", "failure_domain": "default",
		"description": "", "config": map[string]any{}, "roles": roles, "groups": []string{"default"}}
}

// find returns a member. If there is none, it sends the error and returns nil. d.mu is held.
func (s *Server) find(w http.ResponseWriter, d *daemon, name string) *clusterMember {
	if !d.clustered {
		respondError(w, http.StatusBadRequest, "Server isn't clustered")
		return nil
	}
	m := d.member(name)
	if m == nil {
		respondError(w, http.StatusNotFound, "Cluster member not found")
	}
	return m
}

func (s *Server) getMember(w http.ResponseWriter, r *http.Request) {
	d := s.db()
	d.mu.Lock()
	defer d.mu.Unlock()
	if m := s.find(w, d, r.PathValue("name")); m != nil {
		respond(w, d.document(m))
	}
}

// deleteMember removes a member without instances. Its server is in no cluster from then on.
func (s *Server) deleteMember(w http.ResponseWriter, r *http.Request) {
	d := s.db()
	d.mu.Lock()
	m := s.find(w, d, r.PathValue("name"))
	if m == nil {
		d.mu.Unlock()
		return
	}
	force := r.URL.Query().Get("force") == "1" // Incus accepts no other value
	for _, i := range d.instances {
		if i.Location == m.name && !force {
			d.mu.Unlock()
			respondError(w, http.StatusBadRequest, "Cluster member still has the following instances: %s", i.Name)
			return
		}
	}
	if !force && (m.server == nil || m.server.isDown()) {
		d.mu.Unlock()
		respondError(w, http.StatusInternalServerError, "Failed to connect to cluster member %s", m.name)
		return
	}
	d.instances = slices.DeleteFunc(d.instances, func(i *Instance) bool { return i.Location == m.name })
	d.members = slices.DeleteFunc(d.members, func(other *clusterMember) bool { return other == m })
	d.mu.Unlock()
	d.save()
	if m.server != nil && !force {
		fresh := newDaemon(m.server, false)
		m.server.mu.Lock()
		m.server.incus = fresh
		clear(m.server.trusted) // the server is reset, and trusts no client
		m.server.endSessions()
		delete(m.server.state.config, "cluster.https_address")
		m.server.mu.Unlock()
	}
	respond(w, nil)
}
