"""The `[factory]` table: virtual machines that are prepared before they are asked for."""

from __future__ import annotations

from kata.config.setting import Section, later, setting


class FactorySettings(Section, table="factory", accepted_as=("hypervisor.qemu.factory",)):
    """Templates and caches of virtual machines."""

    enable_template: bool = setting(
        default=True,
        help=(
            "Restore sandboxes from a machine that was booted once and saved, instead of booting "
            "each. The first start of a configuration makes the template. Upstream's default is "
            "false."
        ),
    )
    template_path: str = setting(
        default="/var/lib/kata-containers/template",
        help=(
            "Directory that holds the templates, owned by root alone. A file system on a disk "
            "suits it: pages that a guest touches beyond the template's are then cache, which "
            "the host can take back. Upstream's default is /run/vc/vm/template."
        ),
    )
    vm_cache_number: int = setting(
        default=0,
        minimum=0,
        maximum=64,
        help=(
            "How many guests stand by, restored from the template and with a shim of their own, for "
            "the next sandboxes of this configuration. Where machines are emulated, these start in a "
            "third of the time. Each takes the memory of an idle sandbox, and goes when nobody has "
            "asked for it in ten minutes. For pods, the host's mounts have to be shared."
        ),
    )
    vm_cache_endpoint: str = later(
        default="/var/run/kata-containers/cache.sock", help="Socket of the VM cache."
    )
