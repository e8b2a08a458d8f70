package seed_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/opscenter-go/sdk/internal/reference"
	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter/network"
	"github.com/opscenter-go/sdk/opscenter/seed"
)

var update = flag.Bool("update", false, "write testdata/")

// golden compares data with a file in testdata.
func golden(t *testing.T, name string, data []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(path, data, 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), string(data), "run the test with -update to write the file")
}

// sample returns a seed in which every file is set.
func sample() *seed.Seed {
	return &seed.Seed{
		Install:          &seed.Install{ForceReboot: true, Target: &seed.InstallTarget{Bus: "nvme", MinSize: "100GiB", SortOrder: seed.SortSmallest}},
		Applications:     seed.ApplicationsOf("incus-lts-7.0", "incus-ceph"),
		Incus:            &seed.Incus{Preseed: preseed()},
		Kernel:           &seed.Kernel{Console: []seed.Console{{Device: "ttyS0", BaudRate: 115200}}},
		MigrationManager: &seed.MigrationManager{Preseed: &seed.MigrationManagerPreseed{SystemNetwork: &seed.MigrationManagerSystemNetwork{WorkerEndpoint: "https://10.0.0.9:6443"}}},
		Network: &seed.Network{Config: network.Config{DNS: &network.DNS{Hostname: "server01", Nameservers: []string{"10.0.0.53"}}, Time: &network.Time{Timezone: "Europe/Berlin", NTPServers: []string{"pool.ntp.org"}},
			Interfaces: []network.Interface{{Name: "enp5s0", Hwaddr: "enp5s0", Addresses: []string{"10.0.0.1/24"}, Roles: []string{network.RoleManagement}, Routes: []network.Route{{To: "0.0.0.0/0", Via: "10.0.0.254"}}}}}},
		OperationsCenter: &seed.OperationsCenter{ApplyDefaults: true},
		Provider:         seed.OperationsCenterProvider("https://control.example.org:8443", "11111111-2222-4333-8444-555555555555", nil),
		Security:         &seed.Security{},
		Services:         &seed.Services{ISCSI: &seed.ISCSI{Enabled: true, Targets: []seed.ISCSITarget{{Target: "iqn.2026-01.org.example:disk", Address: "10.0.0.20", Port: 3260}}}},
		Update:           seed.ManagedUpdate("stable"),
	}
}

// preseed returns a Preseed with one setting.
func preseed() *seed.Preseed {
	out := &seed.Preseed{}
	out.Config = map[string]string{"core.https_address": ":8443"}
	return out
}

// TestTar: equal seeds give equal archives. Entries have bare names, and reading the archive returns the same seed.
func TestTar(t *testing.T) {
	s := sample()
	require.NoError(t, s.Validate(seed.Rules{}))
	archive, err := s.Tar()
	require.NoError(t, err)
	again, err := sample().Tar()
	require.NoError(t, err)
	require.Equal(t, archive, again)
	golden(t, "seed.tar", archive)
	require.Equal(t, "ustar", string(archive[257:262]), "a server looks for this magic")
	require.Equal(t, make([]byte, 1024), archive[len(archive)-1024:])
	entries := tar.NewReader(bytes.NewReader(archive))
	var names []string
	for {
		header, err := entries.Next()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		require.EqualValues(t, tar.TypeReg, header.Typeflag)
		require.EqualValues(t, 0o600, header.Mode)
		require.Zero(t, header.ModTime.Unix())
		require.NotContains(t, header.Name, "/")
		names = append(names, strings.TrimSuffix(header.Name, ".json"))
	}
	require.Equal(t, seed.Files, names)
	read, err := seed.Read(bytes.NewReader(archive))
	require.NoError(t, err)
	back, err := read.Tar()
	require.NoError(t, err)
	require.Equal(t, archive, back)
	// Data after the end of the archive, left by a longer archive, is ignored.
	read, err = seed.Read(bytes.NewReader(append(bytes.Clone(archive), bytes.Repeat(archive, 3)...)))
	require.NoError(t, err)
	back, err = read.Tar()
	require.NoError(t, err)
	require.Equal(t, archive, back)
	empty, err := (&seed.Seed{}).Tar()
	require.NoError(t, err)
	none, err := seed.Read(bytes.NewReader(empty))
	require.NoError(t, err)
	require.Nil(t, none, "an archive without files is no seed")
}

