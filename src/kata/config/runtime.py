"""The `[runtime]` table: what the shim does around the virtual machine."""

from __future__ import annotations

from kata.config.agent import LOG_LEVELS
from kata.config.setting import Section, later, setting


class RuntimeSettings(Section, table="runtime", annotated_as="config.runtime."):
    """How the shim behaves on the host."""

    enable_debug: bool = setting(
        default=False, help="Log the shim's debug messages; wins over log_level."
    )
    log_level: str = setting(default="info", choices=LOG_LEVELS, help="How much the shim logs.")
    internetworking_model: str = setting(
        default="tcfilter",
        choices=("tcfilter", "macvtap", "none"),
        planned=("l3forwarding",),
        annotation=True,
        help="How the pod's network interfaces reach the guest.",
    )
    sandbox_cgroup_only: bool = setting(
        default=True,
        annotation=True,
        help=(
            "Keep every process of a sandbox in the pod's own cgroup, in kata_<sandbox>; otherwise "
            "QEMU alone is there, and the shim and virtiofsd are in /kata_overhead."
        ),
    )
    static_sandbox_resource_mgmt: bool = setting(
        default=True,
        help=(
            "Give the guest its size at its start: default_vcpus and default_memory, and on top "
            "what the sandbox's annotations say its containers may use; afterwards it grows only "
            "for a changed limit. false: it starts with the defaults and grows with each "
            "container's limits. It never shrinks. docs/resources.md has the rules."
        ),
    )
    create_container_timeout: int = setting(
        default=60,
        unit="s",
        minimum=1,
        annotation=True,
        help="The same setting as in [agent.kata]; both tables hold the value given in either.",
    )
    disable_guest_seccomp: bool = setting(
        default=False,
        annotation=True,
        help=(
            "Drop the containers' seccomp profiles instead of applying them in the guest; "
            "upstream's default is true."
        ),
    )
    sandbox_logs_count: int = setting(
        default=32,
        unit="sandboxes",
        minimum=0,
        help=(
            "Of how many ended sandboxes the guest's console and the start ledger are kept for "
            "`kata-ctl logs`, at most 1 MiB of each; 0 keeps none. Ours: upstream has no such key."
        ),
    )
    sandbox_logs_path: str = setting(
        default="/var/log/kata-containers",
        help="Directory that holds those logs, readable by root alone.",
    )
    experimental: tuple[str, ...] = later(
        default=(), annotation=True, help="Features to try; there are none yet."
    )
    name: str = later(
        default="virt_container", annotation=True, help="The kind of sandbox; there is one."
    )
    hypervisor_name: str = later(
        default="qemu", annotation=True, help="Which [hypervisor.*] table is used."
    )
    agent_name: str = later(default="kata", annotation=True, help="Which [agent.*] table is used.")
    enable_vcpus_pinning: bool = later(
        default=False, annotation=True, help="Pin each vCPU's thread to one processor."
    )
    guest_selinux_label: str = later(
        default="", annotation=True, help="SELinux label of containers in the guest."
    )
    enable_tracing: bool = later(default=False, help="Record trace spans of the shim.")
    jaeger_endpoint: str = later(default="", help="Where trace spans are sent.")
    jaeger_user: str = later(default="", help="User name at the trace collector.")
    jaeger_password: str = later(default="", help="Password at the trace collector.")
    disable_new_netns: bool = later(
        default=False, annotation=True, help="Run the VM in the host's network namespace."
    )
    sandbox_bind_mounts: tuple[str, ...] = later(
        default=(), help="Host files shown in every guest; :ro (default) or :rw at the end."
    )
    vfio_mode: str = later(
        default="guest-kernel",
        annotation=True,
        help="Whether a VFIO device is bound to a guest driver or handed over as it is.",
    )
    disable_guest_empty_dir: bool = later(
        default=True, help="Keep emptyDir volumes on the host's file share."
    )
    emptydir_mode: str = later(default="shared-fs", help="Where emptyDir volumes on disk live.")
    experimental_force_guest_pull: bool = later(
        default=False, annotation=True, help="Pull container images inside the guest."
    )
    enable_pprof: bool = later(
        default=False, annotation=True, help="Serve profiling data on the management socket."
    )
    dan_conf: str = later(
        default="/run/kata-containers/dans",
        help="Directory of JSON files that describe directly attached networks.",
    )
    kubelet_root_dir: str = later(
        default="/var/lib/kubelet", help="Below which Kubernetes volumes are recognised."
    )
    pod_resource_api_sock: str = later(
        default="", help="Socket where kubelet says which devices a pod was given."
    )
    keep_abnormal: bool = later(
        default=False, help="Keep a sandbox that ended abnormally, for debugging."
    )
    shared_mounts: tuple[str, ...] = later(
        default=(), annotation=True, help="Tables of paths shared between a pod's containers."
    )
    use_passfd_io: bool = later(
        default=False, help="Hand stdio descriptors to the VMM instead of copying."
    )
    passfd_listener_port: int = later(default=1027, help="vsock port for handed-over stdio.")
