package httpapi_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/image"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/seed"
	"github.com/opscenter-go/sdk/opscenter/updates"
)

// imagePlane is a control plane with a feed that makes images.
type imagePlane struct {
	*feedPlane
	audit *audit.Log
}

// startImages is a control plane that makes images, of a release for both architectures.
func startImages(t testing.TB, change func(*image.Options)) *imagePlane {
	t.Helper()
	p := &imagePlane{}
	p.feedPlane = startFeedOn(t, func(files updates.Files) updates.Files { return files }, func(plane *feedPlane, o *httpapi.Options) {
		store, err := image.NewStore(t.TempDir(), image.StoreOptions{Reserve: -1})
		require.NoError(t, err)
		p.audit, err = audit.New(plane.registry, audit.Options{})
		require.NoError(t, err)
		options := image.Options{ServerURL: plane.url, Certificate: plane.own.Leaf, Audit: p.audit}
		if change != nil {
			change(&options)
		}
		o.Images, err = image.New(plane.registry, plane.feed, store, options)
		require.NoError(t, err)
	})
	settings := p.feed.Settings()
	settings.FileFilter = "true" // of all architectures, though no server has one yet
	require.NoError(t, p.feed.SetSettings(t.Context(), settings, nil))
	p.publish(t, incusostest.Release{Version: "202610010000", ISO: true, Architectures: []string{updates.ArchitectureX8664, updates.ArchitectureAArch64}})
	return p
}

const labSeeds = `{"install":{"version":"1","force_reboot":true},"applications":{"version":"1","applications":[{"name":"incus-lts-7.0"}]},"network":{"version":"1","dns":{"hostname":"server01"}}}`

// seedIn reads the seed of an image.
func seedIn(t testing.TB, data []byte) *seed.Seed {
	t.Helper()
	layout, err := image.ReadLayout(bytes.NewReader(data))
	require.NoError(t, err)
	s, err := seed.Read(bytes.NewReader(data[layout.SeedOffset : layout.SeedOffset+layout.SeedSize]))
	require.NoError(t, err)
	require.NotNil(t, s)
	return s
}

func (p *imagePlane) download(t testing.TB, client *http.Client, path string, header ...string) (*http.Response, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", p.url+path, nil)
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := client.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, data
}

