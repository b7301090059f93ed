"""Processes in a pod's containers: their streams, their terminals, their ends, and their logs."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from lab import tcp
from lab.cri import Cri, CriError
from lab.pod import Container, Mount
from lab.pod_streams import Process
from lab.pod_trial import PodTrial
from lab.trial import wait_until

pytestmark = pytest.mark.containerd

LINES = 20_000


@pytest.fixture(scope="module")
def container(shared: PodTrial) -> str:
    """A container to run processes in."""
    return shared.run()[1]


def payload(log: Path) -> tuple[str, str]:
    """Return what a log holds of the two streams (kubelet's format: time, stream, F or P, text)."""
    texts = {"stdout": "", "stderr": ""}
    for line in log.read_bytes().decode().split("\n")[:-1]:  # the last may be half written
        _, stream, kind, text = line.split(" ", 3)
        texts[stream] += text + ("\n" if kind == "F" else "")
    return texts["stdout"], texts["stderr"]


def test_exec_sync(trial: PodTrial, container: str) -> None:
    for code in (0, 1, 42, 137):
        script = f"echo out; echo err >&2; exit {code}"
        ended = trial.cri.exec(container, "sh", "-c", script)
        assert (ended.code, ended.stdout, ended.stderr) == (code, "out\n", "err\n")
    assert trial.cri.exec(container, "cat").stdout == ""  # its standard input is at its end
    many = trial.cri.sh(container, f"seq 1 {LINES}")
    assert many.splitlines() == [str(number) for number in range(1, LINES + 1)]
    with pytest.raises(CriError, match="/no/such/program"):
        trial.cri.exec(container, "/no/such/program")


def test_exec_sync_that_takes_too_long_is_gone(trial: PodTrial, container: str) -> None:
    with pytest.raises(CriError, match="timeout 1s exceeded"):
        trial.cri.exec(container, "sleep", "4321", timeout_s=1)

    def is_gone() -> bool:
        processes = trial.cri.sh(container, "ps -o args").splitlines()
        return "sleep 4321" not in processes

    wait_until(is_gone, "the process ends", trial.runtime.patience_s)


def test_the_end_of_standard_input_reaches_an_exec(trial: PodTrial, container: str) -> None:
    """Open upstream: a process that reads its input to the end never ends."""
    data = tcp.noise(1 << 20)
    url = trial.cri.exec_url(container, "sh", "-c", "sha256sum; echo end >&2; exit 3", stdin=True)
    with Process(url, stdin=True) as process:
        process.stdin.write(data)
        process.stdin.end()
        said = process.stdout.read_to_end().split()
        assert said[0].decode() == hashlib.sha256(data).hexdigest()
        assert process.stderr.read_to_end() == b"end\n"
        assert process.wait() == 3


def test_a_conversation_with_an_exec(trial: PodTrial, container: str) -> None:
    with Process(trial.cri.exec_url(container, "cat", stdin=True), stdin=True) as process:
        for line in (b"one\n", b"two\n", "dr\u00e9i\n".encode()):
            process.stdin.write(line)
            assert process.stdout.read_until(b"\n") == line
        process.stdin.end()
        assert process.wait() == 0


def test_a_terminal_and_its_size(trial: PodTrial, container: str) -> None:
    url = trial.cri.exec_url(container, "sh", stdin=True, tty=True)
    with Process(url, stdin=True, tty=True) as process:
        process.resize(41, 132)
        # What is typed comes back, so that a mark has to differ from the command that prints it.
        process.stdin.write(b"test -t 0 && test -t 1 && echo is''tty\n")
        process.stdout.read_until(b"istty\r\n")
        process.stdin.write(
            b"while [ \"$(stty size)\" != '41 132' ]; do sleep 0.1; done; echo fi''rst\n"
        )
        process.stdout.read_until(b"first\r\n")
        process.resize(20, 60)
        process.stdin.write(
            b"while [ \"$(stty size)\" != '20 60' ]; do sleep 0.1; done; echo sec''ond\n"
        )
        process.stdout.read_until(b"second\r\n")
        process.stdin.write(b"echo sleep''ing; sleep 1000\n")
        process.stdout.read_until(b"sleeping\r\n")
        process.stdin.write(b"\x03")  # Ctrl-C
        process.stdin.write(b"exit 6\n")
        assert process.wait() == 6


def test_attach_once(trial: PodTrial, tmp_path: Path) -> None:
    """stdinOnce: the first client's end of input is the container's."""
    cri = trial.cri
    command = ("sh", "-c", f"echo begun; cat; echo over >&2; {trial.linger('/shared/go')}")
    shared = (Mount(tmp_path, "/shared"),)
    main = Container(command=command, mounts=shared, stdin=True, stdin_once=True)
    pod, container = trial.run(main)
    log, expected = cri.log_path(pod, "main"), ("begun\ntyped\n", "over\n")
    with Process(cri.attach_url(container, stdin=True), stdin=True) as client:
        client.stdin.write(b"typed\n")
        assert client.stdout.read_until(b"typed\n").endswith(b"typed\n")
        client.stdin.end()
        assert client.stderr.read_until(b"over\n") == b"over\n"
        ended = trial.wait_for_end(container, lambda: payload(log) == expected, tmp_path / "go")
        assert client.stderr.read_to_end() == b""
    assert ended.exit_code == 0

    # On a terminal, and without an end of input: the client goes, the container stays.
    shell = Container(name="shell", command=("sh",), stdin=True, tty=True)
    container = cri.run(pod, shell)
    for number in range(2):
        with Process(
            cri.attach_url(container, stdin=True, tty=True), stdin=True, tty=True
        ) as client:
            client.resize(33, 99)
            client.stdin.write(
                b"while [ \"$(stty size)\" != '33 99' ]; do sleep 0.1; done; echo si''zed\n"
            )
            client.stdout.read_until(b"sized\r\n")
        assert cri.state(container) == "RUNNING", f"after client {number}"


def test_logs_are_complete_to_the_last_byte(trial: PodTrial, tmp_path: Path) -> None:
    """Open upstream: the tail of a log is lost, about one run in three."""
    cri = trial.cri
    pod = trial.run_pod()

    def prove(one: Container, script: str, expected: tuple[str, str], attempt: int = 0) -> None:
        # 1.6 closes the FIFO at the exit with what is still in it (under runc, 12 logs of 30).
        go = f"{one.name}-{attempt}"
        command = ("sh", "-c", f"{script}; {trial.linger(f'/shared/{go}')}")
        container = cri.run(pod, replace(one, command=command, mounts=[Mount(tmp_path, "/shared")]))
        log = cri.log_path(pod, one.name, attempt)
        ended = trial.wait_for_end(container, lambda: payload(log) == expected, tmp_path / go)
        assert ended.exit_code == 0
        cri.remove(container)  # after which nothing can be written any more
        assert payload(log) == expected

    script = f"seq 1 {LINES}; seq 1 100 >&2; printf 'no newline at the end'"
    counted = "".join(f"{number}\n" for number in range(1, LINES + 1))
    expected = (counted + "no newline at the end", counted[: counted.index("101\n")])
    for attempt in range(5):
        prove(Container(), script, expected, attempt)
    long = "head -c 100000 /dev/zero | tr '\\0' x"
    prove(Container(name="long"), long, ("x" * 100_000, ""))
    prove(Container(name="tty", tty=True), "echo out; echo err >&2", ("out\nerr\n", ""))


def test_a_log_is_rotated_without_a_loss(trial: PodTrial) -> None:
    cri = trial.cri
    count = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done"
    pod, container = trial.run(Container(command=("sh", "-c", count)))
    log = cri.log_path(pod, "main")
    rotated = log.with_suffix(".log.rotated")
    wait_until(lambda: lines(log) > 10, "ten lines", 60)
    log.rename(rotated)
    cri.call("ReopenContainerLog", {"container_id": container})
    wait_until(lambda: log.exists() and lines(log) > 10, "ten lines in the new log", 60)
    cri.stop(container)
    numbers = [int(word) for word in (payload(rotated)[0] + payload(log)[0]).split()]
    assert numbers == list(range(len(numbers)))


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def test_many_execs_leave_nothing(trial: PodTrial, container: str) -> None:
    """Each exec has descriptors and FIFOs in the shim and a process inside: they are given back."""
    cri: Cri = trial.cri
    pod = cri.call("ListContainers", {"filter": {"id": container}}).containers[0].pod_sandbox_id

    def descriptors() -> int:
        return len(list(Path(f"/proc/{cri.daemon.shim_pid(pod)}/fd").iterdir()))

    inside = "set -- /proc/[0-9]*; echo $#"  # the shell's own list: no process of its own
    processes, before = cri.sh(container, inside), descriptors()
    for _ in range(30):
        cri.sh(container, "true")
    # A shim may open one of its own at times; one for each exec it may not keep.
    wait_until(lambda: descriptors() < before + 10, f"about {before} descriptors", 60)
    assert cri.sh(container, inside) == processes
