"""A pod's network: what CNI gave it is what its processes have, and everyone reaches everyone."""

import hashlib

import pytest
from lab import tcp
from lab.command import run
from lab.cri import Cri, CriError, RunningPod
from lab.pod import Container, Dns, Pod, Port
from lab.pod_network import BRIDGED_MTU, PTP_MTU, PodNetwork
from lab.pod_trial import PodTrial
from lab.trial import wait_until

pytestmark = pytest.mark.containerd

# Echoes on port 7, counts bytes on port 9.
SERVER = "nc -ll -p 7 -e cat & nc -ll -p 9 -e wc -c & httpd -h /etc -p 8080; wait"
MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def network(shared: PodTrial) -> PodNetwork:
    network = shared.cri.daemon.network
    assert network is not None
    return network


@pytest.fixture(scope="module")
def served(shared: PodTrial) -> tuple[RunningPod, str]:
    """A pod with servers on all of its addresses."""
    pod = shared.run_pod(
        Pod(hostname="named", dns=Dns(("192.0.2.7", "2001:db8::7"), ("a.test",), ()))
    )
    container = shared.cri.run(pod, Container(command=("sh", "-c", SERVER)))
    wait_until(lambda: listens(shared.cri, container, 7, 9, 8080), "the servers listen", 30)
    return pod, container


def listens(cri: Cri, container: str, *ports: int) -> bool:
    table = cri.sh(container, "netstat -ltn")
    return all(f":{port} " in table for port in ports)


def url_host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def test_interface_addresses_and_routes(
    shared: PodTrial, served: tuple[RunningPod, str], network: PodNetwork
) -> None:
    pod, container = served
    addresses = shared.cri.pod_ips(pod)
    assert [":" in address for address in addresses] == [False, True]
    link = shared.cri.sh(container, "ip link show eth0")
    assert f"mtu {BRIDGED_MTU} " in link
    assert "LOWER_UP" in link
    shown = shared.cri.sh(container, "ip addr show eth0")
    assert f"inet {addresses[0]}/24 " in shown
    assert f"inet6 {addresses[1]}/64 scope global" in shown
    assert "tentative" not in shown
    assert "127.0.0.1/8" in shared.cri.sh(container, "ip addr show lo")
    routes = [line.split() for line in shared.cri.sh(container, "ip -4 route").splitlines()]
    assert ["default", "via", network.gateway, "dev", "eth0"] in routes
    assert any(words[:3] == [str(network.ipv4), "dev", "eth0"] for words in routes)
    assert f"default via {network.ipv6[1]} dev eth0" in shared.cri.sh(container, "ip -6 route")


def test_names(shared: PodTrial, served: tuple[RunningPod, str]) -> None:
    _, container = served
    assert shared.cri.sh(container, "hostname; cat /etc/hostname").split() == ["named"] * 2
    said = shared.cri.sh(container, "cat /etc/resolv.conf")
    assert said.split() == [
        "search",
        "a.test",
        "nameserver",
        "192.0.2.7",
        "nameserver",
        "2001:db8::7",
    ]


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_the_host_reaches_the_pod(
    shared: PodTrial, served: tuple[RunningPod, str], family: int
) -> None:
    address = shared.cri.pod_ips(served[0])[family]
    data = tcp.noise(4 * MEBIBYTE)
    assert tcp.ask(address, 7, data) == data
    assert tcp.ask(address, 9, data).split() == [b"%d" % len(data)]
    with pytest.raises(ConnectionRefusedError):
        tcp.ask(address, 10, b"")


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_the_pod_reaches_the_host(
    shared: PodTrial, served: tuple[RunningPod, str], network: PodNetwork, family: int
) -> None:
    pod, container = served
    own = (str(network.ipv4[1]), str(network.ipv6[1]))[family]
    script = "dd if=/dev/zero bs=1M count=4 2>/dev/null | nc -w 20 {} {}"
    with tcp.digest_server(own) as port:
        said = shared.cri.sh(container, script.format(own, port)).split()
    digest = hashlib.sha256(bytes(4 * MEBIBYTE)).hexdigest()
    assert said == [str(4 * MEBIBYTE), digest, shared.cri.pod_ips(pod)[family]]


