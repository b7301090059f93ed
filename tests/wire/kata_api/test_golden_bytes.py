"""Messages and their bytes, written by hand from the tables of field numbers, checked both ways."""

import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from kata_api.agent import agent_pb2, csi_pb2, health_pb2, oci_pb2, types_pb2
from kata_api.containerd import (
    bootstrap_pb2,
    cgroups_v1_pb2,
    cgroups_v2_pb2,
    events_forward_pb2,
    events_pb2,
    runc_options_pb2,
    runtime_options_pb2,
    sandbox_pb2,
    task_pb2,
    task_types_pb2,
)
from kata_api.containerd.types_pb2 import (
    Envelope,
    Metric,
    Mount,
    Platform,
    RuntimeInfo,
    RuntimeRequest,
    RuntimeVersion,
)

pytestmark = pytest.mark.wire

# A number n of a length-delimited field has the tag n << 3 | 2, of a varint n << 3.
AT = Timestamp(seconds=1, nanos=2)
AT_BYTES = b"\x04\x08\x01\x10\x02"
ANY = Any(type_url="u", value=b"v")
ANY_BYTES = b"\x06\x0a\x01u\x12\x01v"
MOUNT = Mount(type="bind", source="/s", target="t", options=["ro"])
MOUNT_BYTES = b"\x11\x0a\x04bind\x12\x02/s\x1a\x01t\x22\x02ro"
PAIR = {"k": "v"}
PAIR_BYTES = b"\x06\x0a\x01k\x12\x01v"
MINUS_ONE = b"\xff" * 9 + b"\x01"

TASK = [
    (
        task_pb2.CreateTaskRequest(
            id="c1",
            bundle="/b",
            rootfs=[MOUNT],
            terminal=True,
            stdin="i",
            stdout="o",
            stderr="e",
            checkpoint="k",
            parent_checkpoint="p",
            options=ANY,
        ),
        b"\x0a\x02c1\x12\x02/b\x1a" + MOUNT_BYTES + b"\x20\x01\x2a\x01i\x32\x01o\x3a\x01e"
        b"\x42\x01k\x4a\x01p\x52" + ANY_BYTES,
    ),
    (
        task_pb2.StateResponse(
            id="c1",
            bundle="/b",
            pid=300,
            status=task_types_pb2.RUNNING,
            stdin="i",
            stdout="o",
            stderr="e",
            terminal=True,
            exit_status=137,
            exited_at=AT,
            exec_id="x",
        ),
        b"\x0a\x02c1\x12\x02/b\x18\xac\x02\x20\x02\x2a\x01i\x32\x01o\x3a\x01e\x40\x01\x48\x89\x01"
        b"\x52" + AT_BYTES + b"\x5a\x01x",
    ),
    (
        task_pb2.DeleteResponse(pid=300, exit_status=137, exited_at=AT),
        b"\x08\xac\x02\x10\x89\x01\x1a" + AT_BYTES,
    ),
    (
        task_pb2.ExecProcessRequest(
            id="c", exec_id="x", terminal=True, stdin="i", stdout="o", stderr="e", spec=ANY
        ),
        b"\x0a\x01c\x12\x01x\x18\x01\x22\x01i\x2a\x01o\x32\x01e\x3a" + ANY_BYTES,
    ),
    (
        task_pb2.KillRequest(id="c", exec_id="x", signal=9, all=True),
        b"\x0a\x01c\x12\x01x\x18\x09\x20\x01",
    ),
    (
        task_pb2.ResizePtyRequest(id="c", exec_id="x", width=80, height=24),
        b"\x0a\x01c\x12\x01x\x18\x50\x20\x18",
    ),
    (task_pb2.CloseIORequest(id="c", exec_id="x", stdin=True), b"\x0a\x01c\x12\x01x\x18\x01"),
    (
        task_pb2.PidsResponse(processes=[task_types_pb2.ProcessInfo(pid=7, info=ANY)]),
        b"\x0a\x0a\x08\x07\x12" + ANY_BYTES,
    ),
    (
        task_pb2.CheckpointTaskRequest(id="c", path="/p", options=ANY),
        b"\x0a\x01c\x12\x02/p\x1a" + ANY_BYTES,
    ),
    (
        task_pb2.UpdateTaskRequest(id="c", resources=ANY, annotations=PAIR),
        b"\x0a\x01c\x12" + ANY_BYTES + b"\x1a" + PAIR_BYTES,
    ),
    (task_pb2.WaitResponse(exit_status=137, exited_at=AT), b"\x08\x89\x01\x12" + AT_BYTES),
    (task_pb2.StatsResponse(stats=ANY), b"\x0a" + ANY_BYTES),
    (task_pb2.ConnectResponse(shim_pid=7, task_pid=8, version="3"), b"\x08\x07\x10\x08\x1a\x013"),
    (task_pb2.ShutdownRequest(id="c", now=True), b"\x0a\x01c\x10\x01"),
    (task_pb2.StartResponse(pid=300), b"\x08\xac\x02"),
]

