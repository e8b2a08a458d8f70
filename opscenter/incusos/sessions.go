package incusos

import (
	"crypto/tls"
	"encoding/binary"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// sessions keeps one TLS session for each server, so that only the first handshake is a full one. It
// stores encoded sessions of about 1 KiB. Those of crypto/tls are larger, as they hold parsed
// certificates. A full cache drops the least recently used session.
//
// A resumed session does not show the server's current certificate. So a session is valid for lifetime
// after its full handshake, and the server has to present its certificate again after that.
type sessions struct {
	lifetime time.Duration
	mu       sync.Mutex
	lru      *simplelru.LRU[uint64, []byte] // values: time of the full handshake (8 bytes), length of the ticket, ticket, state
}

func newSessions(limit int, lifetime time.Duration) *sessions {
	lru, err := simplelru.NewLRU[uint64, []byte](limit, nil)
	if err != nil {
		panic(err) // the limit is positive
	}
	return &sessions{lru: lru, lifetime: lifetime}
}

func (s *sessions) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lru.Len()
}

// get returns the session of a server, and the time of its full handshake; nil if there is no valid one.
func (s *sessions) get(key uint64) (session *tls.ClientSessionState, proven time.Time) {
	s.mu.Lock()
	data, ok := s.lru.Get(key)
	s.mu.Unlock()
	if !ok || len(data) < 9 {
		return nil, time.Time{}
	}
	proven = time.Unix(0, int64(binary.BigEndian.Uint64(data)))
	if age := time.Since(proven); age < 0 || age >= s.lifetime {
		return nil, time.Time{}
	}
	data = data[8:]
	length, n := binary.Uvarint(data)
	if n <= 0 || length > uint64(len(data)-n) {
		return nil, time.Time{}
	}
	ticket, state := data[n:n+int(length)], data[n+int(length):]
	parsed, err := tls.ParseSessionState(state)
	if err != nil {
		return nil, time.Time{}
	}
	if session, err = tls.NewResumptionState(ticket, parsed); err != nil {
		return nil, time.Time{}
	}
	return session, proven
}

// put stores the session of a server. A nil session removes it.
func (s *sessions) put(key uint64, session *tls.ClientSessionState, proven time.Time) {
	var data []byte
	if session != nil {
		if ticket, state, err := session.ResumptionState(); err == nil && state != nil {
			if encoded, err := state.Bytes(); err == nil {
				data = make([]byte, 0, 8+binary.MaxVarintLen16+len(ticket)+len(encoded))
				data = binary.BigEndian.AppendUint64(data, uint64(proven.UnixNano()))
				data = binary.AppendUvarint(data, uint64(len(ticket)))
				data = append(append(data, ticket...), encoded...)
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if data == nil {
		s.lru.Remove(key)
		return
	}
	s.lru.Add(key, data)
}

// sessionOf is the view of the cache for one connection to one server. It implements
// tls.ClientSessionCache.
type sessionOf struct {
	*sessions
	key  uint64
	conn *conn
}

func (s sessionOf) Get(string) (*tls.ClientSessionState, bool) {
	session, proven := s.get(s.key)
	s.conn.proven = proven
	return session, session != nil
}

func (s sessionOf) Put(_ string, session *tls.ClientSessionState) {
	proven := s.conn.proven
	if proven.IsZero() {
		proven = time.Now()
	}
	s.put(s.key, session, proven)
}
