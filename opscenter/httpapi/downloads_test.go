package httpapi_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/updates"
)

// TestDownloadsAreBounded: a request without a place waits for one, and is refused in the end. A request beyond those that may wait is
// refused at once.
func TestDownloadsAreBounded(t *testing.T) {
	for name, limits := range map[string][2]int{"in all": {2, 10}, "to one address": {10, 2}} {
		t.Run(name, func(t *testing.T) {
			p := startFeed(t, func(o *httpapi.Options) {
				o.MaxDownloads, o.MaxDownloadsPerAddress, o.DownloadPatience, o.WriteTimeout = limits[0], limits[1], 2*time.Second, time.Minute
			})
			p.publish(t, incusostest.Release{Version: "202610010000", Size: 16 << 20, Applications: []string{"incus"}, NoOS: true})
			list := metadata[[]shownUpdate](t, p.call(p.client(nil), "GET", "/1.0/provisioning/updates?recursion=1", ""))
			path := "/1.0/provisioning/updates/" + list[0].UUID + "/files/x86_64/incus.raw.gz"
			slow := func() *http.Response { // reads nothing
				resp, err := p.client(nil).Get(p.url + path)
				require.NoError(t, err)
				require.Equal(t, 200, resp.StatusCode)
				return resp
			}
			one, two := slow(), slow()
			answers := make(chan int, 3)
			for range 3 { // two wait in vain, and the third may not wait
				go func() {
					resp, err := p.client(nil).Get(p.url + path)
					if err != nil {
						answers <- 0
						return
					}
					resp.Body.Close()
					answers <- resp.StatusCode
				}()
			}
			require.Equal(t, 503, <-answers)
			refused := time.Now()
			require.Equal(t, 503, <-answers)
			require.Greater(t, time.Since(refused), 300*time.Millisecond, "the third was refused at once, before those that waited")
			require.Equal(t, 503, <-answers)
			a := p.call(p.client(nil), "GET", path, "")
			require.Equal(t, 503, a.ErrorCode)
			require.NotEmpty(t, a.http.Header.Get("Retry-After"))
			require.Equal(t, 404, p.call(p.client(nil), "GET", path+"x", "").ErrorCode, "a missing file needs no place")
			// Unknown clients leave the places of operators and registered servers free.
			identity := newCertificate(t, "server")
			require.Equal(t, "sync", p.call(p.client(&identity), "POST", registerPath(p.token(1)), `{"name":"known","connection_url":"https://10.0.0.1:8443"}`).Type)
			for _, certificate := range []*tls.Certificate{&identity, &p.operator} {
				resp, err := p.client(certificate).Get(p.url + path)
				require.NoError(t, err)
				require.Equal(t, 200, resp.StatusCode)
				resp.Body.Close()
			}
			one.Body.Close()
			three := slow() // the place becomes free
			three.Body.Close()
			two.Body.Close()
		})
	}
}

// TestDownloadRate: all downloads together have a rate.
func TestDownloadRate(t *testing.T) {
	const rate = 4 << 20
	p := startFeed(t, func(o *httpapi.Options) { o.DownloadRate = rate })
	p.publish(t, incusostest.Release{Version: "202610010000", Size: 6 << 20, Applications: []string{"incus"}, NoOS: true})
	list := metadata[[]shownUpdate](t, p.call(p.client(nil), "GET", "/1.0/provisioning/updates?recursion=1", ""))
	begun := time.Now()
	resp, err := p.client(nil).Get(p.url + "/1.0/provisioning/updates/" + list[0].UUID + "/files/x86_64/incus.raw.gz")
	require.NoError(t, err)
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	// A second's worth comes at once.
	require.GreaterOrEqual(t, time.Since(begun).Seconds(), float64(n-rate)/rate*0.9)
}