// TestReadsAsAServer reads the archive that a server's own reader is tested with, and compares its structure with Tar.
func TestReadsAsAServer(t *testing.T) {
	data := reference.Seed
	files, err := seed.Unpack(bytes.NewReader(data))
	require.NoError(t, err)
	require.Len(t, files, 4, "./kernel.yaml counts")
	s := &seed.Seed{}
	require.NoError(t, s.Set(seed.FileApplications, files[seed.FileApplications]))
	require.Equal(t, seed.Version("1.2.3"), s.Applications.Version)
	require.Equal(t, []string{"foo", "bar", "incus"}, s.Applications.Names())
	require.NoError(t, s.Set(seed.FileKernel, files[seed.FileKernel]))
	require.Equal(t, []seed.Console{{Device: "/dev/ttyS0", BaudRate: 9600}}, s.Kernel.Console)
	err = s.Set(seed.FileInstall, files[seed.FileInstall])
	require.EqualError(t, err, "invalid seed: install: security.disable_everything: there is no such field")
	require.ErrorContains(t, s.Set(seed.FileNetwork, files[seed.FileNetwork]), "network: config: there is no such field: the fields of the configuration are at the top")
	own, err := sample().Tar()
	require.NoError(t, err)
	head := func(archive []byte) *tar.Header {
		header, err := tar.NewReader(bytes.NewReader(archive)).Next()
		require.NoError(t, err)
		return header
	}
	theirs, ours := head(data), head(own)
	require.Equal(t, theirs.Typeflag, ours.Typeflag)
	require.Equal(t, theirs.Name, ours.Name)
	require.Equal(t, data[257:262], own[257:262])
}

// TestEveryField: Set reads each field of the API descriptions, and Encode writes it unchanged.
func TestEveryField(t *testing.T) {
	for file, definition := range map[string][2]string{
		seed.FileApplications: {reference.OperationsCenter, "Applications"}, seed.FileInstall: {reference.OperationsCenter, "Install"},
		seed.FileMigrationManager: {reference.OperationsCenter, "MigrationManager"}, seed.FileOperationsCenter: {reference.OperationsCenter, "OperationsCenter"},
		seed.FileProvider: {reference.IncusOS, "SystemProviderConfig"}, seed.FileSecurity: {reference.IncusOS, "SystemSecurityConfig"},
		seed.FileUpdate: {reference.IncusOS, "SystemUpdateConfig"}, seed.FileNetwork: {reference.IncusOS, "SystemNetworkConfig"},
	} {
		t.Run(file, func(t *testing.T) {
			value, err := reference.Document(definition[0], definition[1])
			require.NoError(t, err)
			document := value.(map[string]any)
			if file == seed.FileUpdate { // the description has a separate type for days
				for _, window := range document["maintenance_windows"].([]any) {
					window.(map[string]any)["start_day_of_week"], window.(map[string]any)["end_day_of_week"] = "Monday", "Sunday"
				}
			}
			document["version"] = "1"
			data, err := json.Marshal(document)
			require.NoError(t, err)
			s := &seed.Seed{}
			require.NoError(t, s.Set(file, data))
			written, err := s.Encode(file)
			require.NoError(t, err)
			require.JSONEq(t, string(data), string(written))
		})
	}
	// These files have no description in the references.
	for file, text := range map[string]string{
		seed.FileKernel: `{"console":[{"device":"ttyS0","baud_rate":115200}]}`,
		seed.FileIncus: `{"apply_defaults":false,"preseed":{"config":{"core.https_address":":8443"},"networks":[{"name":"n","type":"bridge","project":"default","config":{},"description":""}],
			"storage_pools":[{"name":"p","driver":"zfs","config":{},"description":""}],"certificates":[{"name":"c","type":"client","certificate":"x","restricted":false,"projects":[],"description":"","token":false,"trust_token":""}]}}`,
		seed.FileServices: `{"iscsi":{"enabled":true,"targets":[{"target":"t","address":"a","port":3260}]},"lvm":{"enabled":true,"system_id":7},"multipath":{"enabled":true,"wwns":["w"]},
			"netbird":{"enabled":true,"setup_key":"k","management_url":"u","admin_url":"u","anonymize":true,"block_inbound":true,"block_lan_access":true,"disable_client_routes":true,"disable_server_routes":true,"disable_dns":true,"disable_firewall":true,"dns_resolver_address":"a","external_ip_map":["m"],"extra_dns_labels":["l"]},
			"nvme":{"enabled":true,"targets":[{"transport":"tcp","address":"a","host_address":"h","port":4420,"nqn":"n"}]},
			"ovn":{"enabled":true,"ic_chassis":true,"database":"d","tls_client_certificate":"c","tls_client_key":"k","tls_ca_certificate":"c","tunnel_address":"10.0.0.1","tunnel_protocol":"geneve"},
			"tailscale":{"enabled":true,"login_server":"s","auth_key":"k","accept_routes":true,"accept_dns":true,"advertised_routes":["10.0.0.0/8"],"advertise_exit_node":true,"exit_node":"e","exit_node_allow_lan_access":true,"serve_enabled":true,"serve_port":443,"serve_service":"s"},
			"usbip":{"enabled":true,"targets":[{"address":"a","bus_id":"1-1"}]}}`,
	} {
		s := &seed.Seed{}
		require.NoError(t, s.Set(file, []byte(text)), file)
		written, err := s.Encode(file)
		require.NoError(t, err)
		var want map[string]any
		require.NoError(t, json.Unmarshal([]byte(text), &want))
		want["version"] = "1"
		data, err := json.Marshal(want)
		require.NoError(t, err)
		require.JSONEq(t, string(data), strings.ReplaceAll(string(written), `"Project"`, `"project"`), file) // Incus has no JSON tag for it
	}
}

