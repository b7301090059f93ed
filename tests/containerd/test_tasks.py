"""Containers that keep running: exec, signals, and daemons or shims that die under them."""

import json
import os
import select
import signal

import pytest
from lab.runtimes import RUNC
from lab.trial import Trial, wait_until

pytestmark = pytest.mark.containerd


def test_exec_without_a_terminal(trial: Trial) -> None:
    with trial.background() as container:
        for code in (0, 1, 42, 137):
            script = f"echo out; echo err >&2; exit {code}"
            result = trial.exec(container, f"exit-{code}", "sh", "-c", script, check=False)
            assert (result.code, result.stdout, result.stderr) == (code, "out\n", "err\n")
        argv = trial.exec_argv(container, "stdin", "sh", "-c", "echo ready; wc -c")
        with trial.attached(argv) as ctr:
            assert ctr.stdout is not None
            assert ctr.stdout.readline() == b"ready\n"
            said, errors = ctr.communicate(b"x" * 100_000, timeout=trial.runtime.patience_s)
        assert said.split() == [b"100000"], errors
        for number in range(5):  # an end that is there before the process is
            argv = trial.exec_argv(container, f"piped-{number}", "cat")
            with trial.attached(argv) as ctr:
                said, errors = ctr.communicate(b"piped\n", timeout=trial.runtime.patience_s)
            assert (said, ctr.returncode) == (b"piped\n", 0), errors
        missing = trial.exec(container, "missing", "/no/such/program", check=False)
        assert missing.code != 0
        assert "/no/such/program" in missing.stderr
        assert trial.status(container) == "RUNNING"


@pytest.mark.parametrize(
    ("signal_name", "code"),
    [("SIGKILL", 137), ("SIGTERM", 5)],
    ids=["SIGKILL", "SIGTERM, trapped"],
)
def test_a_signal_reaches_the_first_process(trial: Trial, signal_name: str, code: int) -> None:
    name = trial.new_id("signal")
    script = "trap 'exit 5' TERM; echo ready; while :; do sleep 1; done"
    with trial.attached(trial.run_argv(name, "sh", "-c", script)) as ctr:
        assert ctr.stdout is not None
        assert ctr.stdout.readline() == b"ready\n"
        trial.kill(name, signal_name)
        assert ctr.wait(trial.runtime.patience_s) == code


@pytest.mark.parametrize("crash", [False, True], ids=["restarted", "killed"])
def test_a_container_outlives_its_containerd(trial: Trial, crash: bool) -> None:
    with trial.background() as container:
        if crash:
            trial.daemon.kill()
            trial.daemon.start()
        else:
            trial.daemon.restart()
        assert trial.status(container) == "RUNNING"
        assert trial.exec(container, "after", "echo", "still here").stdout == "still here\n"
        trial.kill(container, "SIGKILL")
        wait_until(
            lambda: trial.status(container) == "STOPPED", "task stopped", trial.runtime.patience_s
        )
        assert "137" in trial.daemon.ctr("task", "rm", container).stderr


def test_a_killed_shim_is_reported_and_cleaned_up_after(trial: Trial) -> None:
    with (
        trial.attached(trial.daemon.ctr_argv("events")) as events,
        trial.background() as container,
    ):
        stdout = events.stdout
        assert stdout is not None

        def is_heard() -> bool:
            trial.daemon.ctr("container", "label", container, "asked=again")
            return bool(select.select([stdout], [], [], 0.1)[0])

        # An exit before `ctr events` has subscribed would never be told.
        wait_until(is_heard, "ctr tells events", trial.runtime.patience_s)
        os.kill(trial.daemon.shim_pid(container), signal.SIGKILL)
        exits = (line for line in stdout if b" /tasks/exit " in line)
        event = json.loads(next(exits).partition(b" /tasks/exit ")[2])
        assert event["container_id"] == container
        assert event["exit_status"] == 137
        wait_until(lambda: trial.status(container) == "", "task gone", trial.runtime.patience_s)
    if trial.runtime is RUNC:
        # runc's shim leaves its socket when it is killed; ours has no such excuse. If this fails,
        # runc's has been mended, and the exception goes.
        trial.daemon.shim_socket(container).unlink()