// TestSlowServersGetWholeFiles: a file may take longer than Options.WriteTimeout, as long as the client reads on.
func TestSlowServersGetWholeFiles(t *testing.T) {
	p := startFeed(t, func(o *httpapi.Options) { o.WriteTimeout, o.DownloadRate = 300*time.Millisecond, 2<<20 })
	p.publish(t, incusostest.Release{Version: "202610010000", Size: 5 << 20, Applications: []string{"incus"}, NoOS: true})
	list := metadata[[]shownUpdate](t, p.call(p.client(nil), "GET", "/1.0/provisioning/updates?recursion=1", ""))
	resp, err := p.client(nil).Get(p.url + "/1.0/provisioning/updates/" + list[0].UUID + "/files/x86_64/incus.raw.gz")
	require.NoError(t, err)
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	require.Equal(t, resp.ContentLength, n)
}

// slowFiles are on a slow disk.
type slowFiles struct{ updates.Files }

func (s slowFiles) Open(ctx context.Context, sum string) (io.ReadSeekCloser, error) {
	file, err := s.Files.Open(ctx, sum)
	return slowFile{file}, err
}

type slowFile struct{ io.ReadSeekCloser }

func (s slowFile) Read(p []byte) (int, error) {
	time.Sleep(10 * time.Millisecond)
	return s.ReadSeekCloser.Read(p)
}

// memory returns the memory in use on the heap and on stacks, in bytes.
func memory() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// TestThousandServersFetch: a thousand servers in the middle of a file on a slow disk cost the memory of their connections, and none
// for the file. The control plane answers other requests meanwhile.
func TestThousandServersFetch(t *testing.T) {
	const servers, each = 1000, 400 << 10 // bytes of memory, at both ends of a connection
	p := startFeedOn(t, func(files updates.Files) updates.Files { return slowFiles{files} }, func(_ *feedPlane, o *httpapi.Options) { o.MaxDownloadsPerAddress = servers })
	p.publish(t, incusostest.Release{Version: "202610010000", Size: 4 << 20, Applications: []string{"incus"}, NoOS: true})
	u := p.feed.Snapshot().Updates()[0]
	url := p.url + "/1.0/provisioning/updates/" + u.UUID + "/files/" + u.Files[0].Filename
	clients := make([]*http.Client, servers)
	for i := range clients {
		clients[i] = p.client(nil)
		clients[i].Timeout = 0
	}
	before := memory()
	var begun, ended sync.WaitGroup
	goOn := make(chan struct{})
	handshakes := make(chan struct{}, 32) // at a time: a machine with two cores has its limit, too
	failures := make([]error, servers)
	begun.Add(servers)
	for i := range servers {
		ended.Go(func() {
			failures[i] = func() error {
				handshakes <- struct{}{}
				resp, err := clients[i].Get(url)
				<-handshakes
				if err != nil {
					begun.Done()
					return err
				}
				defer resp.Body.Close()
				sum := sha256.New()
				_, err = io.CopyN(sum, resp.Body, 256<<10)
				begun.Done()
				<-goOn
				if err != nil || i%250 > 0 {
					return err
				}
				if _, err = io.Copy(sum, resp.Body); err == nil && hex.EncodeToString(sum.Sum(nil)) != u.Files[0].SHA256 {
					err = errors.New("it is another file")
				}
				return err
			}()
		})
	}
	begun.Wait()
	grown := int64(memory()) - int64(before)
	t.Logf("%d KiB for each of %d servers", grown/servers>>10, servers)
	require.Less(t, grown, int64(servers*each))
	identity := newCertificate(t, "server")
	a := p.call(p.client(&identity), "POST", registerPath(p.token(1)), `{"name":"new","connection_url":"https://10.0.0.1:8443"}`)
	require.Equal(t, "sync", a.Type, a.Error)
	require.Equal(t, 200, p.call(p.client(nil), "GET", "/1.0/provisioning/updates?recursion=1", "").StatusCode)
	close(goOn)
	ended.Wait()
	for i, err := range failures {
		require.NoError(t, err, fmt.Sprint("server ", i))
	}
}
