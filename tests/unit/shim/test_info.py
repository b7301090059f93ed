"""What `-info` advertises is what the agent's own tables hold, and no more."""

from typing import Any

import pytest

from kata.sandbox import guest_spec
from kata.sandbox.errors import SandboxError
from kata.shim import info
from kata_agent import container, identity, libseccomp, mount_options, seccomp
from kata_api import oci
from kata_api.agent.oci_pb2 import LinuxSeccomp, LinuxSeccompArg, LinuxSyscall
from ttrpc import RpcError

pytestmark = pytest.mark.unit

_HOOKS = (
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
)


def test_mount_options_are_the_agents() -> None:
    known = set(mount_options.WORDS)
    assert set(info.MOUNT_OPTIONS) == known, "kata.shim.info and kata_agent.mount_options differ"
    for option in info.MOUNT_OPTIONS:
        assert mount_options.parse([option]).data == ""  # not left for the file system to know


def test_capabilities_are_the_agents() -> None:
    assert tuple(f"CAP_{name}" for name in identity.CAPABILITIES) == info.CAPABILITIES


def test_namespaces_are_those_that_are_joined_or_made() -> None:
    assert set(info.NAMESPACES) == {*container._JOINABLE, "mount", "cgroup", "time"}


@pytest.mark.parametrize("name", _HOOKS)
def test_a_hook_is_advertised_if_it_is_accepted(name: str) -> None:
    hook = oci.Hook(path="/bin/true")
    field = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
    spec = oci.Spec(
        oci_version="1.0.2",
        process=oci.Process(cwd="/", args=("true",)),
        root=oci.Root(path="rootfs"),
        linux=oci.Linux(namespaces=(oci.Namespace(type="network"),)),
        hooks=oci.Hooks(**{field: (hook,)}),
    )
    try:
        guest_spec.check(spec, guest_seccomp=True)
    except SandboxError:
        accepted = False
    else:
        accepted = True
    assert accepted == (name in info.HOOKS)


def _compiles(**fields: Any) -> bool:
    profile = {"DefaultAction": "SCMP_ACT_ALLOW"} | fields
    try:
        seccomp.compile_profile(LinuxSeccomp(**profile))
    except RpcError:
        return False
    return True


def test_seccomp_is_what_the_agent_compiles() -> None:
    try:
        libseccomp._library()
    except libseccomp.SeccompError:
        pytest.skip("there is no libseccomp (package libseccomp2)")
    assert set(info.SECCOMP_ACTIONS) == set(seccomp.ACTIONS)
    assert set(info.SECCOMP_OPERATORS) == set(seccomp.OPERATORS)
    assert set(info.SECCOMP_FLAGS) == set(seccomp.FLAGS)
    for action in info.SECCOMP_ACTIONS:
        assert _compiles(Syscalls=[LinuxSyscall(Names=["mkdir"], Action=action)])
    for operator in info.SECCOMP_OPERATORS:
        argument = LinuxSeccompArg(Index=0, Value=1, Op=operator)
        rule = LinuxSyscall(Names=["mkdir"], Action="SCMP_ACT_ERRNO", Args=[argument])
        assert _compiles(Syscalls=[rule])
    accepted = {name for name in seccomp.ARCHITECTURES if _compiles(Architectures=[name])}
    assert set(info.SECCOMP_ARCHITECTURES) == accepted
    for flag in info.SECCOMP_FLAGS:
        assert _compiles(Flags=[flag])


def test_lists_are_sorted_as_other_runtimes_print_them() -> None:
    lists = (info.MOUNT_OPTIONS, info.NAMESPACES, info.SECCOMP_ACTIONS, info.SECCOMP_OPERATORS)
    for words in (*lists, info.SECCOMP_ARCHITECTURES, info.SECCOMP_FLAGS):
        assert list(words) == sorted(words)