// TestSeedsByREST: an operator works with seeds and images as the command line of Operations Center does.
func TestSeedsByREST(t *testing.T) {
	p := startImages(t, nil)
	operator := p.client(&p.operator)
	token := p.token(2)
	at := "/1.0/provisioning/tokens/" + token
	made := p.call(operator, "POST", at+"/seeds", `{"name":"lab","description":"of the lab","public":false,"seeds":`+labSeeds+`}`)
	require.Equal(t, 201, made.http.StatusCode, made.Error)
	require.Equal(t, at+"/seeds/lab", made.http.Header.Get("Location"))
	require.Equal(t, []string{at + "/seeds/lab"}, metadata[[]string](t, p.call(operator, "GET", at+"/seeds", "")))
	list := metadata[[]map[string]any](t, p.call(operator, "GET", at+"/seeds?recursion=1", ""))
	require.Equal(t, token, list[0]["token_uuid"])
	require.Equal(t, "of the lab", list[0]["description"])
	shown := p.call(operator, "GET", at+"/seeds/lab", "")
	tag := shown.http.Header.Get("ETag")
	require.JSONEq(t, labSeeds, string(metadata[map[string]json.RawMessage](t, shown)["seeds"]))
	for _, c := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"POST", "/seeds", `{"name":"lab"}`, 409, "in use"},
		{"POST", "/seeds", `{"name":"a/b"}`, 400, ""},
		{"POST", "/seeds", `{"name":"x","seeds":{"network":{"ntp":{}}}}`, 400, "network: ntp: there is no such field: NTP servers are time.ntp_servers"},
		{"POST", "/seeds", `{"name":"x","seeds":{"install":{"security":{"missing_tpm":true,"missing_secure_boot":true}}}}`, 400, "exclude each other"},
		{"POST", "/seeds", `{"name":"x","seeds":{"provider":{"name":"images"}}}`, 400, "the control plane"},
		{"POST", "/seeds", `{"name":"x","seeds":{"passwords":{}}}`, 400, "passwords"},
		{"POST", "/seeds", `{"name":"x","seeds":{"passwords":null}}`, 400, "passwords"},
		{"POST", "/seeds", `{"name":"x","seeds":{"migration-manager":{}}}`, 400, "migration-manager"},
		{"PUT", "/seeds/lab", `{"name":"other"}`, 400, "name can't be changed"},
		{"POST", "/seeds", `{"name":"x","public":true}`, 403, "switched off"},
		{"PUT", "/seeds/lab", `{"seeds":{"install":{"target":{"max_size":"1GiB"}}}}`, 400, "50 GiB"},
		{"PUT", "/seeds/none", `{}`, 404, ""},
		{"GET", "/seeds/lab?type=floppy", "", 400, `type "floppy" is no kind of image: iso or raw is wanted`},
		{"GET", "/seeds/lab?compressed=1", "", 400, "type is missing"},
		{"GET", "/seeds/lab?type=iso&architecture=riscv64", "", 400, "riscv64"},
		{"GET", "/seeds/lab?type=iso&channel=nowhere", "", 404, "nowhere"},
		{"GET", "/seeds/none?type=iso", "", 404, ""},
		{"POST", "/image", `{"type":"raw","architecture":"x86_64","seeds":{"applications":{"applications":[{"name":"gpu-support"}]}}}`, 412, "gpu-support"},
	} {
		a := p.call(operator, c.method, at+c.path, c.body)
		require.Equal(t, c.status, a.ErrorCode, "%s %s %s", c.method, c.path, a.Error)
		require.Contains(t, a.Error, c.says)
	}
	require.JSONEq(t, labSeeds, string(metadata[map[string]json.RawMessage](t, p.call(operator, "GET", at+"/seeds/lab", ""))["seeds"]), "the refused requests changed nothing")

	// A client whose structs have all fields sends them without values.
	zero := p.call(operator, "POST", at+"/seeds?", `{"name":"zero","description":"","public":false,"seeds":{"applications":{"applications":null,"version":""},"install":{"version":"","force_install":false,"force_reboot":false,"security":null,"target":null},`+
		`"migration_manager":{"version":"","trusted_client_certificates":null,"apply_defaults":false,"preseed":null},"network":{"dns":null,"time":null,"proxy":null,"interfaces":null,"version":""},"operations_center":null}}`)
	require.Equal(t, 201, zero.http.StatusCode, zero.Error)
	_, plain := p.download(t, operator, at+"/seeds/zero?type=raw")
	require.Equal(t, []string{"incus"}, seedIn(t, plain).Applications.Names())
	require.Equal(t, seed.Version("1"), seedIn(t, plain).Install.Version)
	require.Equal(t, 200, p.call(operator, "DELETE", at+"/seeds/zero", "").StatusCode)

	// Images of each kind, whole and in parts.
	for _, kind := range []string{image.Raw, image.ISO} {
		for _, architecture := range []string{updates.ArchitectureX8664, updates.ArchitectureAArch64} {
			path := fmt.Sprintf("%s/seeds/lab?type=%s&architecture=%s", at, kind, architecture)
			resp, data := p.download(t, operator, path)
			require.Equal(t, 200, resp.StatusCode)
			require.EqualValues(t, len(data), resp.ContentLength)
			require.Empty(t, resp.Header.Get("Content-Encoding"))
			require.Equal(t, `attachment; filename=pre-seed-lab.`+map[string]string{image.Raw: "img", image.ISO: "iso"}[kind], resp.Header.Get("Content-Disposition"))
			require.Contains(t, string(data), "IncusOS 202610010000 "+architecture)
			s := seedIn(t, data)
			require.Equal(t, "server01", s.Network.DNS.Hostname)
			require.Equal(t, "incus-lts-7.0", s.Applications.Primary())
			require.False(t, s.Incus.ApplyDefaults)
			require.Equal(t, seed.ManagedUpdate("stable").Channel, s.Update.Channel)
			require.Equal(t, token, string(s.Provider.Config[seed.ConfigServerToken]))
			require.Equal(t, p.url, string(s.Provider.Config[seed.ConfigServerURL]))
			part, middle := p.download(t, operator, path, "Range", "bytes=1000000-1400000", "If-Range", resp.Header.Get("ETag"))
			require.Equal(t, 206, part.StatusCode)
			require.True(t, bytes.Equal(data[1000000:1400001], middle))
			packed, small := p.download(t, operator, path+"&compressed=1", "Accept-Encoding", "identity")
			require.Equal(t, 200, packed.StatusCode)
			require.Equal(t, "application/gzip", packed.Header.Get("Content-Type"))
			require.Contains(t, packed.Header.Get("Content-Disposition"), ".gz")
			require.Less(t, len(small), len(data)/2)
			plain, err := gzip.NewReader(bytes.NewReader(small))
			require.NoError(t, err)
			unpacked, err := io.ReadAll(plain)
			require.NoError(t, err)
			require.True(t, bytes.Equal(data, unpacked))
			same, _ := p.download(t, operator, path, "If-None-Match", resp.Header.Get("ETag"))
			require.Equal(t, 304, same.StatusCode)
		}
	}
	// Another seed is another image.
	require.Equal(t, 200, p.call(operator, "PUT", at+"/seeds/lab", `{"description":"of all labs"}`, "If-Match", tag).StatusCode)
	require.Equal(t, 412, p.call(operator, "PUT", at+"/seeds/lab", `{"description":"of none"}`, "If-Match", tag).ErrorCode)
	before, _ := p.download(t, operator, at+"/seeds/lab?type=raw")
	require.Equal(t, 200, p.call(operator, "PUT", at+"/seeds/lab", `{"seeds":{}}`).StatusCode)
	after, data := p.download(t, operator, at+"/seeds/lab?type=raw", "Range", "bytes=0-", "If-Range", before.Header.Get("ETag"))
	require.Equal(t, 200, after.StatusCode, "not the rest of another image")
	require.Nil(t, seedIn(t, data).Install)
	require.Equal(t, "incus", seedIn(t, data).Applications.Primary())

	// A prepared image is fetched repeatedly, in parts.
	prepared := p.call(operator, "POST", at+"/image", `{"type":"iso","architecture":"aarch64","seeds":`+labSeeds+`}`)
	require.Equal(t, 200, prepared.StatusCode, prepared.Error)
	where := metadata[map[string]string](t, prepared)["image"]
	require.Equal(t, where, prepared.http.Header.Get("Location"))
	for range 2 {
		resp, data := p.download(t, operator, where)
		require.Equal(t, 200, resp.StatusCode)
		require.True(t, seedIn(t, data).Install.ForceReboot)
	}
	provider := p.call(operator, "GET", at+"/provider-config", "")
	require.Contains(t, string(provider.Metadata), token)
	// The audit log has each image, once for all its parts, and no token.
	entries, err := p.audit.List(t.Context(), audit.Query{Limit: 100})
	require.NoError(t, err)
	said := ""
	count := 0
	for _, e := range entries.Entries {
		if e.Action == "image.make" {
			count++
			said += e.Detail + "\n"
		}
	}
	require.Equal(t, 7, count, said)
	require.Contains(t, said, "iso image of 202610010000 for aarch64, seed lab of")
	require.NotContains(t, said, token)

	// Only operators get images of a token, and only of a usable one.
	for _, path := range []string{at + "/seeds", at + "/seeds/lab", at + "/seeds/lab?type=iso", where, at + "/provider-config"} {
		require.Equal(t, 401, p.call(p.client(nil), "GET", path, "").ErrorCode, path)
	}
	require.NoError(t, p.registry.EditToken(t.Context(), token, func(_ *opscenter.Token, spec *opscenter.TokenSpec) error { spec.Uses = 0; return nil }))
	for _, path := range []string{at + "/seeds/lab?type=iso", where, at + "/provider-config"} {
		a := p.call(operator, "GET", path, "")
		require.Equal(t, 403, a.ErrorCode, path)
		require.Contains(t, a.Error, "no uses left")
	}
	require.Equal(t, 412, p.call(operator, "DELETE", at+"/seeds/lab", "", "If-Match", tag).ErrorCode)
	require.Equal(t, 200, p.call(operator, "DELETE", at+"/seeds/lab", "").StatusCode)
	require.Equal(t, 404, p.call(operator, "GET", at+"/seeds/lab", "").ErrorCode)
	require.NotContains(t, p.log.String(), token)
}

