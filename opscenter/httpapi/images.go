package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/image"
	"github.com/opscenter-go/sdk/opscenter/seed"
)

// errNoImages: Options.Images is not set.
var errNoImages = errors.New("this control plane makes no images, as it has no update feed to make them of")

// seedFiles are the files of a seed, by their names with underscores, as Operations Center has them.
type seedFiles map[string]json.RawMessage

// files returns the files by the names that they have in an archive.
func (s seedFiles) files() (map[string]json.RawMessage, error) {
	out := map[string]json.RawMessage{}
	for name, data := range s {
		file := strings.ReplaceAll(name, "_", "-")
		if !slices.Contains(seed.Files, file) || strings.Contains(name, "-") {
			return nil, fmt.Errorf("%w: seeds.%.40s: there is no such seed, these are: %s", errBody, name, strings.ReplaceAll(strings.Join(seed.Files, ", "), "-", "_"))
		}
		if string(data) != "null" {
			out[file] = data
		}
	}
	return out, nil
}

func showFiles(files map[string]json.RawMessage) seedFiles {
	out := seedFiles{}
	for name, data := range files {
		out[strings.ReplaceAll(name, "-", "_")] = data
	}
	return out
}

// seedPut holds the fields of a seed that an operator edits.
type seedPut struct {
	Description string    `json:"description"`
	Public      bool      `json:"public"`
	Seeds       seedFiles `json:"seeds"`
}

func (p seedPut) spec() (opscenter.TokenSeedSpec, error) {
	files, err := p.Seeds.files()
	return opscenter.TokenSeedSpec{Description: p.Description, Public: p.Public, Files: files}, err
}

// shownSeed is the document of a seed.
type shownSeed struct {
	seedPut
	Name        string    `json:"name"`
	TokenUUID   string    `json:"token_uuid"`
	LastUpdated time.Time `json:"last_updated"`
	// PublicPath is the path of images of a public seed, which needs no authentication.
	PublicPath string `json:"public_path,omitempty"`
}

func showSeed(s *opscenter.TokenSeed) shownSeed {
	out := shownSeed{seedPut: seedPut{s.Description, s.Public != "", showFiles(s.Files)}, Name: s.Name, TokenUUID: s.Token, LastUpdated: s.LastUpdated}
	if s.Public != "" {
		out.PublicPath = "/1.0/provisioning/images/" + s.Public
	}
	return out
}

func (h *Handler) seeds() resource[*opscenter.TokenSeed] {
	return resource[*opscenter.TokenSeed]{h: h, show: always(showSeed), path: func(s *opscenter.TokenSeed) string { return tokenPath(s.Token) + "/seeds/" + s.Name },
		covers: func(s *opscenter.TokenSeed) any { return showSeed(s) }}
}

func (h *Handler) getSeeds(w http.ResponseWriter, r *http.Request) {
	h.seeds().list(w, r, queryOf(r), nil, func(opscenter.Page) ([]*opscenter.TokenSeed, string, error) {
		found, err := h.registry.TokenSeeds().List(r.Context(), r.PathValue("uuid"))
		return found, "", err
	})
}

// seedPost is a new seed.
type seedPost struct {
	seedPut
	Name string `json:"name"`
}

func (h *Handler) postSeeds(w http.ResponseWriter, r *http.Request) {
	var body seedPost
	err := decode(r, &body, shownBy[shownSeed]())
	var spec opscenter.TokenSeedSpec
	if err == nil {
		spec, err = body.spec()
	}
	if err == nil {
		err = h.options.Images.Check(spec, false)
	}
	var made *opscenter.TokenSeed
	if err == nil {
		made, err = h.registry.TokenSeeds().Create(r.Context(), r.PathValue("uuid"), body.Name, spec)
	}
	h.seeds().created(w, r, made, err)
}

