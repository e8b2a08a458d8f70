package facts

import (
	"strconv"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// Digest is a short form of the values of an observation. It has a digest of the light values, one of the facts (0
// without facts), and the time of the boot (zero if it is not told). Server, ID, At and Took are outside of it, because
// they name the observation. So is Light, the kind of the poll.
type Digest struct {
	light, facts uint64
	booted       time.Time
}

// None reports whether the observation can't count as unchanged.
func (d Digest) None() bool { return d.light == 0 }

// Same reports whether an observation finds the same values as the settled one. An unread part is no difference. Boot
// times that differ by less than bootDrift are the same.
func (d Digest) Same(settled Digest) bool {
	return d.light == settled.light && (d.facts == 0 || d.facts == settled.facts) &&
		(d.booted.IsZero() || d.booted.Sub(settled.booted).Abs() <= lifecycle.BootDrift)
}

// Over returns the digest, with the settled values for the parts that the observation did not read.
func (d Digest) Over(settled Digest) Digest {
	if d.facts == 0 && settled.light == d.light {
		d.facts = settled.facts
	}
	if d.booted.IsZero() {
		d.booted = settled.booted
	}
	return d
}

// DigestOf returns the digest of an observation. It is zero if the observation can't count as unchanged: a failure, a
// server that is not ready, or an unread part.
func DigestOf(o *lifecycle.Observation, keepSecrets bool) Digest {
	if o.Failure != nil || !o.Ready || len(o.Unread) > 0 || o.UnreadVersions != 0 || o.Type == nil || o.Versions == nil {
		return Digest{}
	}
	h := hasher{}
	h.Reset()
	v := o.Versions
	h.text(string(*o.Type))
	h.text(o.Presented)
	h.text(o.Trust)
	h.text(o.MachineID)
	h.text(v.OS.Name)
	h.text(v.OS.Version)
	h.text(v.OS.VersionNext)
	h.flag(v.OS.NeedsReboot)
	h.flag(v.OS.BackupImage)
	h.flag(v.OS.Plain)
	h.text(v.UpdateChannel)
	for i := range v.Applications {
		a := &v.Applications[i]
		h.text(a.Name)
		h.text(a.Version)
		h.text(a.FriendlyVersion)
		h.flag(a.Primary)
	}
	h.text("maintenance")
	if o.Maintenance != nil {
		h.text(o.Maintenance.String())
	}
	h.text("member")
	if o.MemberName != nil {
		h.text(*o.MemberName)
	}
	for _, role := range o.MemberRoles {
		h.text(role)
	}
	h.text("update")
	if u := o.Update; u != nil {
		h.text(u.Channel)
		h.text(u.CheckFrequency)
		h.flag(u.AutoReboot)
	}
	h.text("status")
	if s := o.UpdateStatus; s != nil {
		h.text(s.Status)
		h.number(s.LastCheck.UnixNano())
	}
	for _, note := range o.Notes {
		h.text(note)
	}
	out := Digest{light: max(1, h.Sum64()), booted: o.BootedAt}
	if o.Facts != nil {
		parts, err := SumsOf(o.Facts, keepSecrets)
		if err != nil {
			return Digest{}
		}
		out.facts = parts.sum()
	}
	if o.SystemStateTrusted != nil { // read with the facts
		out.facts = max(1, out.facts*2)
		if *o.SystemStateTrusted {
			out.facts++
		}
	}
	if o.Architecture != "" { // likewise
		out.facts = max(1, out.facts*31+xxhash.Sum64String(o.Architecture))
	}
	return out
}

// hasher hashes values that are kept apart.
type hasher struct{ xxhash.Digest }

func (h *hasher) text(s string) {
	_, _ = h.WriteString(s)
	_, _ = h.Write([]byte{0})
}

func (h *hasher) flag(b bool) {
	if b {
		h.text("1")
	} else {
		h.text("0")
	}
}

func (h *hasher) number(n int64) {
	var buffer [20]byte
	_, _ = h.Write(strconv.AppendInt(buffer[:0], n, 36))
	_, _ = h.Write([]byte{0})
}

// sum returns one number for all parts.
func (d Sums) sum() uint64 {
	var data [32]byte
	for i, part := range d {
		for j := range 8 {
			data[8*i+j] = byte(part >> (8 * j))
		}
	}
	return max(1, xxhash.Sum64(data[:]))
}