// jsonOf returns JSON data in a canonical form.
func jsonOf(t *testing.T, data []byte) string {
	var value any
	require.NoError(t, json.Unmarshal(data, &value))
	out, err := json.Marshal(value)
	require.NoError(t, err)
	return string(out)
}

// TestDecode: Set reads JSON and YAML alike and rejects unknown fields. Errors name the file and the field.
func TestDecode(t *testing.T) {
	for _, c := range []struct{ file, text, wrong string }{
		{seed.FileInstall, ``, ""},
		{seed.FileInstall, "# nothing\n", ""},
		{seed.FileInstall, `{}`, ""},
		{seed.FileInstall, "version: 1\nforce_install: true\ntarget:\n  id: 2026-01-01\n", ""},
		{seed.FileInstall, "---\nversion: \"1\"\n", ""},
		{seed.FileIncus, "preseed:\n  networks:\n  - name: a\n    project: default\n", ""},
		{seed.FileUpdate, "check_frequency: never\nauto_reboot: false\n", ""},
		{seed.FileInstall, `{"force_install":"yes"}`, "install: force_install: it must be true or false, not string"},
		{seed.FileInstall, "Force_Install: true\n", "install: Force_Install: there is no such field"},
		{seed.FileInstall, `{"target":{"disk":"sda","size":1}}`, "install: target.disk: there is no such field; install: target.size: there is no such field"},
		{seed.FileNetwork, "ntp:\n  servers: [a]\n", "network: ntp: there is no such field: NTP servers are time.ntp_servers"},
		{seed.FileNetwork, `{"interfaces":[{"name":"a","hwaddr":"a","adresses":[]}]}`, "network: interfaces[0].adresses: there is no such field"},
		{seed.FileApplications, `{"applications":["incus"]}`, "applications: applications"},
		{seed.FileApplications, `{"applications":{}}`, "applications: applications: it must be a list, not object"},
		{seed.FileProvider, "name: operations-center\nserver_url: https://x\n", "it is config.server_url"},
		{seed.FileProvider, `{"name":"images","config":{"server_url":7}}`, "provider: config: it must be a text, not number"},
		{seed.FileIncus, `{"preseed":{"storage_pool":[]}}`, "incus: preseed.storage_pool: there is no such field"},
		{seed.FileKernel, "console: [\n", "kernel: it is neither JSON nor YAML"},
		{seed.FileKernel, "- a\n", "kernel: it must be an object, not array"},
		{seed.FileKernel, "a: &a [*a]\n", "kernel"},
		{seed.FileSecurity, strings.Repeat(" ", seed.MaxFileSize+1), "at most 4194304 are allowed"},
		{"install.json", `{}`, "is not a seed file, the seed files are: applications, incus"},
	} {
		s := &seed.Seed{}
		err := s.Set(c.file, []byte(c.text))
		if c.wrong == "" {
			require.NoError(t, err, c.text)
			continue
		}
		require.ErrorIs(t, err, seed.ErrInvalid, c.text)
		require.ErrorContains(t, err, c.wrong)
		require.Equal(t, &seed.Seed{}, s, "a rejected file changes nothing")
	}
	// YAML aliases that expand exponentially are rejected.
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for i := range 12 {
		bomb += fmt.Sprintf("%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n", 'b'+i, 'b'+i, 'a'+i, 'a'+i, 'a'+i, 'a'+i, 'a'+i, 'a'+i, 'a'+i, 'a'+i, 'a'+i)
	}
	require.ErrorIs(t, (&seed.Seed{}).Set(seed.FileServices, []byte(bomb)), seed.ErrInvalid)
}

