"""What a container uses and which processes it has, as ctr shows them, under runc and under us."""

import json
from typing import Any

import pytest
from lab.images import BUSYBOX
from lab.trial import Trial, wait_until

pytestmark = pytest.mark.containerd

_MIB = 1 << 20
_LIMIT = 96 * _MIB
# Sixteen MiB in a variable of the shell, some seconds of its time, and two processes beside it.
_WORK = """
x=$(dd if=/dev/zero bs=1M count=16 2>/dev/null | tr '\\0' x)
i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done
sleep 100000 & sleep 100000 &
echo > /tmp/ready
wait
"""


def _metrics(trial: Trial, container: str) -> dict[str, Any]:
    answer = trial.daemon.ctr("task", "metrics", "--format", "json", container).stdout
    metrics: dict[str, Any] = json.loads(answer)
    return metrics


def _processes(trial: Trial, container: str) -> dict[int, str]:
    lines = trial.daemon.ctr("task", "ps", container).stdout.splitlines()[1:]
    return {int(line.split()[0]): line for line in lines}


def test_metrics_and_processes(trial: Trial) -> None:
    name = trial.new_id("metrics")
    options = ("--detach", "--null-io", "--memory-limit", str(_LIMIT))
    argv = ["run", *trial.runtime.ctr_options, *options, BUSYBOX.name, name, "sh", "-c", _WORK]
    trial.daemon.ctr(*argv, timeout_s=trial.runtime.patience_s)
    try:
        wait_until(
            lambda: not trial.exec(name, "ready", "test", "-e", "/tmp/ready", check=False).code,
            "the work is done",
            trial.runtime.patience_s,
        )
        metrics = _metrics(trial, name)
        cpu, memory = metrics["cpu"]["usage"], metrics["memory"]
        assert cpu["total"] > 10_000_000
        counted = cpu["user"] + cpu["kernel"]  # by some kernels in ticks
        assert cpu["total"] / 2 < counted < cpu["total"] * 2
        assert memory["usage"]["limit"] == _LIMIT
        assert 16 * _MIB < memory["total_rss"] < 24 * _MIB
        assert 16 * _MIB < memory["usage"]["usage"] < 64 * _MIB
        assert memory["usage"]["max"] >= memory["usage"]["usage"]
        assert memory["total_pg_fault"] > 1000
        assert metrics["pids"]["current"] == 3
        before = _processes(trial, name)
        assert len(before) == 3
        detached = ("task", "exec", "--detach", "--exec-id", "another", name)
        trial.daemon.ctr(*detached, "sleep", "100000")
        after = _processes(trial, name)
        (added,) = after.keys() - before.keys()
        assert before.keys() < after.keys()
        assert "another" in after[added]
        assert _metrics(trial, name)["pids"]["current"] == 4
        trial.kill(name, "SIGKILL")
        wait_until(
            lambda: trial.status(name) == "STOPPED", "task stopped", trial.runtime.patience_s
        )
    finally:
        trial.daemon.ctr("task", "rm", "--force", name, check=False)
        trial.daemon.ctr("container", "rm", name)
