package httpapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/accesstoken"
	clusters "github.com/opscenter-go/sdk/opscenter/cluster"
	"github.com/opscenter-go/sdk/opscenter/expression"
	"github.com/opscenter-go/sdk/opscenter/image"
	"github.com/opscenter-go/sdk/opscenter/inventory"
	"github.com/opscenter-go/sdk/opscenter/network"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/opscenter/seed"
	"github.com/opscenter-go/sdk/opscenter/system"
	"github.com/opscenter-go/sdk/opscenter/updates"
	"github.com/opscenter-go/sdk/storage"
)

// envelope is the form of answers of IncusOS, Incus and Operations Center alike. Clients go by its fields, and not by the HTTP
// status.
type envelope struct {
	Type       string `json:"type"`
	Status     string `json:"status"`
	StatusCode int    `json:"status_code"`
	Operation  string `json:"operation"`
	ErrorCode  int    `json:"error_code"`
	Error      string `json:"error"`
	Metadata   any    `json:"metadata"`
}

// successBegin begins the envelope of a success whose metadata follow, and the end of the object.
const successBegin = `{"type":"sync","status":"Success","status_code":200,"operation":"","error_code":0,"error":"","metadata":`

func respond(w http.ResponseWriter, metadata any) { respondStatus(w, http.StatusOK, metadata) }

// answer answers with a document, or with the error of making it.
func (h *Handler) answer(w http.ResponseWriter, r *http.Request, shown any, err error) {
	if err != nil {
		h.fail(w, r, err)
		return
	}
	respond(w, shown)
}

// done answers a request that has nothing to show.
func (h *Handler) done(w http.ResponseWriter, r *http.Request, err error) { h.answer(w, r, nil, err) }

// respondCreated answers with the path of a new object. The body says 200, as in each success.
func respondCreated(w http.ResponseWriter, location string, metadata any) {
	w.Header().Set("Location", location)
	respondStatus(w, http.StatusCreated, metadata)
}

func respondStatus(w http.ResponseWriter, status int, metadata any) {
	send(w, status, envelope{Type: "sync", Status: "Success", StatusCode: http.StatusOK, Metadata: metadata})
}

func respondError(w http.ResponseWriter, status int, message string) {
	noteFailure(w, errors.New(message))
	send(w, status, envelope{Type: "error", ErrorCode: status, Error: message})
}