// getSeed shows a seed. With the query type it sends an image of the seed.
func (h *Handler) getSeed(w http.ResponseWriter, r *http.Request) {
	query, err := queryOf(r), error(nil)
	if query.valueOf("type") != "" {
		h.sendImage(w, r, query, func() (*image.Made, error) {
			return h.options.Images.Make(r.Context(), r.PathValue("uuid"), r.PathValue("name"), requestOf(query))
		})
		return
	}
	if r.URL.RawQuery != "" {
		err = fmt.Errorf("%w: parameter type is missing: iso or raw", errBody)
	}
	var found *opscenter.TokenSeed
	if err == nil {
		found, err = h.registry.TokenSeeds().Get(r.Context(), r.PathValue("uuid"), r.PathValue("name"))
	}
	h.seeds().answer(w, r, found, err)
}

func requestOf(q *query) image.Request {
	return image.Request{Kind: q.valueOf("type"), Architecture: q.valueOf("architecture"), Channel: q.valueOf("channel")}
}

// seedEdit is an edit of a seed. A field that is left out keeps its value.
type seedEdit struct {
	Description *string    `json:"description"`
	Public      *bool      `json:"public"`
	Seeds       *seedFiles `json:"seeds"`
	Name        *string    `json:"name"`
}

// putSeed edits a seed. A field that is left out keeps its value.
func (h *Handler) putSeed(w http.ResponseWriter, r *http.Request) {
	var body seedEdit
	err := decode(r, &body, shownBy[shownSeed]())
	if err == nil && body.Name != nil && *body.Name != r.PathValue("name") {
		err = fmt.Errorf("%w: field name can't be changed: make another seed", errBody)
	}
	var files map[string]json.RawMessage
	if err == nil && body.Seeds != nil {
		files, err = body.Seeds.files()
	}
	if err == nil {
		err = h.registry.TokenSeeds().Edit(r.Context(), r.PathValue("uuid"), r.PathValue("name"), func(s *opscenter.TokenSeed, spec *opscenter.TokenSeedSpec) error {
			replace(&spec.Description, body.Description)
			replace(&spec.Public, body.Public)
			if body.Seeds != nil {
				spec.Files = files
			}
			return errors.Join(h.seeds().matches(r, s), h.options.Images.Check(*spec, s.Public != ""))
		})
	}
	h.done(w, r, err)
}

func (h *Handler) deleteSeed(w http.ResponseWriter, r *http.Request) {
	h.done(w, r, h.registry.TokenSeeds().Delete(r.Context(), r.PathValue("uuid"), r.PathValue("name"), func(s *opscenter.TokenSeed) error {
		return h.seeds().matches(r, s)
	}))
}

func (h *Handler) getProviderConfig(w http.ResponseWriter, r *http.Request) {
	token, err := h.registry.TokenSeeds().UsableToken(r.Context(), r.PathValue("uuid"))
	if err != nil {
		h.fail(w, r, err)
		return
	}
	respond(w, h.options.Images.ProviderConfig(token))
}

// imagePost says which image is to be prepared.
type imagePost struct {
	Type         string    `json:"type"`
	Architecture string    `json:"architecture"`
	Seeds        seedFiles `json:"seeds"`
}

// imageMade has the path at which a prepared image is fetched.
type imageMade struct {
	Image string `json:"image"`
}

