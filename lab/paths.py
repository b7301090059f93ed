"""Places of the laboratory.

What a build makes lies in the checkout's `build/`; what a fresh clone should not have to download
or unpack again lies in the user's cache; what a running daemon needs lies under `/run`, because a
unix socket's path may have 107 bytes at most (unix(7)).
"""

import os
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).resolve().parent.parent
BUILD: Final = CHECKOUT / "build"
STAMPS: Final = BUILD / "stamps"
TEMPLATES: Final = BUILD / "templates"
SANDBOX_LOGS: Final = BUILD / "sandbox-logs"
TEST_LOGS: Final = BUILD / "test-logs"
PREFIX: Final = BUILD / "opt" / "kata"
RUN: Final = Path("/run/kata-lab")

CACHE: Final = (
    Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser()
    / "kata-containers"
)

SHIM: Final = PREFIX / "bin" / "containerd-shim-kata-v2"
CONFIGURATION: Final = PREFIX / "share" / "defaults" / "kata-containers" / "configuration-qemu.toml"
DROP_INS: Final = CONFIGURATION.parent / "config.d"
GUEST: Final = PREFIX / "share" / "kata-containers"
GUEST_KERNEL: Final = GUEST / "vmlinux.container"