// TestValidate: Validate finds and names each mistake that would strand a server.
func TestValidate(t *testing.T) {
	own, err := selfsigned.New("control plane", "127.0.0.1")
	require.NoError(t, err)
	pem := string(seed.OperationsCenterProvider("", "", own.Leaf).Config[seed.ConfigServerCertificate])
	alone, cluster := seed.Rules{}, seed.Rules{JoinsCluster: true}
	for _, c := range []struct {
		name  string
		rules seed.Rules
		files map[string]string
		wrong []string // empty: the seed is valid
	}{
		{"nothing", alone, nil, nil},
		{"no network address", alone, map[string]string{"network": `{"interfaces":[{"name":"a","hwaddr":"a"}]}`}, []string{"network: interfaces[0].roles: no device with role management has an address"}},
		{"no network address, allowed", seed.Rules{AllowUnmanaged: true}, map[string]string{"network": `{"interfaces":[{"name":"a","hwaddr":"a"}]}`}, nil},
		{"misspelt", alone, map[string]string{"network": `{"interfaces":[{"name":"a","hwaddr":"a","addresses":["dhpc4","10.0.0.5"],"roles":["managment"]},{"name":"b","hwaddr":"b","addresses":["dhcp4"],"roles":["management"]}]}`},
			[]string{`network: interfaces[0].addresses[0]: "dhpc4" is neither`, `network: interfaces[0].addresses[1]: "10.0.0.5" is neither`, `network: interfaces[0].roles[0]: "managment" is not one of`}},
		{"only a host name", alone, map[string]string{"network": `{"dns":{"hostname":"a"}}`}, nil},
		{"unknown zone", alone, map[string]string{"network": `{"time":{"timezone":"Europe/Atlantis"}}`}, []string{`network: time.timezone: there is no time zone "Europe/Atlantis"`}},
		{"confirmation", alone, map[string]string{"network": `{"confirmation_timeout":"5m"}`}, []string{"network: confirmation_timeout"}},
		{"two primary applications", alone, map[string]string{"applications": `{"applications":[{"name":"incus"},{"name":"incus-lts-7.0"}]}`}, []string{`applications: applications[1].name: "incus" and "incus-lts-7.0" are both primary`}},
		{"no applications", alone, map[string]string{"applications": `{"applications":[]}`}, []string{"applications: applications: at least one is required"}},
		{"an application twice", alone, map[string]string{"applications": `{"applications":[{"name":"debug"},{"name":"debug"}]}`}, []string{"is listed twice"}},
		{"neither TPM nor Secure Boot", alone, map[string]string{"install": `{"security":{"missing_tpm":true,"missing_secure_boot":true}}`}, []string{"install: security: missing_tpm and missing_secure_boot exclude each other"}},
		{"no TPM", alone, map[string]string{"install": `{"security":{"missing_tpm":true}}`}, nil},
		{"too small a disk", alone, map[string]string{"install": `{"target":{"max_size":"40GiB"}}`}, []string{`install: target.max_size: "40GiB" is less than the 50 GiB`}},
		{"no disk can match", alone, map[string]string{"install": `{"target":{"min_size":"2TiB","max_size":"1TiB"}}`}, []string{`install: target.max_size: "1TiB" is less than min_size`}},
		{"not a size", alone, map[string]string{"install": `{"target":{"min_size":"big"}}`}, []string{"install: target.min_size"}},
		{"sort order", alone, map[string]string{"install": `{"target":{"sort_order":"first"}}`}, []string{"install: target.sort_order"}},
		{"a valid target", alone, map[string]string{"install": `{"target":{"min_size":"100GB","max_size":"2TB","bus":"NVMe","id":"nvme-Samsung_SSD","sort_order":"largest"}}`}, nil},
		{"disk by path", alone, map[string]string{"install": `{"target":{"id":"/dev/sda"}}`}, []string{"install: target.id"}},
		{"confirmation too short", alone, map[string]string{"install": `{"force_install_confirmation":"abc"}`}, []string{"install: force_install_confirmation"}},
		{"defaults in a cluster", cluster, map[string]string{"incus": `{"apply_defaults":true}`}, []string{"incus: apply_defaults"}},
		{"no incus file in a cluster", cluster, nil, []string{"incus: without the file"}},
		{"other application in a cluster", cluster, map[string]string{"applications": `{"applications":[{"name":"migration-manager"}]}`}, []string{"applications: applications: a member of a cluster runs Incus"}},
		{"valid member of a cluster", cluster, map[string]string{"incus": `{}`}, nil},
		{"cluster in the preseed", alone, map[string]string{"incus": `{"preseed":{"cluster":{}}}`}, []string{"incus: preseed.cluster"}},
		{"recovery key", alone, map[string]string{"security": `{"encryption_recovery_keys":["hunter2"]}`}, []string{"security: encryption_recovery_keys"}},
		{"not a certificate", alone, map[string]string{"security": `{"custom_ca_certs":["x"]}`}, []string{"security: custom_ca_certs[0]"}},
		{"a hidden secret", alone, map[string]string{"services": `{"tailscale":{"enabled":true,"auth_key":` + fmt.Sprintf("%q", string(network.Hidden)) + `}}`}, []string{"services: tailscale.auth_key: it must be the secret itself"}},
		{"provider without a token", alone, map[string]string{"provider": `{"name":"operations-center","config":{"server_url":"https://x"}}`}, []string{"provider: config.server_token"}},
		{"provider without TLS", alone, map[string]string{"provider": `{"name":"operations-center","config":{"server_url":"http://x","server_token":"t"}}`}, []string{"provider: config.server_url: it must be an https URL"}},
		{"unknown provider", alone, map[string]string{"provider": `{"name":"x"}`}, []string{"provider: name"}},
		{"unknown key", alone, map[string]string{"provider": `{"name":"operations-center","config":{"server_url":"https://x","server_token":"t","url":"x"}}`}, []string{"provider: config.url"}},
		{"provider", alone, map[string]string{"provider": `{"name":"operations-center","config":{"server_url":"https://x","server_token":"t","server_certificate":` + fmt.Sprintf("%q", pem) + `}}`}, nil},
		{"frequency", alone, map[string]string{"update": `{"check_frequency":"daily"}`}, []string{"update: check_frequency"}},
		{"window", alone, map[string]string{"update": `{"maintenance_windows":[{"start_day_of_week":"Someday","start_hour":25,"end_minute":60}]}`}, []string{"update: maintenance_windows[0].start_day_of_week", "start_hour", "end_minute", "both days must be set"}},
		{"console", alone, map[string]string{"kernel": `{"console":[{"device":"tty S0","baud_rate":1}]}`}, []string{"kernel: console[0].device", "kernel: console[0].baud_rate"}},
		{"services", alone, map[string]string{"services": `{"iscsi":{"enabled":true,"targets":[{"port":70000}]},"lvm":{"system_id":-1},"ovn":{"enabled":true,"tunnel_address":"x"},"tailscale":{"enabled":true,"advertised_routes":["x"]},"nvme":{"enabled":true,"targets":[{}]},"usbip":{"enabled":true,"targets":[{}]}}`},
			[]string{"services: iscsi.targets[0].target", "iscsi.targets[0].address", "services: iscsi.targets[0].port", "services: lvm.system_id", "services: ovn.tunnel_address", "services: tailscale.advertised_routes[0]", "services: nvme.targets[0].transport", "nvme.targets[0].address", "services: usbip.targets[0].address", "usbip.targets[0].bus_id"}},
		{"operations-center", alone, map[string]string{"operations-center": `{"trusted_client_certificates":["x"],"preseed":{"system_certificate":{"certificate":"x","key":"","ca":"x"}}}`}, []string{"operations-center: trusted_client_certificates[0]", "system_certificate.ca: Operations Center has no such field"}},
		{"migration-manager", alone, map[string]string{"migration-manager": `{"preseed":{"system_certificate":{"certificate":"x","key":"k"}}}`}, []string{"migration-manager: preseed.system_certificate.certificate"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &seed.Seed{}
			for name, text := range c.files {
				require.NoError(t, s.Set(name, []byte(text)))
			}
			err := s.Validate(c.rules)
			if len(c.wrong) == 0 {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, seed.ErrInvalid)
			var list *seed.ValidationError
			require.ErrorAs(t, err, &list)
			all := ""
			for _, p := range list.Problems {
				all += p.String() + "\n"
			}
			for _, want := range c.wrong {
				require.Contains(t, all, want)
			}
			require.Len(t, list.Problems, len(c.wrong), all)
			require.NotContains(t, err.Error(), "hunter2")
		})
	}
}

