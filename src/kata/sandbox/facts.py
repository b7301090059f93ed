"""What a sandbox's record tells people and tools about it: plain values, for JSON.

Written before anything else of the sandbox is made, and again when its machine has grown.  Imports
nothing heavy, since `delete` reads it.
"""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kata import __version__
from kata.sandbox.history import Place

if TYPE_CHECKING:
    from kata.config import Configuration


def describe(
    sandbox_id: str,
    namespace: str,
    configuration: "Configuration",
    annotations: Mapping[str, str],
) -> dict[str, Any]:
    """Return the facts of a sandbox that is about to be started in a namespace of containerd.

    `configuration` has the `annotations` applied; those that concern it are kept, so that
    `kata-ctl config` can say what the sandbox was started with. Memory is in MiB, times are in
    seconds of the epoch.
    """
    import os

    from kata.config.annotations import CONFIG

    settings, runtime = configuration.hypervisor, configuration.runtime
    return {
        "id": sandbox_id,
        "namespace": namespace,
        "created_at": time.time(),
        "version": __version__,
        "configuration": configuration.path,
        "annotations": {k: v for k, v in annotations.items() if k.startswith(CONFIG)},
        **of_size(settings.boot_vcpus(os.cpu_count() or 1), settings.default_memory),
        "shared_fs": settings.shared_fs,
        "debug_console": configuration.agent.debug_console_enabled,
        "logs": {"path": runtime.sandbox_logs_path, "count": runtime.sandbox_logs_count},
    }


def of_size(vcpus: int, memory_mib: int) -> dict[str, Any]:
    """Return the facts about a machine's size, which change when it grows."""
    return {"vcpus": vcpus, "memory_mib": memory_mib}


def log_place(facts: Mapping[str, Any]) -> Place | None:
    """Return where the logs of a sandbox with these facts go; None when the record is silent."""
    logs = facts.get("logs")
    if isinstance(logs, dict) and isinstance(logs.get("path"), str):
        count = logs.get("count")
        return Place(logs["path"], count if isinstance(count, int) else 0)
    return None