EVENTS = [
    (
        events_forward_pb2.ForwardRequest(
            envelope=Envelope(
                timestamp=Timestamp(seconds=1), namespace="k8s.io", topic="/tasks/exit", event=ANY
            )
        ),
        b"\x0a\x21\x0a\x02\x08\x01\x12\x06k8s.io\x1a\x0b/tasks/exit\x22" + ANY_BYTES,
    ),
    (
        events_pb2.TaskCreate(
            container_id="c",
            bundle="/b",
            rootfs=[MOUNT],
            io=events_pb2.TaskIO(stdin="i", stdout="o", stderr="e", terminal=True),
            checkpoint="k",
            pid=300,
        ),
        b"\x0a\x01c\x12\x02/b\x1a" + MOUNT_BYTES + b"\x22\x0b\x0a\x01i\x12\x01o\x1a\x01e\x20\x01"
        b"\x2a\x01k\x30\xac\x02",
    ),
    (
        events_pb2.TaskDelete(container_id="c", pid=7, exit_status=1, exited_at=AT, id="x"),
        b"\x0a\x01c\x10\x07\x18\x01\x22" + AT_BYTES + b"\x2a\x01x",
    ),
    (
        events_pb2.TaskExit(container_id="c", id="x", pid=7, exit_status=1, exited_at=AT),
        b"\x0a\x01c\x12\x01x\x18\x07\x20\x01\x2a" + AT_BYTES,
    ),
    (
        events_pb2.TaskExecStarted(container_id="c", exec_id="x", pid=7),
        b"\x0a\x01c\x12\x01x\x18\x07",
    ),
]

OPTIONS = [
    (
        runtime_options_pb2.Options(type_url="u", config_path="/c", config_body=b"\x00"),
        b"\x0a\x01u\x12\x02/c\x1a\x01\x00",
    ),
    (
        runc_options_pb2.Options(
            no_pivot_root=True, io_uid=4, binary_name="n", systemd_cgroup=True, task_api_version=3
        ),
        b"\x08\x01\x20\x04\x32\x01n\x48\x01\x68\x03",
    ),
    (runc_options_pb2.CheckpointOptions(exit=True, image_path="/i"), b"\x08\x01\x42\x02/i"),
    (
        bootstrap_pb2.BootstrapParams(
            instance_id="c",
            namespace="n",
            log_level=bootstrap_pb2.DEBUG,
            extensions=[bootstrap_pb2.Extension(value=ANY)],
            socket_dir="",
        ),
        b"\x0a\x01c\x12\x01n\x18\xfc" + b"\xff" * 8 + b"\x01\x42\x08\x0a" + ANY_BYTES + b"\x4a\x00",
    ),
    (
        bootstrap_pb2.BootstrapResult(version=3, address="a", protocol="ttrpc", metadata=PAIR),
        b"\x08\x03\x12\x01a\x1a\x05ttrpc\x2a" + PAIR_BYTES,
    ),
    (RuntimeRequest(runtime_path="/r", options=ANY), b"\x0a\x02/r\x12" + ANY_BYTES),
    (
        RuntimeInfo(
            name="n",
            version=RuntimeVersion(version="1", revision="r"),
            options=ANY,
            features=ANY,
            annotations=PAIR,
        ),
        b"\x0a\x01n\x12\x06\x0a\x011\x12\x01r\x1a"
        + ANY_BYTES
        + b"\x22"
        + ANY_BYTES
        + b"\x2a"
        + PAIR_BYTES,
    ),
]