// TestOlderReleases: Encode leaves out fields that are not set, since servers of older releases reject unknown fields.
func TestOlderReleases(t *testing.T) {
	s := &seed.Seed{Install: &seed.Install{}}
	s.Manage(seed.OperationsCenterProvider("https://x", "t", nil), "stable")
	require.NoError(t, s.Validate(seed.Rules{JoinsCluster: true}))
	raw, err := s.Raw()
	require.NoError(t, err)
	var all strings.Builder
	for _, name := range seed.Files {
		if data, ok := raw[name]; ok {
			fmt.Fprintf(&all, "%s: %s\n", name, jsonOf(t, data))
		}
	}
	require.Equal(t, `applications: {"applications":[{"name":"incus"}],"version":"1"}
incus: {"apply_defaults":false,"version":"1"}
install: {"version":"1"}
provider: {"config":{"server_token":"t","server_url":"https://x"},"name":"operations-center","version":"1"}
update: {"auto_reboot":false,"channel":"stable","check_frequency":"never","version":"1"}
`, all.String())
	s.Incus = &seed.Incus{Preseed: preseed()}
	data, err := s.Encode(seed.FileIncus)
	require.NoError(t, err)
	require.JSONEq(t, `{"version":"1","apply_defaults":false,"preseed":{"config":{"core.https_address":":8443"}}}`, string(data))
}

