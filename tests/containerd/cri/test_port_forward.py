"""Port-forward: a client's connection reaches what listens on the pod's loopback."""

import socket

import pytest
from lab import tcp
from lab.cri import RunningPod
from lab.pod import Container
from lab.pod_trial import PodTrial
from lab.spdy import Tunnel
from lab.trial import wait_until

pytestmark = pytest.mark.containerd

# On loopback only: 8000 and, over IPv6, 8006. On every address: an echo, and a count of bytes.
SERVERS = (
    "mkdir /www; echo page > /www/page; httpd -h /www -p 127.0.0.1:8000;"
    "httpd -h /www -p [::1]:8006; nc -ll -p 7 -e cat & nc -ll -p 9 -e wc -c & wait"
)
GET = b"GET /page HTTP/1.0\r\n\r\n"


@pytest.fixture(scope="module")
def pod(shared: PodTrial) -> RunningPod:
    """A pod with servers on its loopback."""
    pod, container = shared.run(Container(command=("sh", "-c", SERVERS)))
    ports = [f":{port} " for port in (8000, 8006, 7, 9)]

    def listen() -> bool:
        table = shared.cri.sh(container, "netstat -ltn")
        return all(port in table for port in ports)

    wait_until(listen, "the servers listen", 30)
    return pod


def has_localhost6() -> bool:
    try:
        return bool(socket.getaddrinfo("localhost", 80, socket.AF_INET6))
    except socket.gaierror:
        return False


@pytest.mark.parametrize("port", [8000, 8006], ids=["IPv4", "IPv6"])
def test_a_server_on_loopback_only(trial: PodTrial, pod: RunningPod, port: int) -> None:
    if port == 8006 and not has_localhost6():
        pytest.skip("this machine's /etc/hosts has no localhost of IPv6, which containerd looks up")
    with Tunnel(trial.cri.port_forward_url(pod)) as tunnel:
        data, error = tunnel.connect(port)
        data.write(GET)
        answer = data.read_to_end()
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\npage\n")
        assert error.read_to_end() == b""
    with pytest.raises(ConnectionRefusedError):
        tcp.ask(trial.cri.pod_ips(pod)[0], 8000, GET)


def test_much_data_both_ways(trial: PodTrial, pod: RunningPod) -> None:
    data = tcp.noise(1 << 20)
    with Tunnel(trial.cri.port_forward_url(pod)) as tunnel:
        stream, _ = tunnel.connect(7)
        stream.write(data)
        got = bytearray()
        while len(got) < len(data):
            got += stream.read_some()
        assert bytes(got) == data
        assert not stream.ended


def test_connections_side_by_side(trial: PodTrial, pod: RunningPod) -> None:
    with Tunnel(trial.cri.port_forward_url(pod)) as tunnel:
        streams = [tunnel.connect(7)[0] for _ in range(5)]
        for number, stream in enumerate(streams):
            stream.write(b"connection %d\n" % number)
        for number, stream in reversed(list(enumerate(streams))):
            assert stream.read_until(b"\n") == b"connection %d\n" % number


def test_nothing_listens(trial: PodTrial, pod: RunningPod) -> None:
    with Tunnel(trial.cri.port_forward_url(pod)) as tunnel:
        _, error = tunnel.connect(4)
        assert b"4" in error.read_to_end()
    with Tunnel(trial.cri.port_forward_url(pod)) as tunnel:
        data, _ = tunnel.connect(8000)
        data.write(GET)
        assert data.read_to_end().endswith(b"page\n")
