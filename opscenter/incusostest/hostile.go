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

// Hostility is a way for a registered server to attack the control plane that reads it. A Fault is what
// breaks; a Hostility is an intended attack. The server sends well-formed answers, as fast as the client reads them.
type Hostility string

const (
	// HostileLists: each list of the inventory has 20 million objects.
	HostileLists Hostility = "endless lists"
	// HostileURLs: each list of objects has one that is larger than is read, and the list of their URLs 20 million.
	HostileURLs Hostility = "endless lists of URLs"
	// HostileChurn: each list has 2,000 objects, others each time it is read, and an event tells of each.
	HostileChurn Hostility = "churn"
	// HostileMembers: each object has 50,000 members.
	HostileMembers Hostility = "50,000 members"
	// HostileLarge: each list has 1,000 objects of 400 KB.
	HostileLarge Hostility = "1,000 objects of 400 KB"
	// HostileNames: events name objects by 400 KB.
	HostileNames Hostility = "names of 400 KB"
	// HostileEvents: events name one object after the other, all of which exist, and are others each time.
	HostileEvents Hostility = "a flood of events"
	// HostileFacts: each part of the facts has 16 MB, others each time.
	HostileFacts Hostility = "facts of 16 MB"
)

// Hostilities lists all.
var Hostilities = []Hostility{HostileLists, HostileURLs, HostileChurn, HostileMembers, HostileLarge, HostileNames, HostileEvents, HostileFacts}

// Limits of what a hostile server sends.
const (
	hostileEntries = 20_000_000
	hostileName    = 400_000
	hostileFacts   = 16_000_000
	hostileChurn   = 2_000
)

// SetHostile makes the server attack in these ways, and in none without any. Connections are cut, so that it
// takes effect at once.
func (s *Server) SetHostile(ways ...Hostility) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hostile = ways
	s.hangUp()
	return s.serve()
}

func (s *Server) is(way Hostility) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.hostile, way)
}

// attacking answers requests as an attacker, where the server is one.
func (s *Server) attacking(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		calm := len(s.hostile) == 0
		s.mu.Unlock()
		if calm || r.Method != http.MethodGet || !s.attack(w, r) {
			next.ServeHTTP(w, r)
		}
	})
}

// large is a part of an object that is larger than is read.
var large = bytes.Repeat([]byte("x"), 32<<10)

// attack answers a request, unless the server does nothing hostile to it.
func (s *Server) attack(w http.ResponseWriter, r *http.Request) bool {
	path, recursed := r.URL.Path, r.URL.Query().Has("recursion")
	collection, rest, _ := strings.Cut(strings.TrimPrefix(path, "/1.0/"), "/")
	listed := strings.HasPrefix(path, "/1.0/") && (collectionOf(collection) != nil || collection == "instances") && rest == ""
	single := !listed && (collectionOf(collection) != nil || collection == "instances") && !strings.Contains(rest, "/")
	switch {
	case s.is(HostileFacts) && strings.HasPrefix(path, "/os/1.0/system/") && slices.Contains([]string{"resources", "network", "security", "storage"}, strings.TrimPrefix(path, "/os/1.0/system/")):
		s.sendFacts(w)
	case s.is(HostileLists) && listed:
		pour(w, `[`, `]`, hostileEntries, func(out []byte, i int) []byte { return leastObject(out, collection, i) })
	case s.is(HostileURLs) && listed && recursed:
		pour(w, `[{"name":"large","description":"`, `"}]`, 1000, func(out []byte, _ int) []byte {
			return append(out, large...)
		})
	case s.is(HostileURLs) && listed:
		pour(w, `[`, `]`, hostileEntries, func(out []byte, i int) []byte {
			return append(strconv.AppendInt(append(append(append(out, `"/1.0/`...), collection...), "/n"...), int64(i), 10), '"')
		})
	case s.is(HostileChurn) && listed:
		begin := int(time.Now().UnixMilli()) * hostileChurn
		pour(w, `[`, `]`, hostileChurn, func(out []byte, i int) []byte { return leastObject(out, collection, begin+i) })
	case s.is(HostileMembers) && listed:
		pour(w, `[`, `]`, 100, func(out []byte, n int) []byte {
			out = append(strconv.AppendInt(append(out, `{"name":"n`...), int64(n), 10), '"')
			for i := range 50_000 {
				out = append(strconv.AppendInt(append(out, `,"m`...), int64(i), 10), `":1`...)
			}
			return append(out, '}')
		})
	case s.is(HostileLarge) && listed:
		pour(w, `[`, `]`, 1000, func(out []byte, n int) []byte {
			out = append(strconv.AppendInt(append(out, `{"name":"n`...), int64(n), 10), `","description":"`...)
			for range 400_000 / len(large) {
				out = append(out, large...)
			}
			return append(out, `"}`...)
		})
	case s.is(HostileEvents) && single:
		pour(w, ``, ``, 1, func(out []byte, _ int) []byte {
			return append(append(append(out, `{"name":"`...), rest...), `","description":"`+strconv.FormatInt(time.Now().UnixNano(), 10)+`"}`...)
		})
	case (s.is(HostileNames) || s.is(HostileEvents) || s.is(HostileChurn)) && path == "/1.0/events":
		s.sendEvents(w, r)
	default:
		return false
	}
	return true
}

// leastObject writes the least that an object of a collection has.
func leastObject(out []byte, collection string, i int) []byte {
	key := "name"
	if of := collectionOf(collection); of != nil {
		key = of.named
	}
	out = append(append(append(out, `{"`...), key...), `":"n`...)
	return append(strconv.AppendInt(out, int64(i), 10), `"}`...)
}

// pour answers with what is made piece by piece, and held nowhere as a whole.
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
		return // it has answered
	}
	defer conn.Close()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.wait.Go(func() {
		for { // answers pings
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
		if s.is(HostileNames) {
			name += long
		}
		at := time.Now().Format(time.RFC3339Nano)
		event := `{"type":"lifecycle","timestamp":"` + at + `","project":"default","location":"none","metadata":{"action":"profile-renamed","source":"/1.0/profiles/` + name +
			`","context":{"old_name":"` + name + `"},"requestor":{"username":"` + name[:min(len(name), 40_000)] + `","protocol":"tls"}}}`
		if s.is(HostileEvents) || s.is(HostileChurn) {
			event = `{"type":"lifecycle","timestamp":"` + at + `","project":"default","location":"none","metadata":{"action":"profile-updated","source":"/1.0/profiles/` + name + `"}}`
		}
		_ = conn.SetWriteDeadline(time.Now().Add(time.Minute))
		if conn.WriteMessage(websocket.TextMessage, []byte(event)) != nil {
			return
		}
	}
}