// TestPublicSeeds: a stranger gets an image of a public seed by its random name alone.
func TestPublicSeeds(t *testing.T) {
	p := startImages(t, func(o *image.Options) { o.Public = true })
	operator, stranger := p.client(&p.operator), p.client(nil)
	token := p.token(1)
	at := "/1.0/provisioning/tokens/" + token
	made := p.call(operator, "POST", at+"/seeds", `{"name":"lab","public":true,"seeds":`+labSeeds+`}`)
	require.Equal(t, 201, made.http.StatusCode, made.Error)
	public := metadata[map[string]json.RawMessage](t, made)["public_path"]
	path, err := strconv.Unquote(string(public))
	require.NoError(t, err)
	require.NotContains(t, path, token)
	resp, data := p.download(t, stranger, path+"?type=raw")
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, "server01", seedIn(t, data).Network.DNS.Hostname)
	require.Equal(t, 401, p.call(stranger, "GET", at+"/seeds/lab?type=raw", "").ErrorCode, "not by the token")
	require.Equal(t, 404, p.call(stranger, "GET", "/1.0/provisioning/images/lab?type=raw", "").ErrorCode)
	require.Equal(t, 400, p.call(stranger, "GET", path, "").ErrorCode)
	for _, more := range []string{"&channel=testing", "&compressed=1"} {
		require.Equal(t, 400, p.call(stranger, "GET", path+"?type=raw"+more, "").ErrorCode, "an unknown client may not choose that")
	}
	entries, err := p.audit.List(t.Context(), audit.Query{Action: "image.make"})
	require.NoError(t, err)
	require.Contains(t, entries.Entries[0].Detail, "public, to 127.0.0.1")
	require.Equal(t, 200, p.call(operator, "PUT", at+"/seeds/lab", `{"public":false}`).StatusCode)
	require.Equal(t, 404, p.call(stranger, "GET", path+"?type=raw", "").ErrorCode)
	name := strings.TrimPrefix(path, "/1.0/provisioning/images/")
	require.NotContains(t, p.log.String(), name)
	require.NotContains(t, p.log.String(), token)
}

