package incusos

import (
	"crypto/tls"
	"encoding/binary"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// sessions keeps a TLS session for each server, so that only the first handshake is a full
// one. What crypto/tls would keep holds parsed certificates; here it is its bytes, 2 KiB or
// so for a server. Those that were not used the longest make room.
type sessions struct {
	mu  sync.Mutex
	lru *simplelru.LRU[uint64, []byte]
}

func newSessions(limit int) *sessions {
	lru, err := simplelru.NewLRU[uint64, []byte](limit, nil)
	if err != nil {
		panic(err) // the limit is positive
	}
	return &sessions{lru: lru}
}

func (s *sessions) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lru.Len()
}

func (s *sessions) get(key uint64) (*tls.ClientSessionState, bool) {
	s.mu.Lock()
	data, ok := s.lru.Get(key)
	s.mu.Unlock()
	if !ok {
		return nil, false
	}
	length, n := binary.Uvarint(data)
	ticket, state := data[n:n+int(length)], data[n+int(length):]
	parsed, err := tls.ParseSessionState(state)
	if err != nil {
		return nil, false
	}
	session, err := tls.NewResumptionState(ticket, parsed)
	return session, err == nil
}

func (s *sessions) put(key uint64, session *tls.ClientSessionState) {
	var data []byte
	if session != nil {
		if ticket, state, err := session.ResumptionState(); err == nil && state != nil {
			if encoded, err := state.Bytes(); err == nil {
				data = make([]byte, 0, binary.MaxVarintLen16+len(ticket)+len(encoded))
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

// sessionOf is the part of the cache that is one server's. It implements tls.ClientSessionCache.
type sessionOf struct {
	*sessions
	key uint64
}

func (s sessionOf) Get(string) (*tls.ClientSessionState, bool)    { return s.get(s.key) }
func (s sessionOf) Put(_ string, session *tls.ClientSessionState) { s.put(s.key, session) }