SANDBOX = [
    (
        sandbox_pb2.CreateSandboxRequest(
            sandbox_id="s",
            bundle_path="/b",
            rootfs=[MOUNT],
            options=ANY,
            netns_path="/n",
            annotations=PAIR,
        ),
        b"\x0a\x01s\x12\x02/b\x1a"
        + MOUNT_BYTES
        + b"\x22"
        + ANY_BYTES
        + b"\x2a\x02/n\x32"
        + PAIR_BYTES,
    ),
    (
        sandbox_pb2.SandboxStatusResponse(
            sandbox_id="s", pid=7, state="r", info=PAIR, created_at=AT, exited_at=AT, extra=ANY
        ),
        b"\x0a\x01s\x10\x07\x1a\x01r\x22"
        + PAIR_BYTES
        + b"\x2a"
        + AT_BYTES
        + b"\x32"
        + AT_BYTES
        + b"\x3a"
        + ANY_BYTES,
    ),
    (
        sandbox_pb2.PlatformResponse(platform=Platform(os="l", architecture="a", os_version="v")),
        b"\x0a\x09\x0a\x01l\x12\x01a\x22\x01v",
    ),
    (
        sandbox_pb2.SandboxMetricsResponse(metrics=Metric(timestamp=AT, id="s", data=ANY)),
        b"\x0a\x11\x0a" + AT_BYTES + b"\x12\x01s\x1a" + ANY_BYTES,
    ),
    (sandbox_pb2.StopSandboxRequest(sandbox_id="s", timeout_secs=10), b"\x0a\x01s\x10\x0a"),
]

METRICS = [
    (
        cgroups_v1_pb2.Metrics(
            pids=cgroups_v1_pb2.PidsStat(current=1, limit=2),
            cpu=cgroups_v1_pb2.CPUStat(usage=cgroups_v1_pb2.CPUUsage(total=9, per_cpu=[1, 300])),
            memory=cgroups_v1_pb2.MemoryStat(usage=cgroups_v1_pb2.MemoryEntry(limit=1, usage=2)),
        ),
        (
            b"\x12\x04\x08\x01\x10\x02\x1a\x09\x0a\x07\x08\x09\x22\x03\x01\xac\x02"
            b"\x22\x07\x8a\x02\x04\x08\x01\x10\x02"
        ),
    ),
    (
        cgroups_v2_pb2.Metrics(
            cpu=cgroups_v2_pb2.CPUStat(
                usage_usec=1,
                psi=cgroups_v2_pb2.PSIStats(some=cgroups_v2_pb2.PSIData(avg10=0.5, total=3)),
            ),
            memory=cgroups_v2_pb2.MemoryStat(usage=5, workingset_activate_file=6),
            memory_events=cgroups_v2_pb2.MemoryEvents(oom_kill=1),
        ),
        (
            b"\x12\x11\x08\x01\x3a\x0d\x0a\x0b\x09\x00\x00\x00\x00\x00\x00\xe0\x3f\x20\x03"
            b"\x22\x06\x80\x02\x05\xd0\x02\x06\x42\x02\x28\x01"
        ),
    ),
]

