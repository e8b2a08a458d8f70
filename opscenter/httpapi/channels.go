package httpapi

import (
	"fmt"
	"net/http"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
)

// channelPut holds the fields of a channel that an operator edits.
type channelPut struct {
	Description string `json:"description"`
}

// channel is the document of a channel.
type channel struct {
	channelPut
	Name        string    `json:"name"`
	LastUpdated time.Time `json:"last_updated"`
	// Versions are those that the channel offers, by components.
	Versions map[string]string `json:"versions"`
}

func showChannel(c *opscenter.Channel) channel {
	out := channel{channelPut{c.Description}, c.Name, c.LastUpdated, c.Versions}
	if out.Versions == nil {
		out.Versions = map[string]string{}
	}
	return out
}

func (h *Handler) channels() resource[*opscenter.Channel] {
	return resource[*opscenter.Channel]{h: h, show: always(showChannel), path: func(c *opscenter.Channel) string { return "/1.0/provisioning/channels/" + c.Name },
		covers: func(c *opscenter.Channel) any { return channelPut{c.Description} }}
}

func (h *Handler) getChannels(w http.ResponseWriter, r *http.Request) {
	h.channels().list(w, r, queryOf(r), nil, func(opscenter.Page) ([]*opscenter.Channel, string, error) {
		found, err := h.registry.Channels().List(r.Context())
		return pointers(found), "", err
	})
}

// channelPost is a new channel.
type channelPost struct {
	channelPut
	Name string `json:"name"`
}

func (h *Handler) postChannels(w http.ResponseWriter, r *http.Request) {
	var body channelPost
	err := decode(r, &body)
	if err == nil {
		err = h.registry.Channels().Create(r.Context(), body.Name, body.Description)
	}
	var made *opscenter.Channel
	if err == nil {
		made, err = h.registry.Channels().Get(r.Context(), body.Name)
	}
	h.channels().created(w, r, made, err)
}

// channelEdit is an edit of a channel.
type channelEdit struct {
	Description *string `json:"description"`
	Name        *string `json:"name"`
}

func (h *Handler) putChannel(w http.ResponseWriter, r *http.Request) {
	var body channelEdit
	err := decode(r, &body, shownBy[channel]())
	if err == nil && body.Name != nil && *body.Name != r.PathValue("name") {
		err = fmt.Errorf("%w: field name can't be changed: make another channel", errBody)
	}
	var known *opscenter.Channel
	if err == nil {
		known, err = h.registry.Channels().Get(r.Context(), r.PathValue("name"))
	}
	if err == nil {
		description := known.Description
		replace(&description, body.Description)
		err = h.registry.Channels().Edit(r.Context(), known.Name, description, func(c *opscenter.Channel) error {
			if body.Description == nil && c.Description != description { // changed meanwhile
				return opscenter.ErrPrecondition
			}
			return h.channels().matches(r, c)
		})
	}
	h.done(w, r, err)
}

func (h *Handler) deleteChannel(w http.ResponseWriter, r *http.Request) {
	if h.options.Updates != nil {
		h.done(w, r, h.options.Updates.DeleteChannel(r.Context(), r.PathValue("name")))
		return
	}
	h.done(w, r, h.registry.Write(r.Context(), func(tx *opscenter.Tx) error { return tx.DeleteChannel(r.PathValue("name")) }))
}
