"""Values of the domain as containerd's messages."""

from collections.abc import Collection, Iterable

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from kata.agent_client.agent import GuestProcess
from kata.sandbox import events
from kata.sandbox.process import Exit, Process, State
from kata_api.any import pack
from kata_api.containerd import events_pb2, task_pb2
from kata_api.containerd.task_types_pb2 import ProcessInfo, Status
from kata_api.containerd.types_pb2 import Mount

_STATUS = {
    State.CREATED: Status.CREATED,
    State.STARTING: Status.CREATED,
    State.RUNNING: Status.RUNNING,
    State.PAUSED: Status.PAUSED,
    State.STOPPED: Status.STOPPED,
    State.DELETING: Status.STOPPED,
    State.DELETED: Status.STOPPED,
}


def timestamp(seconds: float) -> Timestamp:
    """Return seconds since 1970 as a timestamp."""
    whole = int(seconds)
    return Timestamp(seconds=whole, nanos=int((seconds - whole) * 1e9))


def state(process: Process, bundle: str, pid: int) -> task_pb2.StateResponse:
    """Return the answer to State."""
    exit_ = process.exit
    return task_pb2.StateResponse(
        id=process.container_id,
        exec_id=process.exec_id,
        bundle=bundle,
        pid=pid,
        status=_STATUS[process.state],
        stdin=process.stdio.stdin,
        stdout=process.stdio.stdout,
        stderr=process.stdio.stderr,
        terminal=process.stdio.terminal,
        exit_status=exit_.status if exit_ else 0,
        exited_at=timestamp(exit_.at) if exit_ else None,
    )


def deleted(exit_: Exit, pid: int) -> task_pb2.DeleteResponse:
    """Return the answer to Delete."""
    return task_pb2.DeleteResponse(pid=pid, exit_status=exit_.status, exited_at=timestamp(exit_.at))


def processes(listed: Iterable[GuestProcess], exec_ids: Collection[str]) -> task_pb2.PidsResponse:
    """Return the answer to Pids; those of `exec_ids` are told as runc tells them."""
    from kata_api.containerd.runc_options_pb2 import ProcessDetails

    return task_pb2.PidsResponse(
        processes=[
            ProcessInfo(
                pid=each.pid,
                info=pack(ProcessDetails(exec_id=each.exec_id))
                if each.exec_id in exec_ids
                else None,
            )
            for each in listed
        ]
    )


def event(happened: events.Event) -> Message:
    """Return the event that tells of what happened."""
    match happened:
        case events.ContainerCreated(container_id, bundle, root, stdio, pid):
            return events_pb2.TaskCreate(
                container_id=container_id,
                bundle=bundle,
                rootfs=[
                    Mount(type=m.type, source=m.source, target=m.target, options=m.options)
                    for m in root
                ],
                io=events_pb2.TaskIO(
                    stdin=stdio.stdin,
                    stdout=stdio.stdout,
                    stderr=stdio.stderr,
                    terminal=stdio.terminal,
                ),
                pid=pid,
            )
        case events.ContainerStarted(container_id, pid):
            return events_pb2.TaskStart(container_id=container_id, pid=pid)
        case events.ExecAdded(container_id, exec_id):
            return events_pb2.TaskExecAdded(container_id=container_id, exec_id=exec_id)
        case events.ExecStarted(container_id, exec_id, pid):
            return events_pb2.TaskExecStarted(container_id=container_id, exec_id=exec_id, pid=pid)
        case events.ProcessExited(container_id, exec_id, pid, exit_):
            return events_pb2.TaskExit(
                container_id=container_id,
                id=exec_id or container_id,
                pid=pid,
                exit_status=exit_.status,
                exited_at=timestamp(exit_.at),
            )
        case events.ContainerPaused(container_id):
            return events_pb2.TaskPaused(container_id=container_id)
        case events.ContainerResumed(container_id):
            return events_pb2.TaskResumed(container_id=container_id)
        case events.OutOfMemory(container_id):
            return events_pb2.TaskOOM(container_id=container_id)
        case events.ContainerDeleted(container_id, pid, exit_):
            return events_pb2.TaskDelete(
                container_id=container_id,
                id=container_id,
                pid=pid,
                exit_status=exit_.status,
                exited_at=timestamp(exit_.at),
            )