// postImage prepares an image. The answer has the path at which it is fetched.
func (h *Handler) postImage(w http.ResponseWriter, r *http.Request) {
	var body imagePost
	err := decode(r, &body)
	var files map[string]json.RawMessage
	if err == nil {
		files, err = body.Seeds.files()
	}
	var prepared *opscenter.PreparedImage
	if err == nil {
		prepared, err = h.options.Images.Prepare(r.Context(), r.PathValue("uuid"), files, image.Request{Kind: body.Type, Architecture: body.Architecture})
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	path := tokenPath(prepared.Token) + "/image/" + prepared.UUID
	w.Header().Set("Location", path)
	respond(w, imageMade{path})
}

func (h *Handler) getImage(w http.ResponseWriter, r *http.Request) {
	h.sendImage(w, r, queryOf(r), func() (*image.Made, error) {
		return h.options.Images.MakePrepared(r.Context(), r.PathValue("uuid"), r.PathValue("image"))
	})
}

// getPublicImage sends an image of a public seed. The client chooses neither the channel nor the packing.
func (h *Handler) getPublicImage(w http.ResponseWriter, r *http.Request) {
	query := queryOf(r)
	h.sendImage(w, r, query, func() (*image.Made, error) {
		return h.options.Images.MakePublic(r.Context(), r.PathValue("public"), requestOf(query), r.RemoteAddr)
	})
}

// sendImage makes an image, and sends it, in parts if the client asks for parts. With the query compressed it sends the whole image,
// packed by gzip. Making an image takes long if its base must be unpacked first.
func (h *Handler) sendImage(w http.ResponseWriter, r *http.Request, q *query, build func() (*image.Made, error)) {
	packed, err := q.flagOr("compressed", false)
	var made *image.Made
	if err == nil {
		h.patient(w, func() { made, err = build() })
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	defer made.Close()
	if err := h.sameImage(r, made); err != nil {
		h.fail(w, r, err)
		return
	}
	end, ok := h.place(w, r) // not before the image is made: servers need the places for their updates
	if !ok {
		return
	}
	defer end()
	w.Header().Set("Cache-Control", "private, no-transform") // it holds a token
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-IncusOS-Version", made.Version)
	named := func(name string) {
		w.Header().Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": name}))
	}
	paced := &pacedWriter{ResponseWriter: w, ctx: r.Context(), rate: h.downloads.rate, timeout: h.options.WriteTimeout}
	if !packed {
		named(made.Name)
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("ETag", made.ETag)
		http.ServeContent(paced, r, "", time.Time{}, made.Reader())
		return
	}
	if !h.packing.TryAcquire(1) {
		w.Header().Set("Retry-After", "60")
		h.fail(w, r, errTooManyDownloads)
		return
	}
	defer h.packing.Release(1)
	named(made.Name + ".gz")
	w.Header().Set("Content-Type", "application/gzip")
	if r.Method == http.MethodHead {
		return
	}
	from, to := io.Pipe()
	defer from.Close() // ends the packing if the client has gone
	go func() {
		zip, err := gzip.NewWriterLevel(to, gzip.BestSpeed)
		if err == nil {
			_, err = io.Copy(zip, made.Reader())
			err = errors.Join(err, zip.Close())
		}
		to.CloseWithError(err)
	}()
	if _, err := paced.ReadFrom(from); err != nil {
		panic(http.ErrAbortHandler) // else half an image would look whole
	}
}

// errOtherImage: the client asks for a part of an image, and the image has changed since a part of it was sent.
var errOtherImage = errors.New("the image has changed since a part of it was sent: fetch it from its beginning")

// sameImage refuses the rest of an image that has changed since the client got its beginning. A client that sends If-Range sees to
// that itself; a BMC does not.
func (h *Handler) sameImage(r *http.Request, made *image.Made) error {
	client, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		client = r.RemoteAddr
	}
	q := r.URL.Query() // Encode sorts the parameters
	key := client + " " + opscenter.Principal(r.Context()) + " " + r.URL.Path + "?" + q.Encode()
	part := r.Header.Get("Range")
	switch {
	case r.Method == http.MethodHead: // nothing of it is sent
		return nil
	case part == "" || part == "bytes=0-" || r.Header.Get("If-Range") != "": // from its beginning, or the client sees to it
		h.images.Add(key, made.ETag)
		return nil
	}
	if before, ok := h.images.Get(key); ok && before != made.ETag {
		return errOtherImage
	}
	h.images.Add(key, made.ETag)
	return nil
}

// maxImagesSent bounds the images that are remembered because clients have parts of them.
const maxImagesSent = 10_000
