"""Containers that run to their end: exit codes, streams, mounts, images."""

import dataclasses
import hashlib
import platform
from contextlib import ExitStack
from pathlib import Path

import pytest
from lab.images import DEBIAN
from lab.runtimes import KATA
from lab.trial import Trial, until_exists

pytestmark = pytest.mark.containerd

LINES = 100_000
LINE_BYTES = 1000
AWK = f'BEGIN {{ for (i = 0; i < {LINES}; i++) printf "%0{LINE_BYTES - 1}d\\n", i }}'


@pytest.mark.parametrize("code", [0, 1, 42, 137])
def test_exit_code_of_a_container_is_ctrs(trial: Trial, code: int) -> None:
    assert trial.run("sh", "-c", f"exit {code}", check=False).code == code


def test_both_output_streams_arrive_apart(trial: Trial) -> None:
    result = trial.hear("sh", "-c", "echo out; echo err >&2")
    assert (result.stdout, result.stderr) == ("out\n", "err\n")


def test_a_vm_has_a_kernel_of_its_own(trial: Trial) -> None:
    own_kernel = trial.hear("uname", "-r").stdout.strip() != platform.release()
    assert own_kernel == (trial.runtime is KATA)


def test_the_name_with_the_hypervisor_is_the_same_runtime(trial: Trial) -> None:
    if trial.runtime is not KATA:
        pytest.skip("runc has one name")
    qemu = dataclasses.replace(
        KATA,
        ctr_options=tuple(word.replace("kata.v2", "kata-qemu.v2") for word in KATA.ctr_options),
    )
    other = Trial(trial.daemon, qemu)
    assert other.hear("echo", "hello").stdout == "hello\n"


def test_stdin_is_read_until_its_end(trial: Trial, tmp_path: Path) -> None:
    data = bytes(range(256)) * 4096
    script = "echo ready; sha256sum"
    if trial.daemon.release.loses_output:
        script += f"; {until_exists('/shared/go')}"
    options = ("--rm", "--mount", f"type=bind,src={tmp_path},dst=/shared,options=rbind:rw")
    argv = trial.run_argv(trial.new_id("stdin"), "sh", "-c", script, options=options)
    with trial.attached(argv) as ctr:
        assert ctr.stdin is not None
        assert ctr.stdout is not None
        # ctr 1.6 forgets an end that comes before the task is made, so wait for the container.
        assert ctr.stdout.readline() == b"ready\n"
        ctr.stdin.write(data)
        ctr.stdin.close()
        said = ctr.stdout.readline()
        (tmp_path / "go").touch()
        assert (ctr.stdout.read(), ctr.wait(trial.runtime.patience_s)) == (b"", 0)
    assert said.split() == [hashlib.sha256(data).hexdigest().encode(), b"-"]


def test_a_hundred_megabytes_arrive_whole_and_in_order(trial: Trial) -> None:
    lingers = ("sh", "-c", 'awk "$0"; code=$?; read -r _; exit $code', AWK)
    words = lingers if trial.daemon.release.loses_output else ("awk", AWK)
    with trial.attached(trial.run_argv(trial.new_id("bulk"), *words)) as ctr:
        assert ctr.stdin is not None
        assert ctr.stdout is not None
        for number in range(LINES):
            line = ctr.stdout.readline()
            assert line == b"%0*d\n" % (LINE_BYTES - 1, number)
        ctr.stdin.close()
        assert ctr.stdout.read() == b""
        assert ctr.wait(trial.runtime.patience_s) == 0


def test_five_containers_run_at_once(trial: Trial) -> None:
    script = "echo begun; read word; echo $word; read end"
    words = [f"word-{number}".encode() for number in range(5)]
    with ExitStack() as stack:
        ctrs = [
            stack.enter_context(
                trial.attached(trial.run_argv(trial.new_id("five"), "sh", "-c", script))
            )
            for _ in words
        ]
        for ctr in ctrs:  # none ends before all have begun
            assert ctr.stdout is not None
            assert ctr.stdout.readline() == b"begun\n"
        for ctr, word in zip(ctrs, words, strict=True):
            assert ctr.stdin is not None
            assert ctr.stdout is not None
            ctr.stdin.write(word + b"\n")
            ctr.stdin.flush()
            assert ctr.stdout.readline() == word + b"\n"
            said, errors = ctr.communicate(b"end\n", timeout=trial.runtime.patience_s)
            assert (said, ctr.returncode) == (b"", 0), errors


def test_a_missing_program_is_named_in_the_error(trial: Trial) -> None:
    result = trial.run("/no/such/program", check=False)
    assert result.code != 0
    assert "/no/such/program" in result.stderr
    assert "no such file" in result.stderr.lower()


def test_a_bind_mount_shows_both_sides_changes(trial: Trial, tmp_path: Path) -> None:
    (tmp_path / "from-host").write_text("host\n")
    mount = f"type=bind,src={tmp_path},dst=/shared,options=rbind:rw"
    script = "cat /shared/from-host; echo container > /shared/from-container"
    result = trial.hear("sh", "-c", script, options=("--rm", "--mount", mount))
    assert result.stdout == "host\n"
    assert (tmp_path / "from-container").read_text() == "container\n"


def test_a_read_only_bind_mount_refuses_writes(trial: Trial, tmp_path: Path) -> None:
    mount = f"type=bind,src={tmp_path},dst=/shared,options=rbind:ro"
    result = trial.hear("touch", "/shared/new", options=("--rm", "--mount", mount), check=False)
    assert result.code == 1
    assert "Read-only file system" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_debian_root_filesystem_runs(trial: Trial) -> None:
    script = ". /etc/os-release; echo $ID; dpkg --verify --verify-format rpm libc6 && perl -e 'print 6*7'"
    assert trial.hear("bash", "-c", script, image=DEBIAN.name).stdout == "debian\n42"
