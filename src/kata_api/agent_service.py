"""The service of the guest agent: everything the host can ask of a running VM."""

from typing import Any, Final

from google.protobuf.empty_pb2 import Empty

from kata_api.agent import agent_pb2 as pb
from kata_api.agent.csi_pb2 import VolumeStatsResponse
from kata_api.agent.types_pb2 import Interface
from ttrpc import Method

SERVICE: Final = "grpc.AgentService"

CREATE_CONTAINER: Final = Method(SERVICE, "CreateContainer", pb.CreateContainerRequest, Empty)
START_CONTAINER: Final = Method(SERVICE, "StartContainer", pb.StartContainerRequest, Empty)
REMOVE_CONTAINER: Final = Method(SERVICE, "RemoveContainer", pb.RemoveContainerRequest, Empty)
EXEC_PROCESS: Final = Method(SERVICE, "ExecProcess", pb.ExecProcessRequest, Empty)
SIGNAL_PROCESS: Final = Method(SERVICE, "SignalProcess", pb.SignalProcessRequest, Empty)
WAIT_PROCESS: Final = Method(SERVICE, "WaitProcess", pb.WaitProcessRequest, pb.WaitProcessResponse)
LIST_PROCESSES: Final = Method(
    SERVICE, "ListProcesses", pb.ListProcessesRequest, pb.ListProcessesResponse
)
UPDATE_CONTAINER: Final = Method(SERVICE, "UpdateContainer", pb.UpdateContainerRequest, Empty)
UPDATE_EPHEMERAL_MOUNTS: Final = Method(
    SERVICE, "UpdateEphemeralMounts", pb.UpdateEphemeralMountsRequest, Empty
)
STATS_CONTAINER: Final = Method(
    SERVICE, "StatsContainer", pb.StatsContainerRequest, pb.StatsContainerResponse
)
PAUSE_CONTAINER: Final = Method(SERVICE, "PauseContainer", pb.PauseContainerRequest, Empty)
RESUME_CONTAINER: Final = Method(SERVICE, "ResumeContainer", pb.ResumeContainerRequest, Empty)
REMOVE_STALE_VIRTIOFS_SHARE_MOUNTS: Final = Method(
    SERVICE, "RemoveStaleVirtiofsShareMounts", pb.RemoveStaleVirtiofsShareMountsRequest, Empty
)
GET_DIAGNOSTIC_DATA: Final = Method(
    SERVICE, "GetDiagnosticData", pb.GetDiagnosticDataRequest, pb.GetDiagnosticDataResponse
)
WRITE_STDIN: Final = Method(SERVICE, "WriteStdin", pb.WriteStreamRequest, pb.WriteStreamResponse)
READ_STDOUT: Final = Method(SERVICE, "ReadStdout", pb.ReadStreamRequest, pb.ReadStreamResponse)
READ_STDERR: Final = Method(SERVICE, "ReadStderr", pb.ReadStreamRequest, pb.ReadStreamResponse)
CLOSE_STDIN: Final = Method(SERVICE, "CloseStdin", pb.CloseStdinRequest, Empty)
TTY_WIN_RESIZE: Final = Method(SERVICE, "TtyWinResize", pb.TtyWinResizeRequest, Empty)
UPDATE_INTERFACE: Final = Method(SERVICE, "UpdateInterface", pb.UpdateInterfaceRequest, Interface)
UPDATE_ROUTES: Final = Method(SERVICE, "UpdateRoutes", pb.UpdateRoutesRequest, pb.Routes)
LIST_INTERFACES: Final = Method(SERVICE, "ListInterfaces", pb.ListInterfacesRequest, pb.Interfaces)
LIST_ROUTES: Final = Method(SERVICE, "ListRoutes", pb.ListRoutesRequest, pb.Routes)
ADD_ARP_NEIGHBORS: Final = Method(SERVICE, "AddARPNeighbors", pb.AddARPNeighborsRequest, Empty)
GET_IPTABLES: Final = Method(SERVICE, "GetIPTables", pb.GetIPTablesRequest, pb.GetIPTablesResponse)
SET_IPTABLES: Final = Method(SERVICE, "SetIPTables", pb.SetIPTablesRequest, pb.SetIPTablesResponse)
GET_METRICS: Final = Method(SERVICE, "GetMetrics", pb.GetMetricsRequest, pb.Metrics)
MEM_AGENT_MEMCG_SET: Final = Method(SERVICE, "MemAgentMemcgSet", pb.MemAgentMemcgConfig, Empty)
MEM_AGENT_COMPACT_SET: Final = Method(
    SERVICE, "MemAgentCompactSet", pb.MemAgentCompactConfig, Empty
)
CREATE_SANDBOX: Final = Method(SERVICE, "CreateSandbox", pb.CreateSandboxRequest, Empty)
DESTROY_SANDBOX: Final = Method(SERVICE, "DestroySandbox", pb.DestroySandboxRequest, Empty)
ONLINE_CPU_MEM: Final = Method(SERVICE, "OnlineCPUMem", pb.OnlineCPUMemRequest, Empty)
RESEED_RANDOM_DEV: Final = Method(SERVICE, "ReseedRandomDev", pb.ReseedRandomDevRequest, Empty)
GET_GUEST_DETAILS: Final = Method(
    SERVICE, "GetGuestDetails", pb.GuestDetailsRequest, pb.GuestDetailsResponse
)
MEM_HOTPLUG_BY_PROBE: Final = Method(
    SERVICE, "MemHotplugByProbe", pb.MemHotplugByProbeRequest, Empty
)
SET_GUEST_DATE_TIME: Final = Method(SERVICE, "SetGuestDateTime", pb.SetGuestDateTimeRequest, Empty)
COPY_FILE: Final = Method(SERVICE, "CopyFile", pb.CopyFileRequest, Empty)
GET_OOM_EVENT: Final = Method(SERVICE, "GetOOMEvent", pb.GetOOMEventRequest, pb.OOMEvent)
ADD_SWAP: Final = Method(SERVICE, "AddSwap", pb.AddSwapRequest, Empty)
ADD_SWAP_PATH: Final = Method(SERVICE, "AddSwapPath", pb.AddSwapPathRequest, Empty)
GET_VOLUME_STATS: Final = Method(
    SERVICE, "GetVolumeStats", pb.VolumeStatsRequest, VolumeStatsResponse
)
RESIZE_VOLUME: Final = Method(SERVICE, "ResizeVolume", pb.ResizeVolumeRequest, Empty)
SET_POLICY: Final = Method(SERVICE, "SetPolicy", pb.SetPolicyRequest, Empty)

