"""The machine that a template is made of, and what a sandbox wants beyond that.

A pod may ask for more processors and memory than the configuration's files give, by annotations or
by the limits of its containers.  A template for each size would be made for few; so the files'
machine is restored, and the difference plugged in.
"""

import platform

from kata.config import Configuration, load
from kata.host import capacity
from kata.hypervisor.port import Growth, HypervisorError
from kata.hypervisor.qemu.plan import guest_memory
from kata.hypervisor.qemu.room import Room
from kata.template.key import Key
from kata.template.store import TemplateError

_SIZES = ("default_vcpus", "default_memory")

_MOST_FOLD = 16
"""How many times the template's memory can be plugged in: the guest's kernel keeps a 64th of what it
gets in what it has."""

_NONE = Growth(0, 0)


def base_of(configuration: Configuration, beyond: Growth = _NONE) -> tuple[Configuration, Growth]:
    """Return the configuration of a sandbox's template, and what is missing to the sandbox's size.

    That size is the configuration's and what the pod's limits ask for `beyond`.

    Templates are made of what the files say: pods could fill the disk with theirs.  Raises
    `TemplateError` for a pod whose annotations shape its machine in another way than by more
    processors or memory, and for one that is too big to be grown.
    """
    base, growth = _of_files(configuration)
    growth = Growth(growth.vcpus + beyond.vcpus, growth.memory_mib + beyond.memory_mib)
    if growth != _NONE and platform.machine() != "x86_64":
        raise TemplateError(f"a template cannot be made bigger on {platform.machine()}")
    if growth.memory_mib > _MOST_FOLD * base.hypervisor.default_memory:
        raise TemplateError(
            f"{growth.memory_mib} MiB more than the template's {base.hypervisor.default_memory} are "
            "too much for its kernel"
        )
    _check_room(base, growth)
    return base, growth


def _check_room(base: Configuration, growth: Growth) -> None:
    """Raise `TemplateError` where a restored machine could not grow: it would count as a failure."""
    settings, host = base.hypervisor, capacity.processors()
    memory = guest_memory(base, shared=False)
    room = Room(settings.boot_vcpus(host), settings.ceiling_vcpus(host), "", memory)
    try:
        room.additions(growth)
    except HypervisorError as error:
        raise TemplateError(str(error)) from error


def _of_files(configuration: Configuration) -> tuple[Configuration, Growth]:
    setters = configuration.origins.setters.values()
    if not any(isinstance(setter, str) for setter in setters):
        return configuration, _NONE
    files = load(configuration.path)
    wanted = configuration.hypervisor
    sizes = {name: getattr(files.hypervisor, name) for name in _SIZES}
    base = configuration._replace(hypervisor=wanted.replace(**sizes))
    host = capacity.processors()
    vcpus = wanted.boot_vcpus(host) - base.hypervisor.boot_vcpus(host)
    memory = wanted.default_memory - base.hypervisor.default_memory
    if vcpus < 0 or memory < 0 or Key.of(base).name != Key.of(files).name:
        raise TemplateError(
            "the pod's annotations give its machine another shape than the configuration's files"
        )
    return base, Growth(vcpus, memory)