// TestManyImages: two hundred different images at a time cost one base, and their connections.
func TestManyImages(t *testing.T) {
	const images, each = 200, 400 << 10
	p := startImages(t, nil)
	operator := p.client(&p.operator)
	token := p.token(images)
	at := "/1.0/provisioning/tokens/" + token
	for i := range 50 {
		a := p.call(operator, "POST", at+"/seeds", fmt.Sprintf(`{"name":"s%d","seeds":{"network":{"dns":{"hostname":"server%d"}}}}`, i, i))
		require.Equal(t, 201, a.http.StatusCode, a.Error)
	}
	before := memory()
	var ready, ended sync.WaitGroup
	goOn := make(chan struct{})
	ready.Add(images)
	tags := make([]string, images)
	for i := range images {
		ended.Go(func() {
			kind := []string{image.Raw, image.ISO}[i/50%2]
			architecture := []string{updates.ArchitectureX8664, updates.ArchitectureAArch64}[i/100]
			client := p.client(&p.operator)
			client.Timeout = time.Minute
			resp, err := client.Get(fmt.Sprintf("%s%s/seeds/s%d?type=%s&architecture=%s", p.url, at, i%50, kind, architecture))
			if err != nil {
				ready.Done()
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			first, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
			ready.Done()
			<-goOn
			if err != nil || resp.StatusCode != 200 {
				t.Error(resp.StatusCode, err)
				return
			}
			tags[i] = resp.Header.Get("ETag")
			rest, err := io.ReadAll(resp.Body)
			if err != nil || int64(len(first)+len(rest)) != resp.ContentLength || !bytes.Contains(rest, fmt.Appendf(nil, `"server%d"`, i%50)) {
				t.Error("another image", i, err)
			}
		})
	}
	ready.Wait()
	grown := int64(memory()) - int64(before)
	t.Logf("%d KiB for each of %d images", grown/images>>10, images)
	require.Less(t, grown, int64(images*each))
	close(goOn)
	ended.Wait()
	seen := map[string]bool{}
	for _, tag := range tags {
		seen[tag] = true
	}
	require.Len(t, seen, images)
}

// TestPartsOfOneImage: a client gets parts of one image, or an error if another image was published meanwhile.
func TestPartsOfOneImage(t *testing.T) {
	p := startImages(t, nil)
	operator := p.client(&p.operator)
	token := p.token(1)
	at := "/1.0/provisioning/tokens/" + token
	require.Equal(t, 201, p.call(operator, "POST", at+"/seeds", `{"name":"lab","seeds":`+labSeeds+`}`).http.StatusCode)
	prepared := metadata[map[string]string](t, p.call(operator, "POST", at+"/image", `{"type":"raw","architecture":"x86_64","seeds":`+labSeeds+`}`))["image"]
	named := at + "/seeds/lab?type=raw"
	_, whole := p.download(t, operator, prepared)
	resp, first := p.download(t, operator, named, "Range", "bytes=0-999999")
	require.Equal(t, 206, resp.StatusCode)
	resp, rest := p.download(t, operator, named, "Range", "bytes=1000000-")
	require.Equal(t, 206, resp.StatusCode)
	require.True(t, bytes.Equal(whole[:1000000], first))
	require.True(t, bytes.Equal(whole[1000000:], rest))
	p.publish(t, incusostest.Release{Version: "202610020000", ISO: true})
	head, err := http.NewRequestWithContext(t.Context(), "HEAD", p.url+named, nil)
	require.NoError(t, err)
	headed, err := operator.Do(head)
	require.NoError(t, err)
	headed.Body.Close()
	for _, part := range []string{"bytes=1000000-", "bytes=0-99", "bytes=1000000-"} {
		resp, rest = p.download(t, operator, named, "Range", part)
		require.Equal(t, 412, resp.StatusCode, string(rest))
	}
	require.Contains(t, string(rest), "fetch it from its beginning")
	resp, rest = p.download(t, operator, prepared, "Range", "bytes=1000000-")
	require.Equal(t, 206, resp.StatusCode, "a prepared image does not change")
	require.True(t, bytes.Equal(whole[1000000:], rest))
	_, newer := p.download(t, operator, named)
	require.Contains(t, string(newer), "IncusOS 202610020000")
	resp, _ = p.download(t, operator, named, "Range", "bytes=1000000-")
	require.Equal(t, 206, resp.StatusCode)
	// The channel that the server will follow is the one that must have its application.
	require.NoError(t, p.registry.Channels().Create(t.Context(), "empty", ""))
	a := p.call(operator, "POST", at+"/image", `{"type":"raw","seeds":{"update":{"channel":"empty"}}}`)
	require.Equal(t, 404, a.ErrorCode)
	require.Contains(t, a.Error, "channel empty offers no release that the server could fetch its applications of")
	// The settings that an update seed leaves out are those of a managed server.
	require.Equal(t, 201, p.call(operator, "POST", at+"/seeds", `{"name":"part","seeds":{"update":{"auto_reboot":true}}}`).http.StatusCode)
	_, data := p.download(t, operator, at+"/seeds/part?type=raw")
	update := seedIn(t, data).Update
	require.Equal(t, []any{true, "stable", "never"}, []any{update.AutoReboot, update.Channel, update.CheckFrequency})
}
