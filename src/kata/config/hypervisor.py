"""The `[hypervisor.qemu]` table: the virtual machine and the host's parts of it."""

from __future__ import annotations

import os

from kata.config.setting import Section, later, setting

# QEMU's targets are named after the machine, with two exceptions that upstream packages too.
_MACHINE = os.uname().machine
_TARGET = {"ppc64le": "ppc64", "i686": "i386"}.get(_MACHINE, _MACHINE)

# Upstream's ceiling, and what QEMU's q35 takes without an interrupt-remapping unit.
MOST_VCPUS = 256


def _merge_kernel_params(configured: str, added: str) -> str:
    """Put a pod's parameters after the configured ones, whose keys they replace."""
    keys = {word.partition("=")[0] for word in added.split()}
    kept = [word for word in configured.split() if word.partition("=")[0] not in keys]
    return " ".join([*kept, *added.split()])


class HypervisorSettings(Section, table="hypervisor.qemu", annotated_as="config.hypervisor."):
    """QEMU, the guest's kernel and root, its size, and how files reach it."""

    path: str = setting(
        default=f"/usr/bin/qemu-system-{_TARGET}",
        shown="/usr/bin/qemu-system-<arch>",
        annotation=True,
        allowed_by="valid_hypervisor_paths",
        asset=True,
        help="The QEMU binary.",
    )
    valid_hypervisor_paths: tuple[str, ...] = setting(
        default=(),
        help="Globs of files that a pod may choose `path` from, besides the configured one.",
    )
    kernel: str = setting(
        default="",
        annotation=True,
        asset=True,
        help="The guest kernel, uncompressed: decompressing takes seconds under emulation.",
    )
    initrd: str = setting(
        default="",
        annotation=True,
        asset=True,
        help="The guest's root as an initramfs. Upstream ships a disk image instead.",
    )
    machine_type: str = setting(
        default="q35",
        choices=("q35",),
        planned=("virt", "s390-ccw-virtio", "pseries", "microvm"),
        annotation=True,
        help="The machine that QEMU models.",
    )
    machine_accelerators: str = setting(
        default="",
        annotation=True,
        help="More options for QEMU's -machine, separated by commas.",
    )
    cpu_features: str = setting(
        default="pmu=off",
        annotation=True,
        help="CPU flags for QEMU's -cpu, separated by commas.",
    )
    kernel_params: str = setting(
        default="cgroup_no_v1=all systemd.unified_cgroup_hierarchy=1",
        annotation=True,
        combine=_merge_kernel_params,
        help="Added to the guest's command line. A pod's replace those with the same key.",
    )
    default_vcpus: float = setting(
        default=1.0,
        unit="vCPUs",
        annotation=True,
        help=(
            "vCPUs at boot. A fraction is added to what the pod asks for and the sum rounded up; "
            "a negative number means all of the host's, 0 means 1."
        ),
    )
    default_maxvcpus: int = setting(
        default=0,
        unit="vCPUs",
        minimum=0,
        annotation="default_max_vcpus",
        help=f"Most vCPUs that a guest may get. 0 is the host's number, at most {MOST_VCPUS}.",
    )
    default_memory: int = setting(
        default=2048,
        unit="MiB",
        minimum=64,
        annotation=True,
        help="The guest's memory at boot.",
    )
    default_maxmemory: int = setting(
        default=0,
        unit="MiB",
        minimum=0,
        help="Most memory that a guest may get, by what is plugged in. 0 is the host's.",
    )
    memory_slots: int = setting(
        default=10,
        minimum=0,
        maximum=255,
        annotation=True,
        help="Slots for memory modules that are plugged in; 0 means that none can be.",
    )
    rootless: bool = setting(
        default=False,
        annotation=True,
        help=(
            "Run QEMU as a user of the sandbox's own, a number without a name. Kernel and initrd "
            'have to be readable by everybody, and `shared_fs` "virtio-fs".'
        ),
    )
    shared_fs: str = setting(
        default="virtio-fs",
        choices=("virtio-fs", "virtio-9p"),
        planned=("none", "inline-virtio-fs", "virtio-fs-nydus"),
        annotation=True,
        help="How the host shares directories with the guest.",
    )
    virtio_fs_daemon: str = setting(
        default="/usr/libexec/virtiofsd",
        annotation=True,
        allowed_by="valid_virtio_fs_daemon_paths",
        asset=True,
        help="The virtiofsd binary.",
    )
    valid_virtio_fs_daemon_paths: tuple[str, ...] = setting(
        default=(),
        help=(
            "Globs of files that a pod may choose `virtio_fs_daemon` from, besides the "
            "configured one."
        ),
    )
    virtio_fs_cache: str = setting(
        default="auto",
        choices=("never", "auto", "always"),
        annotation=True,
        help="How long the guest may cache what it has read from a share.",
    )
    virtio_fs_extra_args: tuple[str, ...] = setting(
        default=("--thread-pool-size=1", "-o", "announce_submounts"),
        annotation=True,
        help="More arguments for virtiofsd, one list item for each word.",
    )
    virtio_fs_queue_size: int = setting(
        default=1024,
        choices=(2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
        help="Entries in a share's request queue: a power of two, at most QEMU's 1024.",
    )
    msize_9p: int = setting(
        default=131072,
        unit="bytes",
        minimum=4096,
        annotation=True,
        help=(
            "Largest message of a virtio-9p share. Upstream's 8192 makes every read of a file many "
            "round trips; QEMU itself warns below 128 KiB."
        ),
    )
    entropy_source: str = setting(
        default="/dev/urandom",
        annotation=True,
        allowed_by="valid_entropy_sources",
        help="The host device that feeds the guest's random number generator.",
    )
    valid_entropy_sources: tuple[str, ...] = setting(
        default=("/dev/urandom", "/dev/random", ""),
        help="Globs of devices that a pod may choose `entropy_source` from.",
    )
    seccomp_sandbox: str = setting(
        default="on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        aliases=("seccompsandbox",),
        help=(
            "Argument of QEMU's -sandbox; empty, as upstream has it, starts QEMU without a seccomp "
            "filter."
        ),
    )
    enable_debug: bool = setting(default=False, help="Log QEMU's messages and the guest's console.")
    enable_annotations: tuple[str, ...] = setting(
        default=(
            "enable_iommu",
            "kernel_params",
            "kernel_verity_params",
            "default_vcpus",
            "default_memory",
        ),
        help=(
            "Regular expressions for the io.katacontainers.config.hypervisor.* annotations that "
            "pods may set, hashes included, and for disable_guest_seccomp and sandbox_cgroup_only "
            "of config.runtime. Each must match the whole name; upstream also takes a part of it."
        ),
    )

    # Known from upstream, not implemented yet: the guest's image and firmware.
    image: str = later(
        default="", annotation=True, help="The guest's root as a disk image; use initrd."
    )
    rootfs_type: str = later(default="ext4", help="File system of the disk image.")
    vm_rootfs_driver: str = later(
        default="virtio-pmem", help="How the disk image is attached to the guest."
    )
    disable_image_nvdimm: bool = later(
        default=False, annotation=True, help="Attach the disk image as a disk, not as memory."
    )
    kernel_verity_params: str = later(
        default="", annotation=True, help="Root hash, salt and sizes of a dm-verity image."
    )
    firmware: str = later(default="", annotation=True, help="UEFI or BIOS code.")
    firmware_volume: str = later(default="", annotation=True, help="UEFI variable store.")
    pflashes: tuple[str, ...] = later(default=(), help="UEFI flash images.")
    guest_extension_images: tuple[str, ...] = later(
        default=(), help="Tables of further read-only disks that the guest mounts."
    )
    guest_hook_path: str = later(
        default="", annotation=True, help="Directory of OCI hooks inside the guest's image."
    )
    initdata: str = later(
        default="", annotation="cc_init_data", help="Data measured into a confidential guest."
    )
    prefetch_list_path: str = later(
        default="", annotation="prefetch_files.list", help="Files that nydus reads ahead."
    )

    # The VMM as a process.
    rootless_user: tuple[str, ...] = later(
        default=(), help="Table that upstream fills with that user at run time."
    )
    log_level: str = later(default="info", help="How much the VMM logs.")
    hypervisor_loglevel: int = later(default=1, help="The same for upstream's Go runtime.")
    extra_monitor_socket: str = later(
        default="", help="One more QEMU monitor for debugging: hmp, qmp or qmp-pretty."
    )
    disable_nesting_checks: bool = later(
        default=False, help="Do not adapt to running inside a virtual machine."
    )
    disable_selinux: bool = later(default=False, help="Run the VMM without an SELinux label.")
    disable_guest_selinux: bool = later(default=True, help="Ignore SELinux labels in the guest.")
    selinux_label: str = later(default="", help="SELinux label of the VMM.")
    disable_seccomp: bool = later(default=False, help="Seccomp switch of other VMMs.")
    jailer_path: str = later(default="", annotation=True, help="Firecracker's jailer.")
    valid_jailer_paths: tuple[str, ...] = later(
        default=(), help="Globs of files that a pod may choose `jailer_path` from."
    )
    ctlpath: str = later(default="", help="Control binary of other VMMs.")
    valid_ctlpaths: tuple[str, ...] = later(
        default=(), help="Globs of files that a pod may choose `ctlpath` from."
    )
    disable_nested_virtualization: bool = later(
        default=False, help="Hide virtualisation from a Cloud Hypervisor guest."
    )
    use_legacy_serial: bool = later(
        default=False, annotation=True, help="Console on an 8250 port instead of virtio."
    )
    guest_memory_dump_path: str = later(
        default="", help="Directory for a memory dump when the guest panics."
    )
    guest_memory_dump_paging: bool = later(
        default=False, help="Dump with the guest's virtual addresses."
    )

    # Processors and memory.
    overhead_vcpus: float = later(
        default=0.2,
        unit="vCPUs",
        help="Added to the pod's vCPUs by upstream's Rust runtime; here default_vcpus are.",
    )
    overhead_memory: int = later(
        default=32,
        unit="MiB",
        help="Added to the pod's memory by upstream's Rust runtime; here default_memory is.",
    )
    memory_offset: int = later(
        default=0, unit="MiB", annotation=True, help="Address space kept for nvdimm."
    )
    enable_virtio_mem: bool = later(
        default=False, annotation=True, help="Resize memory through virtio-mem."
    )
    reclaim_guest_freed_memory: bool = later(
        default=False, annotation=True, help="Take pages back that the guest has freed."
    )
    enable_mem_prealloc: bool = later(
        default=False, annotation=True, help="Touch all guest memory at the start."
    )
    enable_hugepages: bool = later(
        default=False, annotation=True, help="Back guest memory with huge pages."
    )
    hugepage_type: str = later(
        default="hugetlbfs", annotation=True, help="Huge pages of hugetlbfs, or transparent ones."
    )
    enable_numa: bool = later(default=False, help="Show the host's NUMA nodes to the guest.")
    numa_mapping: tuple[str, ...] = later(
        default=(), annotation=True, help="Which host nodes make a guest node."
    )
    enable_guest_swap: bool = later(
        default=False, annotation=True, help="Give the guest a swap disk."
    )
    guest_swap_path: str = later(
        default="/run/kata-containers/swap", help="Directory of the swap disks."
    )
    guest_swap_size_percent: int = later(
        default=100, unit="%", help="Size of the swap disk, of the guest's memory."
    )
    guest_swap_create_threshold_secs: int = later(
        default=60, unit="s", help="Age of a sandbox before it gets its swap disk."
    )

    # File sharing and block devices.
    virtio_fs_cache_size: int = later(
        default=0, unit="MiB", annotation=True, help="Size of the share's DAX window."
    )
    virtio_fs_is_dax: bool = later(default=False, help="Map shared files into the guest.")
    disable_block_device_use: bool = later(
        default=False, annotation=True, help="Share block devices' files instead of attaching them."
    )
    block_device_driver: str = later(
        default="virtio-scsi", annotation=True, help="Which device carries a disk."
    )
    block_device_aio: str = later(
        default="io_uring", annotation=True, help="How QEMU does asynchronous disk I/O."
    )
    block_device_cache_set: bool = later(
        default=False, annotation=True, help="Apply the next two keys to disks."
    )
    block_device_cache_direct: bool = later(
        default=False, annotation=True, help="Bypass the host's page cache for disks."
    )
    block_device_cache_noflush: bool = later(
        default=False, annotation=True, help="Ignore a guest's flush requests."
    )
    block_device_logical_sector_size: int = later(
        default=0,
        unit="bytes",
        annotation="blk_logical_sector_size",
        help="Logical sector size of disks; 0 is the device's own.",
    )
    block_device_physical_sector_size: int = later(
        default=0,
        unit="bytes",
        annotation="blk_physical_sector_size",
        help="Physical sector size of disks; 0 is the device's own.",
    )
    enable_iothreads: bool = later(
        default=False, annotation=True, help="Give disk I/O a thread of its own."
    )
    indep_iothreads: int = later(default=0, annotation=True, help="Number of such threads.")
    queue_size: int = later(
        default=128, annotation="block_device_queue_size", help="Entries of a disk's queue."
    )
    num_queues: int = later(
        default=1, annotation="block_device_num_queues", help="Queues of a disk."
    )
    enable_vhost_user_store: bool = later(
        default=False, annotation=True, help="Attach disks that a vhost-user process serves."
    )
    vhost_user_store_path: str = later(
        default="/var/run/kata-containers/vhost-user",
        annotation=True,
        help="Directory of vhost-user sockets.",
    )
    valid_vhost_user_store_paths: tuple[str, ...] = later(
        default=(), help="Globs that a pod may choose `vhost_user_store_path` from."
    )
    vhost_user_reconnect_timeout_sec: int = later(
        default=0, unit="s", annotation=True, help="How long to wait for a vhost-user restart."
    )
    disk_rate_limiter_bw_max_rate: int = later(
        default=0, unit="bit/s", help="Disk bandwidth limit of other VMMs."
    )
    disk_rate_limiter_bw_one_time_burst: int = later(
        default=0, unit="bits", help="Disk bandwidth burst of other VMMs."
    )
    disk_rate_limiter_ops_max_rate: int = later(
        default=0, unit="1/s", help="Disk operation limit of other VMMs."
    )
    disk_rate_limiter_ops_one_time_burst: int = later(
        default=0, help="Disk operation burst of other VMMs."
    )

    # Network.
    disable_vhost_net: bool = setting(
        default=False, annotation=True, help="Move packets in QEMU instead of the kernel."
    )
    network_queues: int = setting(
        default=1,
        minimum=1,
        maximum=256,
        annotation=True,
        help="Pairs of queues of each network interface.",
    )
    rx_rate_limiter_max_rate: int = later(
        default=0, unit="bit/s", annotation=True, help="Limit for incoming traffic."
    )
    tx_rate_limiter_max_rate: int = later(
        default=0, unit="bit/s", annotation=True, help="Limit for outgoing traffic."
    )
    net_rate_limiter_bw_max_rate: int = later(
        default=0, unit="bit/s", help="Network bandwidth limit of other VMMs."
    )
    net_rate_limiter_bw_one_time_burst: int = later(
        default=0, unit="bits", help="Network bandwidth burst of other VMMs."
    )
    net_rate_limiter_ops_max_rate: int = later(
        default=0, unit="1/s", help="Network operation limit of other VMMs."
    )
    net_rate_limiter_ops_one_time_burst: int = later(
        default=0, help="Network operation burst of other VMMs."
    )

    # Buses and passed-through devices.
    default_bridges: int = later(default=1, help="PCI bridges for hotplug.")
    enable_iommu: bool = later(
        default=False, annotation=True, help="Give the guest a virtual IOMMU."
    )
    enable_iommu_platform: bool = later(
        default=False, annotation=True, help="Send virtio's memory accesses through the IOMMU."
    )
    hot_plug_vfio: str = later(
        default="no-port", annotation=True, help="Port for host devices that come later."
    )
    cold_plug_vfio: str = later(
        default="no-port", annotation=True, help="Port for host devices present at boot."
    )
    pcie_root_port: int = later(default=0, annotation=True, help="PCIe root ports to make.")
    pcie_switch_port: int = later(default=0, annotation=True, help="PCIe switch ports to make.")

    # Confidential guests, and the flavours that are not a local QEMU.
    confidential_guest: bool = later(default=False, help="Encrypt and measure the guest.")
    sev_snp_guest: bool = later(default=False, help="Prefer AMD SEV-SNP to SEV.")
    snp_id_block: str = later(default="", help="SNP launch identity.")
    snp_id_auth: str = later(default="", help="Signature of the SNP launch identity.")
    snp_guest_policy: int = later(default=0x30000, help="SNP launch policy bits.")
    tdx_quote_generation_service_socket_port: int = later(
        default=0, help="vsock port of the TDX quote service; 0 is its Unix socket."
    )
    measurement_algo: str = later(default="", help="Hash that measures initdata.")
    remote_hypervisor_socket: str = later(
        default="/run/peerpod/hypervisor.sock", help="Socket of the peer-pod daemon."
    )
    remote_hypervisor_timeout: int = later(
        default=600, unit="s", help="Limit for calls to the peer-pod daemon."
    )
    default_gpus: int = later(default=0, annotation=True, help="GPUs of a peer pod.")
    default_gpu_model: str = later(default="", annotation=True, help="GPU model of a peer pod.")

    # Upstream's own notes about templates; the factory keeps ours.
    boot_to_be_template: bool = later(default=False, help="The VM becomes a template.")
    boot_from_template: bool = later(default=False, help="The VM starts from a template.")
    memory_path: str = later(default="", help="The template's memory file.")
    device_state_path: str = later(default="", help="The template's device state file.")

    def boot_vcpus(self, host: int) -> int:
        """Return the whole vCPUs of a guest without limits, on a host with `host` processors.

        From `default_vcpus`: rounded up; negative is all of the host's; never less than 1, never
        more than `ceiling_vcpus`.
        """
        wanted = host if self.default_vcpus < 0 else -int(-self.default_vcpus // 1)
        return max(1, min(wanted, self.ceiling_vcpus(host)))

    def ceiling_vcpus(self, host: int) -> int:
        """Return the most vCPUs that a guest may have, on a host with `host` processors."""
        return max(1, min(self.default_maxvcpus or host, host, MOST_VCPUS))

    def ceiling_memory(self, host: int) -> int:
        """Return the most memory that a guest may have, on a host with `host`, all in MiB."""
        return max(self.default_memory, self.default_maxmemory or host)
