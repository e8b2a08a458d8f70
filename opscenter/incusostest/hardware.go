package incusostest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
)

// This file makes realistic facts, with 20 to 40 KiB of hardware. They depend on the seed only.

type object = map[string]any

func generator(seed uint64, purpose uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, purpose)) }

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

func macAddress(seed uint64, n int) string {
	r := generator(seed, 77)
	return fmt.Sprintf("b8:ce:f6:%02x:%02x:%02x", r.IntN(256), r.IntN(256), n)
}

func encode(doc any) json.RawMessage {
	data, err := json.Marshal(doc)
	if err != nil {
		panic(err) // doc has only maps, lists, strings and numbers
	}
	return data
}

func serial(r *rand.Rand, n int) string {
	const letters = "ABCDEFGHJKLMNPQRSTUVWXYZ0123456789"
	out := make([]byte, n)
	for i := range out {
		out[i] = letters[r.IntN(len(letters))]
	}
	return string(out)
}

// Hardware returns the hardware facts of a server with that Options.Seed, in the form of api.Resources as JSON.
func Hardware(seed uint64) json.RawMessage { return hardware(seed, 0) }

// hardware returns the hardware facts of a server whose network cards have that many virtual functions.
func hardware(seed uint64, functions int) json.RawMessage {
	r := generator(seed, 1)
	cpu := pick(r, "Intel(R) Xeon(R) Gold 6342 CPU @ 2.80GHz", "Intel(R) Xeon(R) Silver 4314 CPU @ 2.40GHz", "AMD EPYC 7543 32-Core Processor", "AMD EPYC 9354 32-Core Processor")
	vendor := pick(r, "Dell Inc.", "HPE", "Supermicro", "Lenovo")
	sockets, cores := 2, pick(r, 24, 28, 32)
	thread := 0
	var cpus []any
	for socket := range sockets {
		var list []any
		for core := range cores {
			var threads []any
			for t := range 2 {
				threads = append(threads, object{"id": thread, "numa_node": socket, "thread": t, "online": true, "isolated": false})
				thread++
			}
			list = append(list, object{"core": core, "cluster": 0, "die": 0, "threads": threads, "frequency": 2800 + r.IntN(400), "flags": []any{}})
		}
		cpus = append(cpus, object{"name": cpu, "vendor": "GenuineIntel", "socket": socket, "address_sizes": object{"physical_bits": 46, "virtual_bits": 57},
			"cache": []any{object{"level": 1, "type": "Data", "size": 49152}, object{"level": 1, "type": "Instruction", "size": 32768},
				object{"level": 2, "type": "Unified", "size": 1310720}, object{"level": 3, "type": "Unified", "size": 37748736}},
			"cores": list, "frequency": 2800, "frequency_minimum": 800, "frequency_turbo": 3500})
	}
	memory := uint64(pick(r, 256, 512, 768, 1024)) << 30
	var nodes []any
	for n := range sockets {
		nodes = append(nodes, object{"numa_node": n, "hugepages_used": 0, "hugepages_total": 0, "used": memory / 4, "total": memory / 2})
	}
	var cards, disks, devices []any
	many := 2
	if functions > 0 {
		many = 8
	}
	for c := range many {
		var ports []any
		for p := range 2 {
			ports = append(ports, object{"id": fmt.Sprintf("enp%ds0f%dnp%d", 65+c, p, p), "address": macAddress(seed, c*2+p), "port": p, "protocol": "ethernet",
				"supported_modes": []any{"10000baseT/Full", "25000baseCR/Full", "25000baseSR/Full"}, "supported_ports": []any{"fibre"}, "port_type": "fibre",
				"transceiver_type": "internal", "auto_negotiation": true, "link_detected": true, "link_speed": 25000, "link_duplex": "full"})
		}
		address := fmt.Sprintf("0000:%02x:00.0", 65+c)
		cards = append(cards, object{"driver": "mlx5_core", "driver_version": "6.12.41", "ports": ports, "numa_node": c, "pci_address": address,
			"vendor": "Mellanox Technologies", "vendor_id": "15b3", "product": "MT2894 Family [ConnectX-6 Lx]", "product_id": "101f", "firmware_version": "26.36.1010 (DEL0000000031)"})
	}
	for d := range 4 + r.IntN(9) {
		id := fmt.Sprintf("nvme%dn1", d)
		disks = append(disks, object{"id": id, "device": fmt.Sprintf("259:%d", d), "model": "Dell Ent NVMe P5600 MU U.2 3.2TB", "type": "nvme", "read_only": false,
			"size": int64(3200631791616), "removable": false, "wwn": "eui." + serial(r, 32), "numa_node": d % 2, "device_path": "pci-0000:b1:00.0-nvme-1", "block_size": 512,
			"firmware_version": "1.2.0", "rpm": 0, "serial": "PHAB" + serial(r, 14), "device_id": "nvme-Dell_Ent_NVMe_P5600_MU_U.2_3.2TB_" + serial(r, 16), "partitions": []any{}})
	}
	for d := range 24 + r.IntN(8) {
		devices = append(devices, object{"driver": pick(r, "", "pcieport", "nvme", "ahci", "xhci_hcd", "i801_smbus"), "driver_version": "6.12.41", "numa_node": d % 2,
			"pci_address": fmt.Sprintf("0000:%02x:%02x.%d", d, r.IntN(32), r.IntN(8)), "vendor": "Intel Corporation", "vendor_id": "8086",
			"product":    pick(r, "Ice Lake Memory Map/VT-d", "C620 Series Chipset SATA Controller", "Ice Lake PMON MSM", "Sky Lake-E PCI Express Root Port A"),
			"product_id": fmt.Sprintf("%04x", r.IntN(1<<16)), "iommu_group": d, "vpd": object{}})
	}
	for c, card := range cards {
		if card := card.(object); functions > 0 {
			card["sriov"] = object{"current_vfs": functions, "maximum_vfs": functions, "vfs": virtualFunctions(c, functions)}
		}
	}
	return encode(object{
		"cpu":     object{"architecture": "x86_64", "sockets": cpus, "total": thread},
		"memory":  object{"nodes": nodes, "hugepages_total": 0, "hugepages_used": 0, "hugepages_size": 2097152, "used": memory / 3, "total": memory},
		"gpu":     object{"cards": []any{object{"driver": "mgag200", "driver_version": "6.12.41", "numa_node": 0, "pci_address": "0000:03:00.0", "vendor": "Matrox Electronics Systems Ltd.", "vendor_id": "102b", "product": "Integrated Matrox G200eW3 Graphics Controller", "product_id": "0536"}}, "total": 1},
		"network": object{"cards": cards, "total": len(cards)},
		"storage": object{"disks": disks, "total": len(disks)},
		"usb":     object{"devices": []any{}, "total": 0},
		"pci":     object{"devices": devices, "total": len(devices)},
		"system": object{"uuid": fmt.Sprintf("%08x-%04x-%04x-%04x-%012x", r.Uint32(), r.IntN(1<<16), r.IntN(1<<16), r.IntN(1<<16), r.Uint64()>>16), "vendor": vendor,
			"product": "PowerEdge R650", "family": "PowerEdge", "version": "", "sku": "SKU=" + serial(r, 4), "serial": serial(r, 7), "type": "physical",
			"firmware":    object{"vendor": vendor, "date": "03/17/2026", "version": "1.19.2"},
			"chassis":     object{"vendor": vendor, "type": "Rack Mount Chassis", "serial": serial(r, 7), "version": ""},
			"motherboard": object{"vendor": vendor, "product": serial(r, 6), "serial": "." + serial(r, 7) + ".", "version": "A03"}},
		"load": object{"Average1Min": r.Float64(), "Average5Min": r.Float64(), "Average10Min": r.Float64(), "Processes": 400 + r.IntN(200)},
	})
}

