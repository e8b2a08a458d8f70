package incusos_test

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/inventory"
)

// ReadList passes on the entries of a list, and returns an error for other answers.
func TestReadList(t *testing.T) {
	answer := ""
	status := http.StatusOK
	where := serveTLS(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	})
	client := newClient(t, incusos.Options{MaxObject: 1000})
	read := func() (out []string, err error) {
		err = client.ReadList(t.Context(), where, "/1.0/x", func(entry json.RawMessage) error {
			out = append(out, string(entry))
			return nil
		})
		return out, err
	}
	const head = `{"type":"sync","status":"Success","status_code":200,"operation":"","error_code":0,"error":"",`
	for text, want := range map[string][]string{
		`"metadata":[{"a": 1},2,"x"]}`:   {`{"a": 1}`, "2", `"x"`},
		`"metadata":[],"new":{"x":[1]}}`: nil,
		`"metadata":null}`:               nil,
	} {
		answer = head + text
		got, err := read()
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	many := strings.Repeat(`{"name":"`+strings.Repeat("x", 500)+`"},`, 5000)
	answer = head + `"metadata":[` + many + `{}]}`
	got, err := read()
	require.NoError(t, err, "MaxObject limits an entry, not the list")
	require.Len(t, got, 5001)
	for _, bad := range []string{head + `"metadata":{}}`, head + `"metadata":[1`, head + `"metadata":[1]`, head + `"x":1}`, `[]`, ``, `<html>`, `{"type":"async","metadata":[]}`} {
		answer = bad
		_, err := read()
		require.Error(t, err, bad)
		var refusal inventory.Refusal
		require.False(t, errors.As(err, &refusal), "%s: %v", bad, err)
	}
	answer = head + `"metadata":[{"x":"` + strings.Repeat("y", 3000) + `"}]}`
	_, err = read()
	require.ErrorIs(t, err, incusos.ErrBodyTooLarge)
	var refusal inventory.Refusal
	require.ErrorAs(t, err, &refusal, "the error counts as a refusal of this list")
	answer, status = `{"type":"error","error":"no such thing","error_code":404,"metadata":null}`, http.StatusNotFound
	_, err = read()
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, http.StatusNotFound, refusal.Status())
	require.ErrorContains(t, err, "no such thing")
	for _, text := range []string{"", `{"type":"error","error":"down"}`} { // the answer of a proxy, and an error without a code
		answer, status = text, http.StatusBadGateway
		_, err = read()
		require.ErrorAs(t, err, &refusal, text)
		require.Equal(t, http.StatusBadGateway, refusal.Status(), text)
	}
	answer, status = head+`"metadata":[1,2]}`, http.StatusOK
	stop := errors.New("enough")
	require.ErrorIs(t, client.ReadList(t.Context(), where, "/1.0/x", func(json.RawMessage) error { return stop }), stop)
}

// A stream has all events in the order in which the server sent them. It ends with its context, with the
// server's connection, and with Close.
func TestEvents(t *testing.T) {
	s, identity := boot(t, incusostest.Options{Name: "sim", Standalone: true})
	client := newClient(t, incusos.Options{Certificate: identity})
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := client.Events(ctx, target(s))
	require.NoError(t, err)
	for i := range 200 {
		s.Emit("profile-updated", fmt.Sprintf("/1.0/profiles/p%d", i))
	}
	for i := range 200 {
		e, err := stream.Next()
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("/1.0/profiles/p%d", i), e.Source)
		require.Equal(t, "profile-updated", e.Action)
		require.Equal(t, "tls/operator", e.Requestor)
		require.Equal(t, "default", e.Project)
	}
	cancel()
	_, err = stream.Next()
	require.Error(t, err)
	require.NoError(t, stream.Close())
	for _, end := range []func(inventory.Stream){func(inventory.Stream) { s.Cut() }, func(s inventory.Stream) { s.Close() }, func(inventory.Stream) { s.Crash() }} {
		stream, err := client.Events(t.Context(), target(s))
		require.NoError(t, err)
		ended := make(chan error, 1)
		go func() {
			_, err := stream.Next()
			ended <- err
		}()
		end(stream)
		select {
		case err := <-ended:
			require.Error(t, err)
		case <-time.After(10 * time.Second):
			t.Fatal("the stream does not end")
		}
		require.NoError(t, stream.Close())
	}
	_, err = client.Events(t.Context(), target(s))
	require.Error(t, err, "the server is down")
}

