"""OCI structures as the agent's messages.

Host matters are left out here: hooks that run on the host, AppArmor and SELinux labels of the
host's policy, and namespace paths (they name files of the host's kernel).
"""

from kata_api import oci
from kata_api.agent import oci_pb2 as pb

_SHARED_NAMESPACES = ("network", "ipc", "uts")
"""Namespaces that are the sandbox's own: the guest's."""


def spec(source: oci.Spec) -> pb.Spec:
    """Return a specification as the agent's message."""
    return pb.Spec(
        Version=source.oci_version,
        Process=process(source.process) if source.process else None,
        Root=pb.Root(Path=source.root.path, Readonly=source.root.readonly) if source.root else None,
        Hostname=source.hostname,
        Domainname=source.domainname,
        Hooks=pb.Hooks(
            CreateContainer=_hooks(source.hooks.create_container),
            StartContainer=_hooks(source.hooks.start_container),
        )
        if source.hooks
        else None,
        Mounts=[
            pb.Mount(
                destination=mount.destination,
                source=mount.source,
                type=mount.type,
                options=mount.options,
            )
            for mount in source.mounts
        ],
        Annotations=source.annotations,
        Linux=_linux(source.linux) if source.linux else None,
    )


def process(source: oci.Process) -> pb.Process:
    """Return a process as the agent's message."""
    size = source.console_size
    capabilities = source.capabilities
    return pb.Process(
        Terminal=source.terminal,
        ConsoleSize=pb.Box(Height=size.height, Width=size.width) if size else None,
        User=pb.User(
            UID=source.user.uid,
            GID=source.user.gid,
            AdditionalGids=source.user.additional_gids,
            Username=source.user.username,
            Umask=source.user.umask,
        ),
        Args=source.args,
        Env=source.env,
        Cwd=source.cwd,
        Capabilities=pb.LinuxCapabilities(
            Bounding=capabilities.bounding,
            Effective=capabilities.effective,
            Inheritable=capabilities.inheritable,
            Permitted=capabilities.permitted,
            Ambient=capabilities.ambient,
        )
        if capabilities
        else None,
        Rlimits=[
            pb.POSIXRlimit(Type=limit.type, Hard=limit.hard, Soft=limit.soft)
            for limit in source.rlimits
        ],
        NoNewPrivileges=source.no_new_privileges,
        OOMScoreAdj=source.oom_score_adj,
        Scheduler=_scheduler(source.scheduler) if source.scheduler else None,
        IOPriority=pb.LinuxIOPriority(
            Class=source.io_priority.class_, Priority=source.io_priority.priority
        )
        if source.io_priority
        else None,
        ExecCPUAffinity=pb.LinuxCPUAffinity(
            Initial=source.exec_cpu_affinity.initial, Final=source.exec_cpu_affinity.final
        )
        if source.exec_cpu_affinity
        else None,
    )


def _hooks(source: tuple[oci.Hook, ...]) -> list[pb.Hook]:
    return [
        pb.Hook(Path=hook.path, Args=hook.args, Env=hook.env, Timeout=hook.timeout)
        for hook in source
    ]


def _scheduler(source: oci.Scheduler) -> pb.LinuxScheduler:
    return pb.LinuxScheduler(
        Policy=source.policy,
        Nice=source.nice,
        Priority=source.priority,
        Flags=source.flags,
        Runtime=source.runtime,
        Deadline=source.deadline,
        Period=source.period,
    )


def _linux(source: oci.Linux) -> pb.Linux:
    return pb.Linux(
        Sysctl=source.sysctl,
        Resources=resources(source.resources) if source.resources else None,
        CgroupsPath=source.cgroups_path,
        Namespaces=[
            pb.LinuxNamespace(Type=namespace.type)
            for namespace in source.namespaces
            if namespace.type not in _SHARED_NAMESPACES
        ],
        Devices=[
            pb.LinuxDevice(
                Path=device.path,
                Type=device.type,
                Major=device.major,
                Minor=device.minor,
                FileMode=device.file_mode,
                UID=device.uid,
                GID=device.gid,
            )
            for device in source.devices
        ],
        RootfsPropagation=source.rootfs_propagation,
        MaskedPaths=source.masked_paths,
        ReadonlyPaths=source.readonly_paths,
        Seccomp=_seccomp(source.seccomp) if source.seccomp else None,
        Personality=pb.LinuxPersonality(
            Domain=source.personality.domain, Flags=source.personality.flags
        )
        if source.personality
        else None,
        MemoryPolicy=pb.LinuxMemoryPolicy(
            Mode=source.memory_policy.mode,
            Nodes=source.memory_policy.nodes,
            Flags=source.memory_policy.flags,
        )
        if source.memory_policy
        else None,
        TimeOffsets={
            clock: pb.LinuxTimeOffset(Secs=offset.secs, Nanosecs=offset.nanosecs)
            for clock, offset in source.time_offsets.items()
        },
    )