// TestSecretsAreNotPrinted: formatting a seed hides its secrets, and Tar writes them.
func TestSecretsAreNotPrinted(t *testing.T) {
	s := sample()
	s.Services.Tailscale = &seed.Tailscale{AuthKey: "hunter2"}
	s.Provider = seed.OperationsCenterProvider("https://x", "hunter2", nil)
	text := fmt.Sprintf("%v %+v %#v %v", s.Provider, s.Provider, s.Provider, s.Services.Tailscale)
	require.NotContains(t, text, "hunter2")
	archive, err := s.Tar()
	require.NoError(t, err)
	require.Equal(t, 2, bytes.Count(archive, []byte("hunter2")), "the archive contains the secrets")
}

// TestTooLarge: Tar rejects a seed that is larger than the partition.
func TestTooLarge(t *testing.T) {
	s := &seed.Seed{Security: &seed.Security{CustomCACerts: []string{strings.Repeat("x", seed.MaxTarSize)}}}
	_, err := s.Tar()
	require.ErrorIs(t, err, seed.ErrTooLarge)
}

// TestTextsRoundTrip: any text in a seed survives Tar and Read.
func TestTextsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &seed.Seed{Provider: &seed.Provider{Name: rapid.String().Draw(t, "name"), Config: map[string]seed.Secret{rapid.String().Draw(t, "key"): seed.Secret(rapid.String().Draw(t, "value"))}}}
		archive, err := s.Tar()
		require.NoError(t, err)
		read, err := seed.Read(bytes.NewReader(archive))
		require.NoError(t, err)
		read.Provider.Version = ""
		require.Equal(t, s, read)
	})
}

// FuzzRead: Read returns an error, or a seed that Tar can write again.
func FuzzRead(f *testing.F) {
	archive, err := sample().Tar()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(archive)
	f.Add(archive[:600])
	f.Add(bytes.Replace(archive, []byte("install.json"), []byte("install.yaml"), 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := seed.Read(bytes.NewReader(data))
		if err != nil || s == nil {
			if err != nil && !errors.Is(err, seed.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		_ = s.Validate(seed.Rules{})
		again, err := s.Tar()
		if err != nil {
			return
		}
		back, err := seed.Read(bytes.NewReader(again))
		if err != nil {
			t.Fatalf("%s\n%s", err, again)
		}
		if back != nil {
			third, err := back.Tar()
			if err != nil || !bytes.Equal(again, third) {
				t.Fatalf("%v\n%s\n%s", err, again, third)
			}
		}
	})
}

// FuzzSet: Set accepts a file or returns ErrInvalid.
func FuzzSet(f *testing.F) {
	for i, name := range seed.Files {
		data, err := sample().Encode(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(i, data)
	}
	f.Add(5, []byte("interfaces:\n- name: a\n  hwaddr: a\n  addresses: [dhcp4]\n"))
	f.Fuzz(func(t *testing.T, i int, data []byte) {
		s := &seed.Seed{}
		err := s.Set(seed.Files[(i%len(seed.Files)+len(seed.Files))%len(seed.Files)], data)
		if err != nil && !errors.Is(err, seed.ErrInvalid) {
			t.Fatal(err)
		}
	})
}