METHODS: Final[tuple[Method[Any, Any], ...]] = (
    CREATE_CONTAINER,
    START_CONTAINER,
    REMOVE_CONTAINER,
    EXEC_PROCESS,
    SIGNAL_PROCESS,
    WAIT_PROCESS,
    LIST_PROCESSES,
    UPDATE_CONTAINER,
    UPDATE_EPHEMERAL_MOUNTS,
    STATS_CONTAINER,
    PAUSE_CONTAINER,
    RESUME_CONTAINER,
    REMOVE_STALE_VIRTIOFS_SHARE_MOUNTS,
    GET_DIAGNOSTIC_DATA,
    WRITE_STDIN,
    READ_STDOUT,
    READ_STDERR,
    CLOSE_STDIN,
    TTY_WIN_RESIZE,
    UPDATE_INTERFACE,
    UPDATE_ROUTES,
    LIST_INTERFACES,
    LIST_ROUTES,
    ADD_ARP_NEIGHBORS,
    GET_IPTABLES,
    SET_IPTABLES,
    GET_METRICS,
    MEM_AGENT_MEMCG_SET,
    MEM_AGENT_COMPACT_SET,
    CREATE_SANDBOX,
    DESTROY_SANDBOX,
    ONLINE_CPU_MEM,
    RESEED_RANDOM_DEV,
    GET_GUEST_DETAILS,
    MEM_HOTPLUG_BY_PROBE,
    SET_GUEST_DATE_TIME,
    COPY_FILE,
    GET_OOM_EVENT,
    ADD_SWAP,
    ADD_SWAP_PATH,
    GET_VOLUME_STATS,
    RESIZE_VOLUME,
    SET_POLICY,
)
