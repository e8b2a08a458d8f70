package incusostest

import (
	"bytes"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

// Hostility is an attack of a registered server on the control plane. Unlike a Fault, it is intended: the server
// sends well-formed answers, as fast as the client reads them.
type Hostility string

const (
	// HostileLists sends 20 million objects in each list of the inventory.
	HostileLists Hostility = "endless lists"
	// HostileURLs sends an object over the size limit in each list of objects, and 20 million URLs in each list of URLs.
	HostileURLs Hostility = "endless lists of URLs"
	// HostileChurn sends 2,000 different objects in each list at each read, and events about them.
	HostileChurn Hostility = "churn"
	// HostileMembers sends objects with 50,000 members.
	HostileMembers Hostility = "50,000 members"
	// HostileLarge sends 1,000 objects of 400 KB in each list.
	HostileLarge Hostility = "1,000 objects of 400 KB"
	// HostileNames sends events with object names of 400 KB.
	HostileNames Hostility = "names of 400 KB"
	// HostileEvents sends endless events about different objects. Each of them exists, and differs at each read.
	HostileEvents Hostility = "a flood of events"
	// HostileFacts sends 16 MB in each part of the facts, different at each read.
	HostileFacts Hostility = "facts of 16 MB"
)

// Hostilities lists all attacks.
var Hostilities = []Hostility{HostileLists, HostileURLs, HostileChurn, HostileMembers, HostileLarge, HostileNames, HostileEvents, HostileFacts}

// Sizes of attacks.
const (
	hostileEntries = 20_000_000
	hostileName    = 400_000
	hostileFacts   = 16_000_000
	hostileChurn   = 2_000
)

// SetHostile makes the server perform these attacks, in place of earlier ones. Without arguments, it ends them.
// It closes open connections, so that it takes effect at once. It returns an error if the server can't listen.
func (s *Server) SetHostile(ways ...Hostility) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hostile = ways
	s.stopServing()
	return s.serve()
}

func (s *Server) isHostile(way Hostility) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.hostile, way)
}

// injectAttacks answers the requests that the server attacks.
func (s *Server) injectAttacks(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		peaceful := len(s.hostile) == 0
		s.mu.Unlock()
		if peaceful || r.Method != http.MethodGet || !s.attack(w, r) {
			next.ServeHTTP(w, r)
		}
	})
}

// large is a part of an object over the size limit.
var large = bytes.Repeat([]byte("x"), 32<<10)

// attack answers a request with an attack. It returns false if no attack applies.
func (s *Server) attack(w http.ResponseWriter, r *http.Request) bool {
	path, recursed := r.URL.Path, r.URL.Query().Has("recursion")
	collection, rest, _ := strings.Cut(strings.TrimPrefix(path, "/1.0/"), "/")
	listed := strings.HasPrefix(path, "/1.0/") && (collectionOf(collection) != nil || collection == "instances") && rest == ""
	single := !listed && (collectionOf(collection) != nil || collection == "instances") && !strings.Contains(rest, "/")
	switch {
	case s.isHostile(HostileFacts) && strings.HasPrefix(path, "/os/1.0/system/") && slices.Contains([]string{"resources", "network", "security", "storage"}, strings.TrimPrefix(path, "/os/1.0/system/")):
		s.sendFacts(w)
	case s.isHostile(HostileLists) && listed:
		pour(w, `[`, `]`, hostileEntries, func(out []byte, i int) []byte { return leastObject(out, collection, i) })
	case s.isHostile(HostileURLs) && listed && recursed:
		pour(w, `[{"name":"large","description":"`, `"}]`, 1000, func(out []byte, _ int) []byte {
			return append(out, large...)
		})
	case s.isHostile(HostileURLs) && listed:
		pour(w, `[`, `]`, hostileEntries, func(out []byte, i int) []byte {
			return append(strconv.AppendInt(append(append(append(out, `"/1.0/`...), collection...), "/n"...), int64(i), 10), '"')
		})
	case s.isHostile(HostileChurn) && listed:
		begin := int(time.Now().UnixMilli()) * hostileChurn
		pour(w, `[`, `]`, hostileChurn, func(out []byte, i int) []byte { return leastObject(out, collection, begin+i) })
	case s.isHostile(HostileMembers) && listed:
		pour(w, `[`, `]`, 100, func(out []byte, n int) []byte {
			out = append(strconv.AppendInt(append(out, `{"name":"n`...), int64(n), 10), '"')
			for i := range 50_000 {
				out = append(strconv.AppendInt(append(out, `,"m`...), int64(i), 10), `":1`...)
			}
			return append(out, '}')
		})
	case s.isHostile(HostileLarge) && listed:
		pour(w, `[`, `]`, 1000, func(out []byte, n int) []byte {
			out = append(strconv.AppendInt(append(out, `{"name":"n`...), int64(n), 10), `","description":"`...)
			for range 400_000 / len(large) {
				out = append(out, large...)
			}
			return append(out, `"}`...)
		})
	case s.isHostile(HostileEvents) && single:
		pour(w, ``, ``, 1, func(out []byte, _ int) []byte {
			return append(append(append(out, `{"name":"`...), rest...), `","description":"`+strconv.FormatInt(time.Now().UnixNano(), 10)+`"}`...)
		})
	case (s.isHostile(HostileNames) || s.isHostile(HostileEvents) || s.isHostile(HostileChurn)) && path == "/1.0/events":
		s.sendEvents(w, r)
	default:
		return false
	}
	return true
}

