"""Where streams may go and how they may end, as users of runc know it."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest
from lab.runtimes import KATA
from lab.trial import Trial, until_exists, wait_until

pytestmark = pytest.mark.containerd


def test_a_logger_takes_the_output(trial: Trial, tmp_path: Path) -> None:
    program = tmp_path / "logger"
    program.write_text(
        f"""#!/bin/sh
        cd {tmp_path}
        echo "$CONTAINER_ID $CONTAINER_NAMESPACE $*" > told
        cat <&3 > out &
        cat <&4 > err &
        echo >&5
        wait
        echo done > ended
        """
    )
    program.chmod(0o755)
    name = trial.new_id("logged")
    options = ("--rm", "--log-uri", f"binary://{program}?level=info")
    script = "seq 200000; echo wrong >&2"
    with trial.attached(trial.run_argv(name, "sh", "-c", script, options=options)) as ctr:
        assert ctr.wait(trial.runtime.patience_s) == 0
    whole = "".join(f"{number}\n" for number in range(1, 200001))

    def logged() -> list[str]:
        paths = (tmp_path / "out", tmp_path / "err")
        return [path.read_text() if path.exists() else "" for path in paths]

    # Nobody waits for what runc's logger has started.
    wait_until(lambda: logged() == [whole, "wrong\n"], "all is logged", trial.runtime.patience_s)
    assert (tmp_path / "told").read_text() == f"{name} {trial.daemon.namespace} level info\n"
    # runc's shim has sent its logger SIGTERM by now, which ends a shell wherever it is.
    assert trial.runtime is not KATA or (tmp_path / "ended").read_text() == "done\n"


def test_a_logger_that_is_missing_is_named(trial: Trial, tmp_path: Path) -> None:
    options = ("--rm", "--log-uri", f"binary://{tmp_path}/none")
    result = trial.run("true", options=options, check=False)
    assert result.code != 0
    assert f"{tmp_path}/none" in result.stderr
    assert "no such file" in result.stderr.lower()


def test_a_log_file_takes_both_outputs(trial: Trial, tmp_path: Path) -> None:
    path = tmp_path / "made" / "for" / "it.log"
    # runc's shim closes the file for both with the end of either, so neither may end at once.
    script = f"echo out; echo err >&2; {until_exists('/shared/$0')}"
    mount = f"type=bind,src={tmp_path},dst=/shared,options=rbind:rw"
    options = ("--rm", "--log-uri", f"file://{path}", "--mount", mount)
    for times in (1, 2):
        argv = trial.run_argv(
            trial.new_id("file"), "sh", "-c", script, f"go-{times}", options=options
        )
        with trial.attached(argv) as ctr:
            wait_until(
                lambda times=times: path.exists() and path.read_text().count("\n") == 2 * times,  # type: ignore[misc]
                "both lines are in the log",
                trial.runtime.patience_s,
            )
            (tmp_path / f"go-{times}").touch()
            assert ctr.wait(trial.runtime.patience_s) == 0
    assert sorted(path.read_text().splitlines()) == ["err", "err", "out", "out"]
    assert path.stat().st_mode & 0o777 == 0o644
    assert path.parent.stat().st_mode & 0o777 == 0o755


def test_a_hundred_megabytes_go_in_whole(trial: Trial, tmp_path: Path) -> None:
    path, digest = tmp_path / "data", hashlib.md5(usedforsecurity=False)
    with path.open("wb") as file:
        for number in range(100):
            data = os.urandom(1000) * 1000 + bytes([number])
            digest.update(data)
            file.write(data)
    with trial.background() as container, path.open("rb") as stdin:
        argv = trial.exec_argv(container, "bulk", "md5sum")
        ended = subprocess.run(
            argv,
            check=False,
            env=trial.daemon.environment,
            stdin=stdin,
            capture_output=True,
            timeout=trial.runtime.patience_s,
        )
        assert ended.stdout.split()[:1] == [digest.hexdigest().encode()], ended.stderr


def test_either_side_may_stop_early(trial: Trial) -> None:
    with trial.background() as container:
        # A process that reads a part of its input, and one that closes it and lives on.
        for name, script, said in (
            ("part", "head -c 3", b"\0\0\0"),
            ("closes", "exec <&-; echo closed; sleep 1; echo end", b"closed\nend\n"),
        ):
            argv = trial.exec_argv(container, name, "sh", "-c", script)
            with trial.attached(argv) as ctr:
                out, errors = ctr.communicate(bytes(20_000_000), timeout=180)
            assert (out, ctr.returncode) == (said, 0), errors
        # A client that dies while the process has more to say than all pipes hold.
        argv = trial.exec_argv(container, "endless", "yes")
        with trial.attached(argv) as ctr:
            assert ctr.stdout is not None
            assert ctr.stdout.read(4) == b"y\ny\n"
            ctr.kill()
        process = ("--exec-id", "endless", container)
        # A process may have spoken before its Start is answered; runc's shim kills it only after.
        kill = ("task", "kill", "--signal", "SIGKILL", *process)
        wait_until(
            lambda: trial.daemon.ctr(*kill, check=False).code == 0,
            "a kill of the process whose client is gone",
            60,
        )
        wait_until(
            lambda: trial.daemon.ctr("task", "delete", *process, check=False).code == 137,
            "the exit of a process whose client is gone",
            120,
        )
        assert trial.exec(container, "after", "echo", "well").stdout == "well\n"