func send(w http.ResponseWriter, status int, answer envelope) {
	if one, ok := answer.Metadata.(*document); ok {
		one.send(w, status)
		return
	}
	data, err := json.Marshal(answer)
	if err != nil {
		status, data = http.StatusInternalServerError, []byte(`{"type":"error","error_code":500,"error":"the answer could not be encoded","metadata":null}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n'))
}

// etag returns the ETag of a document.
func etag(shown any) string {
	data, err := json.Marshal(shown)
	if err != nil {
		return `"none"`
	}
	sum := sha256.Sum256(data)
	return `"` + hex.EncodeToString(sum[:16]) + `"`
}

// matches returns opscenter.ErrPrecondition unless the request's If-Match, if it has one, names the tag.
func matches(r *http.Request, tag string) error {
	wanted := r.Header.Get("If-Match")
	if wanted == "" {
		return nil
	}
	for one := range strings.SplitSeq(wanted, ",") {
		// Incus's tools send tags without quotes.
		if one = strings.TrimSpace(one); one == "*" || strings.Trim(one, `"`) == strings.Trim(tag, `"`) {
			return nil
		}
	}
	return opscenter.ErrPrecondition
}

// fail answers an error of the registry.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	status := statusOf(err)
	noteFailure(w, err)
	if status == http.StatusInternalServerError {
		h.options.Logger.ErrorContext(r.Context(), "a request failed", "method", r.Method, "endpoint", r.Pattern, "error", err)
		respondError(w, status, "Internal server error")
		return
	}
	h.options.Logger.InfoContext(r.Context(), "a request was refused", "principal", opscenter.Principal(r.Context()), "remote", r.RemoteAddr, "method", r.Method, "path", shownPath(r), "status", status, "error", err)
	respondError(w, status, err.Error())
}

// statuses are the HTTP statuses of errors. The first that matches counts.
var statuses = []struct {
	err    error
	status int
}{
	{system.ErrLost, http.StatusGatewayTimeout},
	{system.ErrStopped, http.StatusBadGateway}, // a batch is recorded, and members may be changed
	{errBody, http.StatusBadRequest},
	{errNoEndpoint, http.StatusNotFound},
	{errMethod, http.StatusMethodNotAllowed},
	{errConflict, http.StatusConflict},
	{opscenter.ErrNotSetUp, http.StatusNotImplemented},
	{opscenter.ErrAnswer, http.StatusBadGateway},
	{errForbidden, http.StatusForbidden},
	{access.ErrForbidden, http.StatusForbidden},
	{errCrossSite, http.StatusForbidden},
	{errHost, http.StatusMisdirectedRequest},
	{errMedia, http.StatusUnsupportedMediaType},
	{network.ErrInvalid, http.StatusBadRequest},
	{system.ErrInvalid, http.StatusBadRequest},
	{system.ErrManaged, http.StatusConflict},
	{system.ErrNoRollBack, http.StatusPreconditionFailed},
	{system.ErrFailed, http.StatusBadGateway},
	{system.ErrRolledBack, http.StatusBadGateway},
	{errNoRedaction, http.StatusBadGateway},
	{errNoSystem, http.StatusNotImplemented},
	{errNoAudit, http.StatusNotImplemented},
	{errNoForwarder, http.StatusNotImplemented},
	{opscenter.ErrUnreachable, http.StatusBadGateway},
	{opscenter.ErrRefused, http.StatusBadGateway},
	{opscenter.ErrNotAdmitted, http.StatusForbidden},
	{errTooLarge, http.StatusRequestEntityTooLarge},
	{opscenter.ErrPrecondition, http.StatusPreconditionFailed},
	{opscenter.ErrNoCertificate, http.StatusBadRequest},
	{opscenter.ErrTokenMalformed, http.StatusBadRequest},
	{opscenter.ErrTokenUnknown, http.StatusForbidden},
	{opscenter.ErrTokenExpired, http.StatusForbidden},
	{opscenter.ErrTokenExhausted, http.StatusForbidden},
	{opscenter.ErrUnknownCertificate, http.StatusForbidden},
	{opscenter.ErrTooOften, http.StatusTooManyRequests},
	{opscenter.ErrIdentityTaken, http.StatusForbidden},
	{opscenter.ErrIdentityChanged, http.StatusForbidden},
	{opscenter.ErrNameTaken, http.StatusConflict},
	{opscenter.ErrClustered, http.StatusConflict},
	{opscenter.ErrNotReady, http.StatusConflict},
	{opscenter.ErrBusy, http.StatusConflict},
	{opscenter.ErrClusterTaken, http.StatusConflict},
	{opscenter.ErrHasMembers, http.StatusConflict},
	{opscenter.ErrBlocked, http.StatusPreconditionFailed},
	{rollout.ErrStale, http.StatusConflict},
	{rolling.ErrState, http.StatusConflict},
	{rolling.ErrInvalid, http.StatusBadRequest},
	{clusters.ErrUnsuitable, http.StatusPreconditionFailed},
	{errNoRollouts, http.StatusNotImplemented},
	{errNoInventory, http.StatusNotImplemented},
	{errNoAdopter, http.StatusNotImplemented},
	{inventory.ErrInvalidQuery, http.StatusBadRequest},
	{inventory.ErrUnread, http.StatusBadGateway},
	{inventory.ErrNotRunning, http.StatusServiceUnavailable},
	{opscenter.ErrOutcomeUnknown, http.StatusGatewayTimeout},
	{opscenter.ErrInvalidOptions, http.StatusBadRequest},
	{errNoUpdates, http.StatusNotImplemented},
	{errNoImages, http.StatusNotImplemented},
	{errNoAccessTokens, http.StatusNotImplemented},
	{accesstoken.ErrInvalid, http.StatusBadRequest},
	{accesstoken.ErrTooMany, http.StatusConflict},
	{seed.ErrInvalid, http.StatusBadRequest},
	{seed.ErrTooLarge, http.StatusBadRequest},
	{image.ErrKind, http.StatusBadRequest},
	{image.ErrSeedTooLarge, http.StatusBadRequest},
	{image.ErrPublic, http.StatusForbidden},
	{errOtherImage, http.StatusPreconditionFailed},
	{image.ErrDiskFull, http.StatusInsufficientStorage},
	{image.ErrNoImage, http.StatusBadGateway}, // the publisher's file is no image
	{image.ErrShort, http.StatusBadGateway},
	{image.ErrMismatch, http.StatusBadGateway},
	{errTooManyDownloads, http.StatusServiceUnavailable},
	{errTooManyStreams, http.StatusServiceUnavailable},
	{errRefresh, http.StatusBadGateway},
	{updates.ErrNoSource, http.StatusPreconditionFailed},
	{updates.ErrDiskFull, http.StatusInsufficientStorage},
	{updates.ErrTooLarge, http.StatusRequestEntityTooLarge},
	{updates.ErrExists, http.StatusConflict},
	{updates.ErrSignature, http.StatusBadRequest},
	{updates.ErrMismatch, http.StatusBadRequest},
	{updates.ErrReplay, http.StatusConflict},
	{updates.ErrInvalid, http.StatusBadRequest},
	{expression.ErrInvalid, http.StatusBadRequest},
	{opscenter.ErrInUse, http.StatusConflict},
	{opscenter.ErrFed, http.StatusConflict},
	{opscenter.ErrNotApplicable, http.StatusBadRequest},
	{opscenter.ErrInvalidToken, http.StatusBadRequest},
	{opscenter.ErrInvalidCertificate, http.StatusBadRequest},
	{opscenter.ErrInvalidName, http.StatusBadRequest},
	{opscenter.ErrInvalidURL, http.StatusBadRequest},
	{opscenter.ErrInvalidMachineID, http.StatusBadRequest},
	{opscenter.ErrInvalidSystemUUID, http.StatusBadRequest},
	{opscenter.ErrInvalidFilter, http.StatusBadRequest},
	{opscenter.ErrInvalidCursor, http.StatusBadRequest},
	{opscenter.ErrTooLong, http.StatusBadRequest},
	{opscenter.ErrNotFound, http.StatusNotFound},
	{storage.ErrConflict, http.StatusConflict},
	{storage.ErrExists, http.StatusConflict},
	{storage.ErrTooLarge, http.StatusBadRequest},
	{storage.ErrEncoding, http.StatusBadRequest},
	{storage.ErrClosed, http.StatusServiceUnavailable},
	{storage.ErrDiskFull, http.StatusInsufficientStorage},
	{context.DeadlineExceeded, http.StatusGatewayTimeout},
	{context.Canceled, http.StatusServiceUnavailable}, // the client left
}

// statusOf returns the status of an error. A request that is answered 4xx has changed nothing: an error in the middle of an
// operation is 502.
func statusOf(err error) int {
	var middle *clusters.Error
	for _, known := range statuses {
		switch {
		case !errors.Is(err, known.err):
			continue
		case known.status < http.StatusInternalServerError && errors.As(err, &middle) && (middle.Recorded || len(middle.Done) > 0):
			return http.StatusBadGateway
		}
		return known.status
	}
	return http.StatusInternalServerError
}

var (
	errBody     = errors.New("invalid request")
	errConflict = errors.New("conflict")
	errTooLarge = errors.New("the request is too large")
)

// bodyError returns the error for a body that could not be read.
func bodyError(err error) error {
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &tooLarge):
		return fmt.Errorf("%w: more than %d bytes", errTooLarge, tooLarge.Limit)
	}
	return fmt.Errorf("%w: the body could not be read", errBody)
}

// decodeLenient reads a server's JSON object. It passes over unknown fields, because newer releases send them.
func decodeLenient(r *http.Request, into any) error {
	data, err := readBody(r)
	if err != nil {
		return err
	}
	return decodeObject(data, into)
}

func decodeObject(data []byte, into any) error {
	if trimmed := bytes.TrimSpace(data); len(trimmed) == 0 || trimmed[0] != '{' {
		return fmt.Errorf("%w: a JSON object is wanted", errBody)
	}
	var typeError *json.UnmarshalTypeError
	err := json.Unmarshal(data, into)
	switch {
	case errors.As(err, &typeError) && typeError.Field != "":
		return fmt.Errorf("%w: field %s: a value of type %s does not fit there", errBody, typeError.Field, typeError.Value)
	case err != nil:
		return fmt.Errorf("%w: %v", errBody, err)
	}
	return nil
}