// Streams of servers that do not behave like Incus end with an error, and Events returns when its context ends.
func TestBrokenStreams(t *testing.T) {
	var upgrader websocket.Upgrader
	upgraded := func(use func(*websocket.Conn)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			conn, err := upgrader.Upgrade(w, r, nil)
			if err == nil {
				use(conn)
				conn.Close()
			}
		}
	}
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	silent := func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}
	compressed := func(w http.ResponseWriter, r *http.Request) {
		raw, buffer, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer raw.Close()
		_, _ = fmt.Fprintf(buffer, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n", accept(r.Header.Get("Sec-WebSocket-Key")))
		_ = buffer.Flush()
		<-release
	}
	client := newClient(t, incusos.Options{Timeout: 500 * time.Millisecond})
	for name, handler := range map[string]http.HandlerFunc{
		"refuses":       func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) },
		"never answers": silent,
		"never reads":   upgraded(func(*websocket.Conn) { <-release }),
		"compresses":    compressed,
		"hangs up":      upgraded(func(*websocket.Conn) {}),
	} {
		where := serveTLS(t, handler)
		begun := time.Now()
		_, err := client.Events(t.Context(), where)
		require.Error(t, err, name)
		require.Less(t, time.Since(begun), 20*time.Second, name)
		if name == "refuses" {
			var refusal inventory.Refusal
			require.ErrorAs(t, err, &refusal)
			require.Equal(t, http.StatusForbidden, refusal.Status())
		}
	}
	patient := newClient(t, incusos.Options{Timeout: time.Minute})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	begun := time.Now()
	_, err := patient.Events(ctx, serveTLS(t, silent))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(begun), 20*time.Second, "the deadline of a call is a minute")

	for _, bad := range []string{`{"type":"lifecycle"}`, `{"type":"lifecycle","metadata":{}}`, `nonsense`, `{"type":"lifecycle","metadata":7}`, `{"type":"lifecycle","metadata":{"action":"` + strings.Repeat("x", 2<<20) + `"}}`} {
		where := serveTLS(t, upgraded(func(conn *websocket.Conn) {
			_ = conn.WriteMessage(websocket.TextMessage, []byte(`{"type":"operation","metadata":{}}`))
			_ = conn.WriteMessage(websocket.TextMessage, []byte(`{"type":"lifecycle","metadata":{"action":"a","source":"/1.0/x"}}`))
			_ = conn.WriteMessage(websocket.TextMessage, []byte(bad))
			_, _, _ = conn.ReadMessage()
			<-release
		}))
		stream, err := newClient(t, incusos.Options{Timeout: 5 * time.Second}).Events(t.Context(), where)
		if err != nil {
			continue // the bad event arrived before the answer to the ping
		}
		e, err := stream.Next()
		require.NoError(t, err)
		require.Equal(t, "a", e.Action)
		_, err = stream.Next()
		require.Error(t, err, "an unreadable event ends the stream: %.60s", bad)
		require.NoError(t, stream.Close())
	}
}

// FuzzEvents parses events. Each valid lifecycle event must have an action.
func FuzzEvents(f *testing.F) {
	f.Add(`{"type":"lifecycle","metadata":{"action":"instance-renamed","source":"/1.0/instances/x","context":{"old_name":"y"},"requestor":{"username":"u","protocol":"tls"}},"project":"p"}`)
	f.Add(`{"type":"operation"}`)
	f.Add(`{}`)
	f.Fuzz(func(t *testing.T, text string) {
		e, err := incusos.ParseEvent([]byte(text))
		if err == nil && e != nil {
			require.NotEmpty(t, e.Action)
		}
	})
}

// accept returns the Sec-WebSocket-Accept value for a key.
func accept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
