"""How long a cold boot under emulation takes, stage by stage, one variant of it against others.

    python -m bench.boot --runs 5                     # plain against recommended
    python -m bench.boot --each --runs 3              # plus each recommendation alone
    python -m bench.boot --parameter audit=0          # plus a kernel parameter of your choice

Builds an image whose agent has a probe as its `main`: it imports the agent, boots the guest as
the agent does (mounts, drivers of a virtio serial port and a virtio rng) and prints the stages'
times. The clock of the stages is the guest's; the host's says when the guest's began. Variants
take turns, so that other load on the machine hits all alike; CPU seconds of QEMU stand beside the
wall clock for the same reason. With `--count` the guest's clock counts instructions, a
millisecond for a million: exact on the busiest machine, but blind to what TCG pays for each.
"""

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.series import Series
from kata.image.agent_sources import AgentSources, installed_sources
from kata.image.build import build
from kata.image.manifest import INITRD, KERNEL

STAGES: Final = ("kernel", "init", "python", "imported", "ready", "cpu")
_MARK: Final = "KATA-BOOT "
_TIMEOUT_SECONDS: Final = 90.0

_PROBE: Final = f"""
import time

times = {{"python": time.clock_gettime(time.CLOCK_BOOTTIME)}}

import kata_agent.agent_main

times["imported"] = time.clock_gettime(time.CLOCK_BOOTTIME)


def main():
    import json
    import os

    from kata_agent import syscalls
    from kata_agent.boot import boot

    try:
        boot()
        times["ready"] = time.clock_gettime(time.CLOCK_BOOTTIME)
        log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        while True:
            head, _, text = os.read(log, 8192).decode(errors="replace").partition(";")
            if text.startswith("Run /init as init process"):
                times["init"] = int(head.split(",")[2]) / 1e6
                break
        times["now"] = time.clock_gettime(time.CLOCK_BOOTTIME)
        os.write(1, ("\\n{_MARK}" + json.dumps(times) + "\\n").encode())
        time.sleep(60)
    finally:
        syscalls.power_off()
"""


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to start the same image."""

    name: str
    machine: str = "q35"
    accelerator: str = "tcg"
    cpu: str = "max"
    parameters: tuple[str, ...] = ()
    counted: bool = False

    def command(self, image: str) -> list[str]:
        """Return QEMU's command line; the console is its standard output."""
        parameters = ("console=ttyS0", "quiet", "panic=-1", *self.parameters)
        return [
            "qemu-system-x86_64",
            "-machine", self.machine,
            "-accel", self.accelerator,
            "-cpu", self.cpu,
            "-m", "256M",
            "-smp", "1",
            "-nodefaults",
            "-no-user-config",
            "-display", "none",
            "-no-reboot",
            "-kernel", os.path.join(image, KERNEL),
            "-initrd", os.path.join(image, INITRD),
            "-append", " ".join(parameters),
            "-device", "virtio-serial-pci",
            "-device", "virtio-rng-pci",
            "-serial", "stdio",
            *(["-icount", "shift=0,sleep=off"] if self.counted else []),
        ]  # fmt: skip


PLAIN: Final = Variant("plain")
MACHINE: Final = "q35,sata=off,smbus=off,usb=off,vmport=off,hpet=off"
CPU: Final = "max,la57=off,erms=off"
PARAMETERS: Final = ("cryptomgr.notests", "no_timer_check")
RECOMMENDED: Final = Variant("recommended", machine=MACHINE, cpu=CPU, parameters=PARAMETERS)


def each_alone() -> list[Variant]:
    """Return one variant for every difference between plain and recommended."""
    return [
        Variant("machine options", machine=MACHINE),
        Variant(f"-cpu {CPU}", cpu=CPU),
        *(Variant(word, parameters=(word,)) for word in PARAMETERS),
    ]


def probe_sources(folder: str) -> AgentSources:
    """Copy the installed agent into a folder and put the probe in its `main`'s place."""
    installed = installed_sources()
    package = os.path.join(folder, "kata_agent")
    shutil.copytree(installed.packages[0], package)
    os.rename(os.path.join(package, "main.py"), os.path.join(package, "agent_main.py"))
    with open(os.path.join(package, "main.py"), "w", encoding="utf-8") as stream:
        stream.write(_PROBE)
    return dataclasses.replace(installed, packages=(package, *installed.packages[1:]))