AGENT = [
    (
        agent_pb2.CreateContainerRequest(
            container_id="c",
            exec_id="x",
            string_user=agent_pb2.StringUser(uid="u", gid="g", additionalGids=["a"]),
            devices=[
                agent_pb2.Device(id="i", type="t", vm_path="v", container_path="p", options=["o"])
            ],
            storages=[
                agent_pb2.Storage(
                    driver="d",
                    driver_options=["o"],
                    source="s",
                    fstype="f",
                    options=["p"],
                    mount_point="m",
                    fs_group=agent_pb2.FSGroup(
                        group_id=7, group_change_policy=types_pb2.OnRootMismatch
                    ),
                    shared=True,
                )
            ],
            OCI=oci_pb2.Spec(Version="1"),
            sandbox_pidns=True,
            shared_mounts=[agent_pb2.SharedMount(name="n", dst_path="d")],
            stdin_port=1,
            stdout_port=2,
            stderr_port=3,
        ),
        (
            b"\x0a\x01c\x12\x01x\x1a\x09\x0a\x01u\x12\x01g\x1a\x01a"
            b"\x22\x0f\x0a\x01i\x12\x01t\x1a\x01v\x22\x01p\x2a\x01o"
            b"\x2a\x1a\x0a\x01d\x12\x01o\x1a\x01s\x22\x01f\x2a\x01p\x32\x01m\x3a\x04\x10\x07\x18\x01\x40\x01"
            b"\x32\x03\x0a\x011\x38\x01\x42\x06\x0a\x01n\x2a\x01d\x48\x01\x50\x02\x58\x03"
        ),
    ),
    (
        agent_pb2.ExecProcessRequest(
            container_id="c", exec_id="x", process=oci_pb2.Process(Cwd="/"), stderr_port=3
        ),
        b"\x0a\x01c\x12\x01x\x22\x03\x32\x01/\x38\x03",
    ),
    (
        agent_pb2.SignalProcessRequest(container_id="c", exec_id="x", signal=9),
        b"\x0a\x01c\x12\x01x\x18\x09",
    ),
    (agent_pb2.WaitProcessResponse(status=-1), b"\x08" + MINUS_ONE),
    (
        agent_pb2.WriteStreamRequest(container_id="c", exec_id="x", data=b"\x00\xff"),
        b"\x0a\x01c\x12\x01x\x1a\x02\x00\xff",
    ),
    (
        agent_pb2.ReadStreamRequest(container_id="c", exec_id="x", len=300),
        b"\x0a\x01c\x12\x01x\x18\xac\x02",
    ),
    (
        agent_pb2.CreateSandboxRequest(
            hostname="h",
            dns=["d", "e"],
            sandbox_pidns=True,
            sandbox_id="s",
            guest_hook_path="/g",
            kernel_modules=[agent_pb2.KernelModule(name="n", parameters=["p"])],
        ),
        b"\x0a\x01h\x12\x01d\x12\x01e\x20\x01\x2a\x01s\x32\x02/g\x3a\x06\x0a\x01n\x12\x01p",
    ),
    (
        agent_pb2.CopyFileRequest(
            path="p",
            file_size=300,
            file_mode=0o644,
            dir_mode=0o755,
            uid=-1,
            gid=5,
            offset=6,
            data=b"d",
        ),
        b"\x0a\x01p\x10\xac\x02\x18\xa4\x03\x20\xed\x03\x28"
        + MINUS_ONE
        + b"\x30\x05\x38\x06\x42\x01d",
    ),
    (
        agent_pb2.OnlineCPUMemRequest(wait=True, nb_cpus=2, cpu_only=True),
        b"\x08\x01\x10\x02\x18\x01",
    ),
    (agent_pb2.ReseedRandomDevRequest(data=b"r"), b"\x12\x01r"),
    (
        agent_pb2.GuestDetailsResponse(
            mem_block_size_bytes=300,
            agent_details=agent_pb2.AgentDetails(version="4", supports_seccomp=True),
            support_mem_hotplug_probe=True,
        ),
        b"\x08\xac\x02\x12\x05\x0a\x014\x28\x01\x18\x01",
    ),
    (agent_pb2.MemHotplugByProbeRequest(memHotplugProbeAddr=[1, 300]), b"\x0a\x03\x01\xac\x02"),
    (agent_pb2.SetGuestDateTimeRequest(Sec=1, Usec=-1), b"\x08\x01\x10" + MINUS_ONE),
    (agent_pb2.MemAgentMemcgConfig(disabled=False, period_secs=0), b"\x08\x00\x20\x00"),
    (agent_pb2.MemAgentCompactConfig(compact_sec_max=-1), b"\x28" + MINUS_ONE),
    (
        agent_pb2.UpdateInterfaceRequest(
            interface=types_pb2.Interface(
                device="d",
                name="n",
                IPAddresses=[types_pb2.IPAddress(family=types_pb2.v6, address="a", mask="64")],
                mtu=1500,
                hwAddr="m",
                devicePath="p",
                type="t",
                raw_flags=1,
            )
        ),
        (
            b"\x0a\x1f\x0a\x01d\x12\x01n\x1a\x09\x08\x01\x12\x01a\x1a\x0264\x20\xdc\x0b"
            b"\x2a\x01m\x32\x01p\x3a\x01t\x40\x01"
        ),
    ),
    (
        agent_pb2.UpdateRoutesRequest(
            routes=agent_pb2.Routes(
                Routes=[
                    types_pb2.Route(
                        dest="d",
                        gateway="g",
                        device="v",
                        source="s",
                        scope=1,
                        family=types_pb2.v6,
                        flags=2,
                        mtu=3,
                    )
                ]
            )
        ),
        b"\x0a\x16\x0a\x14\x0a\x01d\x12\x01g\x1a\x01v\x22\x01s\x28\x01\x30\x01\x38\x02\x40\x03",
    ),
    (
        # Ours, for what upstream's message leaves out.
        agent_pb2.UpdateRoutesRequest(
            routes=agent_pb2.Routes(
                Routes=[
                    types_pb2.Route(
                        metric=1,
                        table=300,
                        protocol=3,
                        type=4,
                        next_hops=[types_pb2.NextHop(device="d", gateway="g", weight=2, flags=4)],
                        tos=5,
                        metrics={8: 9},
                    )
                ]
            ),
            rules=[types_pb2.Rule(priority=1, suppress_prefix=0, uids=types_pb2.Range(last=5))],
        ),
        (
            b"\x0a\x26\x0a\x24\xc8\x3e\x01\xd0\x3e\xac\x02\xd8\x3e\x03\xe0\x3e\x04"
            b"\xea\x3e\x0a\x0a\x01d\x12\x01g\x18\x02\x20\x04\xf0\x3e\x05\xfa\x3e\x04\x08\x08\x10\x09"
            b"\xca\x3e\x08\x10\x01\x70\x00\x7a\x02\x10\x05"
        ),
    ),
    (
        agent_pb2.UpdateInterfaceRequest(
            interface=types_pb2.Interface(
                IPAddresses=[types_pb2.IPAddress(broadcast="b", peer="p", scope=253, flags=2)]
            )
        ),
        (b"\x0a\x11\x1a\x0f\xca\x3e\x01b\xd2\x3e\x01p\xd8\x3e\xfd\x01\xe0\x3e\x02"),
    ),
    (
        agent_pb2.AddARPNeighborsRequest(
            neighbors=agent_pb2.ARPNeighbors(
                ARPNeighbors=[
                    types_pb2.ARPNeighbor(
                        toIPAddress=types_pb2.IPAddress(address="a"),
                        device="d",
                        lladdr="l",
                        state=128,
                        flags=1,
                    )
                ]
            )
        ),
        b"\x0a\x12\x0a\x10\x0a\x03\x12\x01a\x12\x01d\x1a\x01l\x20\x80\x01\x28\x01",
    ),
    (
        agent_pb2.StatsContainerResponse(
            cgroup_stats=agent_pb2.CgroupStats(
                memory_stats=agent_pb2.MemoryStats(
                    cache=1, usage=agent_pb2.MemoryData(usage=2, limit=3), stats={"k": 4}
                ),
                hugetlb_stats={"k": agent_pb2.HugetlbStats(usage=5)},
            ),
            network_stats=[agent_pb2.NetworkStats(name="e", tx_dropped=6)],
        ),
        (
            b"\x0a\x1a\x12\x0f\x08\x01\x12\x04\x08\x02\x20\x03\x32\x05\x0a\x01k\x10\x04"
            b"\x2a\x07\x0a\x01k\x12\x02\x08\x05\x12\x05\x0a\x01e\x48\x06"
        ),
    ),
    (
        csi_pb2.VolumeStatsResponse(
            usage=[
                csi_pb2.VolumeUsage(available=1, total=2, used=3, unit=csi_pb2.VolumeUsage.INODES)
            ],
            volume_condition=csi_pb2.VolumeCondition(abnormal=True, message="m"),
        ),
        b"\x0a\x08\x08\x01\x10\x02\x18\x03\x20\x02\x12\x05\x08\x01\x12\x01m",
    ),
    (
        health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING),
        b"\x08\x01",
    ),
    (
        health_pb2.VersionCheckResponse(grpc_version="g", agent_version="a"),
        b"\x0a\x01g\x12\x01a",
    ),
]

