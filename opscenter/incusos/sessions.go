package incusos

import (
	"crypto/tls"
	"encoding/binary"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// sessions keeps a TLS session for each server, so that only the first handshake is a full
// one. What crypto/tls would keep holds parsed certificates; here it is its bytes, 1 KiB or
// so for a server. Those that were not used the longest make room.
//
// A session goes on as the server it was begun with, whatever certificate that has by now:
// after a while the server has to show its certificate once more.
type sessions struct {
	lifetime time.Duration
	mu       sync.Mutex
	lru      *simplelru.LRU[uint64, []byte] // 8 bytes of when it was proven, the ticket with its length, the state
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

// sessionOf is the part of the cache that is one server's, for one connection. It implements
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