// virtualFunctions returns the virtual functions of a network card with SR-IOV.
func virtualFunctions(card, n int) (out []any) {
	for f := range n {
		out = append(out, object{"driver": "mlx5_core", "driver_version": "6.12.41", "numa_node": card % 2, "pci_address": fmt.Sprintf("0000:%02x:%02x.%d", 65+card, f/8, f%8),
			"vendor": "Mellanox Technologies", "vendor_id": "15b3", "product": "MT28908 Family [ConnectX-6 Virtual Function]", "product_id": "101c", "firmware_version": "20.38.1002 (MT_0000000224)",
			"ports": []any{object{"id": fmt.Sprintf("enp%ds0f0v%d", 65+card, f), "address": fmt.Sprintf("02:00:00:%02x:%02x:%02x", card, f>>8, f&0xff), "port": 0, "protocol": "ethernet",
				"supported_modes": []any{"100000baseSR4/Full", "100000baseKR4/Full", "25000baseCR/Full", "25000baseKR/Full"}, "supported_ports": []any{"fibre", "backplane"}, "port_type": "fibre",
				"transceiver_type": "internal", "auto_negotiation": false, "link_detected": true, "link_speed": 100000, "link_duplex": "full"}}})
	}
	return out
}

func storage(seed uint64) json.RawMessage {
	r := generator(seed, 2)
	var drives []any
	var members []any
	for d := range 4 {
		id := "/dev/disk/by-id/nvme-Dell_Ent_NVMe_P5600_MU_U.2_3.2TB_PHAB" + serial(r, 14)
		members = append(members, id)
		drives = append(drives, object{"id": id, "model_family": "", "model_name": "Dell Ent NVMe P5600 MU U.2 3.2TB", "serial_number": serial(r, 18), "bus": "nvme",
			"capacity_in_bytes": int64(3200631791616), "boot": d == 0, "multipath": false, "removable": false, "remote": false, "wwn": "eui." + serial(r, 32), "member_pool": "local",
			"smart": object{"enabled": true, "passed": true, "power_on_hours": 12345 + d, "data_units_read": r.IntN(1 << 30), "data_units_written": r.IntN(1 << 30), "available_spare": 100, "percentage_used": 3}})
	}
	return encode(object{"config": object{"scrub_schedule": "0 4 * * 0", "pools": []any{object{"name": "local", "type": "zfs-raidz1", "devices": members}}},
		"state": object{"drives": drives, "pools": []any{object{"name": "local", "type": "zfs-raidz1", "state": "ONLINE", "devices": members}}}})
}

func security(seed uint64) json.RawMessage {
	r := generator(seed, 3)
	return encode(object{
		"config": object{"encryption_recovery_keys": []any{"simulated-recovery-key-" + serial(r, 8)}},
		"state": object{"encrypted_volumes": []any{object{"volume": "root", "state": "unlocked (TPM)"}, object{"volume": "swap", "state": "unlocked (TPM)"}},
			"encryption_recovery_keys_retrieved": true, "drive_recovery_keys": object{"sda": "simulated-drive-key"}, "pool_recovery_keys": object{"local": "simulated-pool-key"},
			"secure_boot_certificates": []any{object{"type": "PK", "fingerprint": "26dce4dbb3de2d72bd16ae91a85cfeda84535317d3ee77e0d4b2d65e714cf111",
				"subject": "CN=Incus OS - Secure Boot PK R1,O=Linux Containers", "issuer": "CN=Incus OS - Root E1,O=Linux Containers"}},
			"secure_boot_enabled": true, "system_state_is_trusted": true, "system_state_status": "trusted", "tpm_status": "ok"}})
}