OCI = [
    (
        oci_pb2.Spec(
            Version="1",
            Process=oci_pb2.Process(
                Terminal=True,
                User=oci_pb2.User(UID=1, GID=2, AdditionalGids=[3, 300]),
                Args=["a"],
                Capabilities=oci_pb2.LinuxCapabilities(Ambient=["C"]),
                Rlimits=[oci_pb2.POSIXRlimit(Type="R", Hard=2**64 - 1, Soft=1)],
                NoNewPrivileges=True,
                OOMScoreAdj=-1,
            ),
            Root=oci_pb2.Root(Path="/r", Readonly=True),
            Hostname="h",
            Mounts=[oci_pb2.Mount(destination="d", source="s", type="t", options=["o"])],
            Annotations=PAIR,
        ),
        b"\x0a\x011\x12\x34\x08\x01\x1a\x09\x08\x01\x10\x02\x1a\x03\x03\xac\x02\x22\x01a"
        b"\x3a\x03\x2a\x01C\x42\x10\x0a\x01R\x10"
        + MINUS_ONE
        + b"\x18\x01\x48\x01\x58"
        + MINUS_ONE
        + b"\x1a\x06\x0a\x02/r\x10\x01\x22\x01h\x2a\x0c\x0a\x01d\x12\x01s\x1a\x01t\x22\x01o\x3a"
        + PAIR_BYTES,
    ),
    (
        oci_pb2.Linux(
            Sysctl=PAIR,
            Resources=oci_pb2.LinuxResources(
                Devices=[oci_pb2.LinuxDeviceCgroup(Allow=True, Type="c", Major=-1, Access="rw")],
                Memory=oci_pb2.LinuxMemory(Limit=-1),
                CPU=oci_pb2.LinuxCPU(Shares=2, Quota=-1, Period=300, Cpus="0"),
                Pids=oci_pb2.LinuxPids(Limit=5),
                HugepageLimits=[oci_pb2.LinuxHugepageLimit(Pagesize="2MB", Limit=1)],
            ),
            CgroupsPath="/c",
            Namespaces=[oci_pb2.LinuxNamespace(Type="pid", Path="/p")],
            Devices=[oci_pb2.LinuxDevice(Path="/d", Type="c", Major=1, Minor=3, FileMode=0o666)],
            MaskedPaths=["/m"],
        ),
        b"\x1a" + PAIR_BYTES + b"\x22\x45\x0a\x14\x08\x01\x12\x01c\x18" + MINUS_ONE + b"\x2a\x02rw"
        b"\x12\x0b\x08" + MINUS_ONE + b"\x1a\x13\x08\x02\x10" + MINUS_ONE + b"\x18\xac\x02\x32\x010"
        b"\x22\x02\x08\x05\x32\x07\x0a\x032MB\x10\x01\x2a\x02/c\x32\x09\x0a\x03pid\x12\x02/p"
        b"\x3a\x0e\x0a\x02/d\x12\x01c\x18\x01\x20\x03\x28\xb6\x03\x52\x02/m",
    ),
    (
        oci_pb2.LinuxSeccomp(
            DefaultAction="d",
            Architectures=["a"],
            Syscalls=[
                oci_pb2.LinuxSyscall(
                    Names=["n"],
                    Action="e",
                    errnoret=0,
                    Args=[oci_pb2.LinuxSeccompArg(Index=1, Value=2, ValueTwo=3, Op="o")],
                )
            ],
        ),
        b"\x0a\x01d\x12\x01a\x22\x13\x0a\x01n\x12\x01e\x18\x00\x22\x09\x08\x01\x10\x02\x18\x03\x22\x01o",
    ),
    (
        oci_pb2.Hooks(CreateRuntime=[oci_pb2.Hook(Path="/h", Args=["a"], Env=["e"], Timeout=5)]),
        b"\x22\x0c\x0a\x02/h\x12\x01a\x1a\x01e\x20\x05",
    ),
]

GOLDEN: list[tuple[Message, bytes]] = [*TASK, *EVENTS, *OPTIONS, *SANDBOX, *METRICS, *AGENT, *OCI]
IDS = [message.DESCRIPTOR.full_name for message, _ in GOLDEN]


@pytest.mark.parametrize(("message", "wire"), GOLDEN, ids=IDS)
def test_bytes_of_the_message(message: Message, wire: bytes) -> None:
    assert message.SerializeToString(deterministic=True) == wire


@pytest.mark.parametrize(("message", "wire"), GOLDEN, ids=IDS)
def test_message_of_the_bytes(message: Message, wire: bytes) -> None:
    assert type(message).FromString(wire) == message


@pytest.mark.parametrize(("message", "wire"), GOLDEN, ids=IDS)
def test_fields_of_a_later_version_are_skipped(message: Message, wire: bytes) -> None:
    # Number 1000 is in no message: a varint, and a length-delimited value.
    later = type(message).FromString(b"\xc0\x3e\x07" + wire + b"\xc2\x3e\x01z")
    assert [(field.name, value) for field, value in later.ListFields()] == [
        (field.name, value) for field, value in message.ListFields()
    ]
