package httpapi_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/httpapi"
)

// TestListsAreStreamed: a long list begins at once, and is not held in memory.
func TestListsAreStreamed(t *testing.T) {
	p := start(t, nil)
	const fleet = 1000
	hardware := fmt.Sprintf(`{"x":%q}`, strings.Repeat("0123456789abcdef", 2560)) // 40 KiB
	p.add(fleet, hardware)
	req, err := http.NewRequestWithContext(t.Context(), "GET", p.url+"/1.0/provisioning/servers?recursion=1", nil)
	require.NoError(t, err)
	client := p.client(&p.operator)
	before := heap()
	begun := time.Now()
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	first := make([]byte, 1)
	_, err = io.ReadFull(resp.Body, first)
	require.NoError(t, err)
	toFirst := time.Since(begun)
	// Read a part, and measure the memory that the server holds meanwhile.
	_, err = io.CopyN(io.Discard, resp.Body, 5<<20)
	require.NoError(t, err)
	grown := heap() - before
	n, err := io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	total := time.Since(begun)
	require.Greater(t, n, int64(30<<20))
	t.Logf("%d MiB: first byte after %s, all after %s, heap grown by %d KiB in the middle", (n+5<<20)>>20, toFirst, total, grown>>10)
	require.Less(t, grown, int64(16<<20), "no second copy of the fleet, which is 40 MiB")
	require.Less(t, toFirst, total/4, "the first byte does not wait for the last server")
}

// TestSlowReadersGetWholeLists: a slow client gets the whole list, also after the time for bodies.
func TestSlowReadersGetWholeLists(t *testing.T) {
	p := start(t, func(o *httpapi.Options) { o.ReadTimeout = 100 * time.Millisecond })
	p.add(300, fmt.Sprintf(`{"x":%q}`, strings.Repeat("0123456789abcdef", 2560)))
	req, err := http.NewRequestWithContext(t.Context(), "GET", p.url+"/1.0/provisioning/servers?recursion=1", nil)
	require.NoError(t, err)
	resp, err := p.client(&p.operator).Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	begun := time.Now()
	var text bytes.Buffer
	for range 10 {
		_, err = io.CopyN(&text, resp.Body, 1<<20)
		require.NoError(t, err)
		time.Sleep(50 * time.Millisecond) // the client is slow
	}
	_, err = io.Copy(&text, resp.Body)
	require.NoError(t, err)
	require.Greater(t, time.Since(begun), 400*time.Millisecond)
	var a answer
	require.NoError(t, json.Unmarshal(text.Bytes(), &a))
}

// TestABrokenListIsNotWhole: an error in the middle of a list cuts the connection, so that half a list does not look whole.
func TestABrokenListIsNotWhole(t *testing.T) {
	p := start(t, nil)
	p.add(200, fmt.Sprintf(`{"x":%q}`, strings.Repeat("0123456789abcdef", 2560)))
	req, err := http.NewRequestWithContext(t.Context(), "GET", p.url+"/1.0/provisioning/servers?recursion=1", nil)
	require.NoError(t, err)
	resp, err := p.client(&p.operator).Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	_, err = io.ReadFull(resp.Body, make([]byte, 1000))
	require.NoError(t, err)
	require.NoError(t, p.registry.Store().Close())
	_, err = io.ReadAll(resp.Body)
	require.Error(t, err)
	require.True(t, errors.Is(err, io.ErrUnexpectedEOF), "%v", err)
	require.Equal(t, 503, p.call(p.client(&p.operator), "GET", "/1.0/provisioning/servers", "").ErrorCode)
}