def boot_once(variant: Variant, image: str) -> dict[str, float]:
    """Boot once and return the seconds from QEMU's start to each stage, and its CPU seconds.

    Raises `RuntimeError` with the console's end if the guest does not come up. QEMU is gone then.
    """
    started = time.monotonic()
    with subprocess.Popen(
        variant.command(image),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as qemu:
        alarm = threading.Timer(_TIMEOUT_SECONDS, qemu.kill)
        alarm.start()
        console: list[str] = []
        try:
            for line in qemu.stdout or ():
                console.append(line)
                if line.startswith(_MARK):
                    arrived = time.monotonic() - started
                    guest = json.loads(line.removeprefix(_MARK))
                    return _stages(arrived, guest, _cpu_seconds(qemu.pid), counted=variant.counted)
        finally:
            alarm.cancel()
            qemu.kill()
    raise RuntimeError(f"{variant.name}: the guest did not come up\n{''.join(console[-20:])}")


def _stages(
    arrived: float, guest: dict[str, float], cpu: float, *, counted: bool
) -> dict[str, float]:
    """Put the guest's times on the host's clock: the last one was sent when the line arrived."""
    kernel = 0.0 if counted else arrived - guest["now"]
    inside = {name: kernel + guest[name] for name in ("init", "python", "imported", "ready")}
    return {"kernel": kernel, **inside, "cpu": cpu}


def _cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stream:
        fields = stream.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(variants: list[Variant], runs: int, image: str) -> dict[str, dict[str, Series]]:
    """Boot every variant in turn, `runs` times over, and return the series by name and stage."""
    times: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _ in range(runs):
        for variant in variants:
            for stage, seconds in boot_once(variant, image).items():
                times[variant.name][stage].append(seconds * 1000)
    return {
        name: {stage: Series(tuple(values)) for stage, values in stages.items()}
        for name, stages in times.items()
    }


def main() -> None:
    """Measure as the command line says; print a table, and JSON if a file is named."""
    parser = argparse.ArgumentParser(prog="python -m bench.boot", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="boots of each variant (5)")
    parser.add_argument("--cache", required=True, help="the image builder's cache folder")
    parser.add_argument("--each", action="store_true", help="also each recommendation alone")
    parser.add_argument("--parameter", action="append", default=[], help="a kernel parameter")
    parser.add_argument("--cpu", action="append", default=[], help="another -cpu")
    parser.add_argument("--accelerator", action="append", default=[], help="another -accel")
    parser.add_argument("--machine", action="append", default=[], help="another -machine")
    parser.add_argument("--count", action="store_true", help="count instructions, not time")
    parser.add_argument("--json", help="where to write the series' figures")
    options = parser.parse_args()
    variants = [PLAIN, RECOMMENDED, *(each_alone() if options.each else [])]
    variants += [Variant(word, parameters=tuple(word.split())) for word in options.parameter]
    variants += [
        dataclasses.replace(PLAIN, name=f"{field} {word}", **{field: word})
        for field in ("cpu", "accelerator", "machine")
        for word in getattr(options, field)
    ]
    variants = [dataclasses.replace(each, counted=options.count) for each in variants]
    with tempfile.TemporaryDirectory() as folder:
        image = os.path.join(folder, "image")
        build(image, options.cache, sources=probe_sources(folder))
        found = measure(variants, options.runs, image)
    table = Table("median, ms", *STAGES, title=f"cold boot, {options.runs} runs")
    for name, stages in found.items():
        table.add_row(name, *(f"{stages[stage].percentile(0.5):.0f}" for stage in STAGES))
    Console().print(table)
    if options.json:
        figures = {
            name: {stage: series.summary() for stage, series in stages.items()}
            for name, stages in found.items()
        }
        with open(options.json, "w", encoding="utf-8") as stream:
            json.dump(figures, stream, indent=2)


if __name__ == "__main__":
    main()