// leastObject appends the smallest valid object of a collection.
func leastObject(out []byte, collection string, i int) []byte {
	key := "name"
	if of := collectionOf(collection); of != nil {
		key = of.named
	}
	out = append(append(append(out, `{"`...), key...), `":"n`...)
	return append(strconv.AppendInt(out, int64(i), 10), `"}`...)
}

// pour sends an answer with n entries, piece by piece, without holding all of it in memory.
func pour(w http.ResponseWriter, begin, end string, n int, one func(out []byte, i int) []byte) {
	w.Header().Set("Content-Type", "application/json")
	out := []byte(`{"type":"sync","status":"Success","status_code":200,"metadata":` + begin)
	for i := range n {
		if i > 0 && begin != "" && begin[len(begin)-1] != '"' {
			out = append(out, ',')
		}
		if out = one(out, i); len(out) < 32<<10 && i < n-1 {
			continue
		}
		if _, err := w.Write(out); err != nil {
			return
		}
		out = out[:0]
	}
	_, _ = w.Write(append(out, end+"}"...))
}

// sendFacts sends a part of the facts for HostileFacts.
func (s *Server) sendFacts(w http.ResponseWriter) {
	begin := time.Now().UnixNano()
	pour(w, `{`, `}`, hostileFacts/100, func(out []byte, i int) []byte {
		out = append(strconv.AppendInt(append(out, `"m`...), int64(i), 10), `":"`...)
		return append(strconv.AppendInt(append(out, strings.Repeat("x", 70)...), begin+int64(i), 10), '"')
	})
}

// sendEvents sends events until the connection ends.
func (s *Server) sendEvents(w http.ResponseWriter, r *http.Request) {
	upgrader := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // Upgrade has sent the error
	}
	defer conn.Close()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.wait.Go(func() {
		for { // reading answers pings
			if _, _, err := conn.ReadMessage(); err != nil {
				return
			}
		}
	})
	s.mu.Unlock()
	stop := make(chan struct{})
	defer close(stop)
	s.wait.Go(func() {
		select {
		case <-s.ctx.Done():
			conn.Close()
		case <-stop:
		}
	})
	long := strings.Repeat("n", hostileName)
	for i := 0; ; i++ {
		name := "n" + strconv.Itoa(i)
		if s.isHostile(HostileNames) {
			name += long
		}
		at := time.Now().Format(time.RFC3339Nano)
		event := `{"type":"lifecycle","timestamp":"` + at + `","project":"default","location":"none","metadata":{"action":"profile-renamed","source":"/1.0/profiles/` + name +
			`","context":{"old_name":"` + name + `"},"requestor":{"username":"` + name[:min(len(name), 40_000)] + `","protocol":"tls"}}}`
		if s.isHostile(HostileEvents) || s.isHostile(HostileChurn) {
			event = `{"type":"lifecycle","timestamp":"` + at + `","project":"default","location":"none","metadata":{"action":"profile-updated","source":"/1.0/profiles/` + name + `"}}`
		}
		_ = conn.SetWriteDeadline(time.Now().Add(time.Minute))
		if conn.WriteMessage(websocket.TextMessage, []byte(event)) != nil {
			return
		}
	}
}
