"""A pod's life: its containers come, end and come again, and the pod goes, as kubelet has it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lab.cri import CriError
from lab.pod import Container, Mount, Pod
from lab.pod_trial import PodTrial
from lab.trial import wait_until

pytestmark = pytest.mark.containerd

WAIT = "echo ready; while :; do sleep 0.1; done"


def test_a_pod_of_five_containers(trial: PodTrial) -> None:
    cri = trial.cri
    pod = trial.run_pod(Pod(name="five", hostname="host-of-five"))
    names = [f"c{number}" for number in range(5)]
    ids = {name: cri.run(pod, Container(name=name)) for name in names}
    assert {cri.state(one) for one in ids.values()} == {"RUNNING"}
    for number, name in enumerate(names):
        cri.sh(ids[name], f"echo {name} > /own; echo {name} > /dev/shm/{name}")
        # Each has a root and processes of its own; names and shared memory are the pod's.
        assert cri.sh(ids[name], "cat /own; hostname") == f"{name}\nhost-of-five\n"
        assert cri.sh(ids[name], "ls /dev/shm").split() == names[: number + 1]
        # It may still be the runtime's own program that is about to become the command.
        first = ids[name]
        wait_until(lambda one=first: cri.exec(one, "pidof", "sleep").stdout == "1\n", name, 60)  # type: ignore[misc]
    # The network is the pod's, too.
    cri.sh(ids["c0"], "mkdir /www; echo served > /www/page; httpd -p 127.0.0.1:8000 -h /www")
    assert cri.sh(ids["c4"], "wget -qO- http://127.0.0.1:8000/page") == "served\n"

    cri.stop(ids["c2"])
    status = cri.status(ids["c2"])
    assert (cri.state(ids["c2"]), status.exit_code) == ("EXITED", 137)
    assert status.finished_at >= status.started_at >= status.created_at > 0
    cri.remove(ids["c2"])
    assert {cri.state(ids[name]) for name in names if name != "c2"} == {"RUNNING"}
    listed = cri.call("ListContainers", {"filter": {"pod_sandbox_id": pod.id}}).containers
    assert {one.metadata.name for one in listed} == set(names) - {"c2"}


def test_init_containers_then_the_main_one_again_and_again(trial: PodTrial, tmp_path: Path) -> None:
    cri = trial.cri
    volume = (Mount(tmp_path, "/volume"),)
    pod = trial.run_pod()
    for name in ("first", "second"):
        step = Container(
            name=name, command=("sh", "-c", f"echo {name} >> /volume/order"), mounts=volume
        )
        container = cri.run(pod, step)
        assert cri.wait_for_end(container).exit_code == 0
        cri.remove(container)
    assert (tmp_path / "order").read_text() == "first\nsecond\n"

    # Every container of the pod has ended; it takes new ones all the same, and in one that
    # restarts, nothing is left of the attempt before.
    for attempt, code in enumerate((3, 0, 42)):
        go = f"go-{attempt}"
        script = f"echo try {attempt}; {trial.linger(f'/volume/{go}')};"
        script += f"test ! -e /mark && echo > /mark && exit {code}"
        main = Container(command=("sh", "-c", script), mounts=volume)
        container = cri.run(pod, main)
        log, said = cri.log_path(pod, "main", attempt), f"stdout F try {attempt}\n"
        status = trial.wait_for_end(
            container,
            lambda log=log, said=said: said in log.read_text(),  # type: ignore[misc]
            tmp_path / go,
        )
        reason = "Completed" if code == 0 else "Error"
        assert (status.exit_code, status.reason) == (code, reason)
        assert status.metadata.attempt == attempt
        if attempt == 1:
            cri.remove(container)
    assert cri.pod_state(pod) == "READY"


def test_a_program_that_is_missing_fails_the_container_only(trial: PodTrial) -> None:
    cri = trial.cri
    pod = trial.run_pod()
    container = cri.create(pod, Container(command=("/no/such/program",)))
    with pytest.raises(CriError, match="/no/such/program"):
        cri.start(container)
    status = cri.status(container)
    assert (cri.state(container), status.reason, status.exit_code) == ("EXITED", "StartError", 128)
    again = cri.run(pod, Container())
    assert cri.sh(again, "echo works") == "works\n"


def test_a_container_gets_its_grace_and_no_more(trial: PodTrial, tmp_path: Path) -> None:
    cri = trial.cri
    pod = trial.run_pod()
    trap = f"trap 'echo ended; {trial.linger('/shared/go')}; exit 7' TERM"
    command, shared = ("sh", "-c", f"{trap}; {WAIT}"), (Mount(tmp_path, "/shared"),)
    polite = cri.run(pod, Container(name="polite", command=command, mounts=shared))
    rude = cri.run(pod, Container(name="rude", command=("sh", "-c", f"trap '' TERM; {WAIT}")))
    for name in ("polite", "rude"):
        log = cri.log_path(pod, name)
        wait_until(lambda log=log: "ready" in log.read_text(), "ready", 60)  # type: ignore[misc]
    log = cri.log_path(pod, "polite")
    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(cri.stop, polite, grace_s=60)
        trial.wait_for_end(polite, lambda: "stdout F ended\n" in log.read_text(), tmp_path / "go")
        stopped.result()
    assert cri.status(polite).exit_code == 7
    cri.stop(rude, grace_s=1)
    assert cri.status(rude).exit_code == 137


def test_stop_and_remove_twice(trial: PodTrial) -> None:
    cri = trial.cri
    pod, container = trial.run()
    created = cri.create(pod, Container(name="never-started"))
    for _ in range(2):
        cri.stop_pod(pod)
        assert cri.pod_state(pod) == "NOTREADY"
        assert (cri.state(container), cri.status(container).exit_code) == ("EXITED", 137)
        assert cri.state(created) in {"EXITED", "CREATED"}
    assert cri.pod_status(pod).network.ip == ""
    shim = trial.runtime.shim_until_removal

    def is_stopped() -> bool:
        kinds = {one.kind for one in trial.new() if not (shim and "containerd-shim" in one.what)}
        return not kinds & {"process", "port of the bridge", "address in use"}

    # Who answered last needs a moment to end.
    wait_until(is_stopped, "no process, port or address of the pod", 60)
    for _ in range(2):
        cri.remove_pod(pod)
        with pytest.raises(CriError) as raised:
            cri.pod_status(pod)
        assert raised.value.code == "NOT_FOUND"
        with pytest.raises(CriError) as raised:
            cri.status(container)
        assert raised.value.code == "NOT_FOUND"


def test_a_pod_is_removed_while_it_runs(trial: PodTrial) -> None:
    """kubelet stops a pod before; whoever does not, has it stopped."""
    pod, _ = trial.run()
    trial.cri.call("RemovePodSandbox", {"pod_sandbox_id": pod.id})


def test_a_pod_that_cannot_start_leaves_nothing(trial: PodTrial) -> None:
    """The census at the trial's end is the proof; what is wrong stands in the message."""
    with pytest.raises(CriError, match=r"no[./]such[./]name"):
        trial.run_pod(Pod(sysctls={"net.no.such.name": "1"}))
    pod = trial.run_pod()
    with pytest.raises(CriError, match="absent"):
        trial.cri.create(pod, Container(image="docker.io/library/absent:latest"))
    assert trial.cri.pod_state(pod) == "READY"


def test_pods_at_the_same_time(trial: PodTrial) -> None:
    """kubelet starts and ends pods side by side."""
    cri = trial.cri

    def life(name: str) -> tuple[str, str]:
        pod, container = trial.run(pod=Pod(name=name))
        said = cri.sh(container, "hostname").strip()
        address = cri.pod_ips(pod)[0]
        cri.stop_pod(pod)
        cri.remove_pod(pod)
        return said, address

    names = [f"side-by-side-{number}" for number in range(4)]
    with ThreadPoolExecutor(len(names)) as pool:
        lives = list(pool.map(life, names))
    assert [name for name, _ in lives] == names
    assert len({address for _, address in lives}) == len(names)
