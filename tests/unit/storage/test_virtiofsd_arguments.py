"""What may be added to virtiofsd's command line: anything but what it serves, and on which socket."""

import pytest

from kata.config import HypervisorSettings
from kata.storage.virtiofsd import VirtiofsdError, check_extra

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "extra",
    [
        ("-o", "source=/"),
        ("-o", "xattr,source=/"),
        ("-osource=/",),
        ("--shared-dir=/",),
        ("--shared-dir", "/"),
        ("--fd=3",),
        ("--socket-path=/tmp/x",),
        ("-o", "vhost_user_socket=/tmp/x"),
    ],
)
def test_what_is_served_cannot_be_changed(extra: tuple[str, ...]) -> None:
    with pytest.raises(VirtiofsdError, match="virtio_fs_extra_args"):
        check_extra(extra)


def test_the_rest_can() -> None:
    check_extra(HypervisorSettings().virtio_fs_extra_args)
    check_extra(("-o", "modcaps=+sys_admin", "--rlimit-nofile=1000", "-d"))
