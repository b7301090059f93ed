"""The machine that a template is made of, and what a sandbox wants beyond that.

A pod may ask for more processors and memory than the configuration's files give.  A template for
each size would be made for few; so the files' machine is restored, and the difference plugged in.
"""

import os
import platform

from kata.config import Configuration, load
from kata.hypervisor.port import Growth
from kata.template.key import Key
from kata.template.store import TemplateError

_SIZES = ("default_vcpus", "default_memory")

_BLOCK = 128
"""MiB that Linux on x86 takes memory in (`MIN_MEMORY_BLOCK_SIZE`)."""


def base_of(configuration: Configuration) -> tuple[Configuration, Growth]:
    """Return the configuration of a sandbox's template, and what is missing to the sandbox's size.

    Templates are made of what the files say: pods could fill the disk with theirs.  Raises
    `TemplateError` for a pod whose annotations shape its machine in another way than by more
    processors or memory.  Memory is rounded up to what a guest can take, 128 MiB.
    """
    setters = configuration.origins.setters.values()
    if not any(isinstance(setter, str) for setter in setters):
        return configuration, Growth(0, 0)
    files = load(configuration.path)
    wanted = configuration.hypervisor
    sizes = {name: getattr(files.hypervisor, name) for name in _SIZES}
    base = configuration._replace(hypervisor=wanted.replace(**sizes))
    host = os.cpu_count() or 1
    vcpus = wanted.boot_vcpus(host) - base.hypervisor.boot_vcpus(host)
    memory = wanted.default_memory - base.hypervisor.default_memory
    grows = platform.machine() == "x86_64" or vcpus == memory == 0
    if vcpus < 0 or memory < 0 or not grows or Key.of(base).name != Key.of(files).name:
        raise TemplateError(
            "the pod's annotations give its machine another shape than the configuration's files"
        )
    return base, Growth(vcpus, -(-memory // _BLOCK) * _BLOCK)