def _seccomp(source: oci.Seccomp) -> pb.LinuxSeccomp:
    return pb.LinuxSeccomp(
        DefaultAction=source.default_action,
        DefaultErrnoRet=source.default_errno_ret,
        Architectures=source.architectures,
        Flags=source.flags,
        Syscalls=[
            pb.LinuxSyscall(
                Names=rule.names,
                Action=rule.action,
                errnoret=rule.errno_ret,
                Args=[
                    pb.LinuxSeccompArg(
                        Index=argument.index,
                        Value=argument.value,
                        ValueTwo=argument.value_two,
                        Op=argument.op,
                    )
                    for argument in rule.args
                ],
            )
            for rule in source.syscalls
        ],
    )


def resources(source: oci.LinuxResources) -> pb.LinuxResources:
    """Return the limits that the guest's cgroups enforce as the agent's message."""
    memory, cpu, pids = source.memory, source.cpu, source.pids
    return pb.LinuxResources(
        Devices=[
            pb.LinuxDeviceCgroup(
                Allow=rule.allow,
                Type=rule.type,
                Major=-1 if rule.major is None else rule.major,
                Minor=-1 if rule.minor is None else rule.minor,
                Access=rule.access,
            )
            for rule in source.devices
        ],
        Memory=pb.LinuxMemory(
            Limit=memory.limit,
            Reservation=memory.reservation,
            Swap=memory.swap,
            Swappiness=memory.swappiness,
            DisableOOMKiller=bool(memory.disable_oom_killer),
        )
        if memory
        else None,
        CPU=pb.LinuxCPU(
            Shares=cpu.shares,
            Quota=cpu.quota,
            Period=cpu.period,
            Burst=cpu.burst,
            Idle=cpu.idle,
            # The guest binds to them only if it has them all.
            Cpus=cpu.cpus,
            Mems=cpu.mems,
        )
        if cpu
        else None,
        Pids=pb.LinuxPids(Limit=pids.limit) if pids else None,
        HugepageLimits=[
            pb.LinuxHugepageLimit(Pagesize=limit.page_size, Limit=limit.limit)
            for limit in source.hugepage_limits
        ],
        BlockIO=_block_io(source.block_io) if source.block_io else None,
        Rdma={
            device: pb.LinuxRdma(HcaHandles=limits.hca_handles, HcaObjects=limits.hca_objects)
            for device, limits in source.rdma.items()
        },
        Unified=source.unified,
    )


def _block_io(source: oci.BlockIO) -> pb.LinuxBlockIO:
    def throttles(devices: tuple[oci.ThrottleDevice, ...]) -> list[pb.LinuxThrottleDevice]:
        return [pb.LinuxThrottleDevice(Major=d.major, Minor=d.minor, Rate=d.rate) for d in devices]

    return pb.LinuxBlockIO(
        Weight=source.weight,
        LeafWeight=source.leaf_weight,
        WeightDevice=[
            pb.LinuxWeightDevice(
                Major=device.major,
                Minor=device.minor,
                Weight=device.weight,
                LeafWeight=device.leaf_weight,
            )
            for device in source.weight_device
        ],
        ThrottleReadBpsDevice=throttles(source.throttle_read_bps_device),
        ThrottleWriteBpsDevice=throttles(source.throttle_write_bps_device),
        ThrottleReadIOPSDevice=throttles(source.throttle_read_iops_device),
        ThrottleWriteIOPSDevice=throttles(source.throttle_write_iops_device),
    )