def test_echo_requests_pass_both_ways(
    shared: PodTrial, served: tuple[RunningPod, str], network: PodNetwork
) -> None:
    _, container = served
    for address, flag in ((network.ipv4[1], "-4"), (network.ipv6[1], "-6")):
        said = shared.cri.sh(container, f"ping {flag} -c 2 -i 0.1 -s 1400 -W 10 {address}")
        assert "2 packets received, 0% packet loss" in said


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_pods_reach_each_other(
    shared: PodTrial, served: tuple[RunningPod, str], trial: PodTrial, family: int
) -> None:
    address = url_host(shared.cri.pod_ips(served[0])[family])
    _, container = trial.run()
    said = trial.cri.sh(container, f"wget -qO- http://{address}:8080/passwd")
    assert said.startswith("root:x:0:0:")


def test_a_port_of_the_host_is_the_pods(trial: PodTrial, network: PodNetwork) -> None:
    """The portmap plugin rewrites, from loopback, from the host's addresses, and from the pod."""
    cri, port = trial.cri, tcp.free_port()
    pod = trial.run_pod(Pod(ports=(Port(7, port),)))
    container = cri.run(pod, Container(command=("sh", "-c", SERVER)))
    wait_until(lambda: listens(cri, container, 7), "the server listens", 30)
    data = tcp.noise(MEBIBYTE)
    for address in ("127.0.0.1", network.gateway):
        assert tcp.ask(address, port, data) == data
    said = cri.sh(container, f"echo itself | nc -w 20 {network.gateway} {port}")
    assert said == "itself\n"
    cri.stop_pod(pod)
    with pytest.raises(ConnectionRefusedError):
        tcp.ask("127.0.0.1", port, b"")


def test_several_interfaces(trial: PodTrial, network: PodNetwork) -> None:
    """A bridge's veth, a point-to-point veth with a route, and a macvlan, each with its MTU."""
    cri = trial.cri
    one, other = (trial.run_pod(several_interfaces=True) for _ in range(2))
    asking, asked = (cri.run(pod, Container(command=("sh", "-c", SERVER))) for pod in (one, other))
    wait_until(lambda: listens(cri, asked, 7, 8080), "the servers listen", 30)
    assert set(link_names(cri.sh(asked, "ip -o link"))) >= {"lo", "eth0", "eth1", "eth2"}
    assert f"mtu {BRIDGED_MTU} " in cri.sh(asked, "ip link show eth0")
    assert f"mtu {PTP_MTU} " in cri.sh(asked, "ip link show eth1")

    of_ptp = address_of(cri, asked, "eth1")
    of_macvlan = address_of(cri, asked, "eth2")
    assert of_ptp.startswith(str(network.ptp[0]).removesuffix(".0"))
    assert of_macvlan.startswith(str(network.macvlan[0]).removesuffix(".0"))
    routes = cri.sh(asked, "ip -4 route")
    assert f"192.0.2.0/24 via {network.ptp[1]} dev eth1" in routes

    data = tcp.noise(MEBIBYTE)
    assert tcp.ask(of_ptp, 7, data) == data
    page = cri.sh(asking, f"wget -qO- http://{of_macvlan}:8080/passwd")
    assert page.startswith("root:x:0:0:")


def address_of(cri: Cri, container: str, interface: str) -> str:
    words = cri.sh(container, f"ip -4 -o addr show {interface}").split()
    return words[words.index("inet") + 1].partition("/")[0]


def test_bandwidth_is_limited(trial: PodTrial, network: PodNetwork) -> None:
    """The annotations are kubelet's, in bits a second; the plugin shapes on the host's side."""
    cri = trial.cri
    rate = {f"kubernetes.io/{way}-bandwidth": "8M" for way in ("ingress", "egress")}
    pod = trial.run_pod(Pod(annotations=rate))
    container = cri.run(pod, Container(command=("sh", "-c", SERVER)))
    wait_until(lambda: listens(cri, container, 7), "the server listens", 30)
    # containerd asks for a bucket of 512 MiB, so that data for a measurement would take minutes.
    limited = [line for line in run(["tc", "qdisc", "show"]).stdout.splitlines() if "8Mbit" in line]
    assert len(limited) == 2, limited
    data = tcp.noise(MEBIBYTE)
    assert tcp.ask(cri.pod_ips(pod)[0], 7, data) == data


def test_a_pod_in_the_hosts_network(trial: PodTrial) -> None:
    pod = Pod(host_network=True)
    if trial.runtime.is_machine:
        with pytest.raises(CriError, match=r"(?i)host ?network"):
            trial.run_pod(pod)
        return
    running, container = trial.run(pod=pod)
    own = run(["ip", "-o", "link"]).stdout
    assert link_names(trial.cri.sh(container, "ip -o link")) == link_names(own)
    assert trial.cri.pod_state(running) == "READY"


def link_names(shown: str) -> list[str]:
    return [line.split()[1].rstrip(":").partition("@")[0] for line in shown.splitlines()]
