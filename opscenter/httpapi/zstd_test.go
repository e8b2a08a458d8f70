package httpapi_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/storage"
)

// raw returns the body of an answer as it was sent, and its Content-Encoding.
func (p *plane) raw(client *http.Client, path, accepts string) (body []byte, encoding string) {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), "GET", p.url+path, nil)
	require.NoError(p.t, err)
	req.Header.Set("Accept-Encoding", accepts)
	resp, err := client.Do(req)
	require.NoError(p.t, err)
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	require.NoError(p.t, err)
	if resp.StatusCode == http.StatusOK {
		require.Equal(p.t, []string{"Accept-Encoding"}, resp.Header.Values("Vary"))
	}
	return body, resp.Header.Get("Content-Encoding")
}

func unpack(t testing.TB, data []byte) string {
	t.Helper()
	decoder, err := zstd.NewReader(nil)
	require.NoError(t, err)
	defer decoder.Close()
	out, err := decoder.DecodeAll(data, nil)
	require.NoError(t, err)
	return string(out)
}

// TestZstd: a client that takes zstd gets the same answers, and the stored facts as they are.
func TestZstd(t *testing.T) {
	p := start(t, nil)
	client := p.client(&p.operator)
	p.add(70, string(incusostest.Hardware(1)))
	for _, path := range []string{"/1.0/provisioning/servers/server0001", "/1.0/provisioning/servers?recursion=1", "/1.0/provisioning/servers?recursion=1&limit=3", "/1.0/provisioning/servers/none"} {
		plain, encoding := p.raw(client, path, "identity")
		require.Empty(t, encoding)
		require.True(t, json.Valid(plain), path)
		packed, encoding := p.raw(client, path, "gzip, zstd;q=0.5")
		require.Equal(t, "zstd", encoding, path)
		require.Equal(t, string(plain), unpack(t, packed), path)
		if path != "/1.0/provisioning/servers/none" {
			require.Less(t, len(packed), len(plain)/2, path)
		}
	}
	for _, accepts := range []string{"", "gzip", "zstd;q=0", "zstd; q=0.0", "zstdx", "*"} {
		_, encoding := p.raw(client, "/1.0/provisioning/servers/server0001", accepts)
		require.Empty(t, encoding, accepts)
	}
	for _, path := range []string{"/1.0/provisioning/servers", "/1.0/provisioning/servers?recursion=1&facts=0"} { // small, and without facts
		req, err := http.NewRequestWithContext(t.Context(), "GET", p.url+path, nil)
		require.NoError(t, err)
		req.Header.Set("Accept-Encoding", "zstd")
		resp, err := client.Do(req)
		require.NoError(t, err)
		resp.Body.Close()
		require.Empty(t, resp.Header.Get("Content-Encoding"), path)
	}
}

// TestUnreadableFactsHideNoServer: a server whose facts are damaged is listed without them.
func TestUnreadableFactsHideNoServer(t *testing.T) {
	p := start(t, nil)
	client := p.client(&p.operator)
	p.add(3, `{"cpu":{"total":64}}`)
	p.damageFacts("server0001")
	for _, accepts := range []string{"identity", "zstd"} {
		body, encoding := p.raw(client, "/1.0/provisioning/servers?recursion=1", accepts)
		if encoding == "zstd" {
			body = []byte(unpack(t, body))
		}
		var list struct {
			Metadata []map[string]any `json:"metadata"`
		}
		require.NoError(t, json.Unmarshal(body, &list))
		require.Len(t, list.Metadata, 3)
		for i, server := range list.Metadata {
			require.Equal(t, fmt.Sprintf("server%04d", i), server["name"])
			require.Contains(t, server, "os_data")
			_, known := server["hardware_data"]
			require.Equal(t, i != 1, known)
		}
	}
	require.Contains(t, p.log.String(), "facts can't be read")
}

// damageFacts changes the stored facts of a server.
func (p *plane) damageFacts(name string) {
	p.t.Helper()
	info, err := p.registry.Server(p.t.Context(), name)
	require.NoError(p.t, err)
	table := p.store.tables["facts"]
	require.NoError(p.t, p.store.Update(p.t.Context(), func(tx storage.WriteTx) error {
		row, err := tx.Get(table.Primary, storage.StringKey(info.ID))
		if err != nil {
			return err
		}
		data, err := json.Marshal(row)
		require.NoError(p.t, err)
		damaged := reflect.New(table.RowType().Elem())
		require.NoError(p.t, json.Unmarshal(data, damaged.Interface()))
		field := damaged.Elem().FieldByName("Data")
		bytes := slices.Clone(field.Bytes())
		bytes[len(bytes)/2] ^= 1
		field.SetBytes(bytes)
		return tx.Put(table, damaged.Interface())
	}))
}
