package system

import (
	"bytes"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/internal/facts"
)

// digest tells whether a configuration is what it was, and nothing of its secrets.
type digest struct {
	Shown  string // of what is no secret
	Salt   []byte
	Secret []byte // of all of it, slow to guess from
}

// digestRounds makes it slow to try out passwords on a digest.
const digestRounds = 50_000

func digestOf(config json.RawMessage) (digest, error) {
	shown, err := shownSum(config)
	if err != nil {
		return digest{}, err
	}
	d := digest{Shown: shown, Salt: make([]byte, 16)}
	_, _ = rand.Read(d.Salt)
	d.Secret, err = secretSum(config, d.Salt)
	return d, err
}

// is reports whether a configuration is the one of the digest.
func (d *digest) is(config json.RawMessage) (bool, error) {
	shown, err := shownSum(config)
	if err != nil || shown != d.Shown {
		return false, err
	}
	sum, err := secretSum(config, d.Salt)
	return err == nil && hmac.Equal(sum, d.Secret), err
}

// plain is a configuration in one form, whatever the order and the spacing.
func plain(config json.RawMessage) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(config))
	d.UseNumber()
	var all map[string]any
	if err := d.Decode(&all); err != nil {
		return nil, err
	}
	delete(all, "confirmation_timeout")
	return json.Marshal(all)
}

func shownSum(config json.RawMessage) (string, error) {
	redacted, err := facts.RedactSecrets(config)
	if err != nil {
		return "", err
	}
	data, err := plain(redacted)
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), err
}

func secretSum(config json.RawMessage, salt []byte) ([]byte, error) {
	data, err := plain(config)
	if err != nil {
		return nil, err
	}
	return pbkdf2.Key(sha256.New, string(data), salt, digestRounds, 32)
}

// tag is the ETag of a configuration. It is of this process: another gives another.
func (m *Manager) tag(config json.RawMessage) (string, error) {
	data, err := plain(config)
	if err != nil {
		return "", err
	}
	h := hmac.New(sha256.New, m.tagKey)
	_, _ = h.Write(data)
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}

// matches returns opscenter.ErrPrecondition unless a configuration is the one the tag is of.
// Several tags, with commas between them, are as in an If-Match header.
func (m *Manager) matches(config json.RawMessage, tags string) error {
	if tags == "" {
		return nil
	}
	have, err := m.tag(config)
	if err != nil {
		return err
	}
	for one := range strings.SplitSeq(tags, ",") {
		if one = strings.Trim(strings.TrimSpace(one), `"`); one == "*" || one == have {
			return nil
		}
	}
	return fmt.Errorf("the configuration of the server was %w", opscenter.ErrPrecondition)
}
