"""`make bench`: every measurement in one run, tables, and JSON and a picture under build/bench/."""

import argparse
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from lab.command import LabError
from lab.paths import BUILD
from lab.progress import CONSOLE
from rich.table import Table

from bench import density, execs, ledger, picture, pods, pooled, start

RESULTS: Final = BUILD / "bench"

# The figures that stand for all, and what each says.
_HEADLINES: Final = {
    "ratio": "start, ours / runc",
    "cold_ratio": "start, cold boot / ours",
    "pooled_ratio": "start with a guest that stands by, ours / runc",
    "pooled_cold_ratio": "start, cold boot / ours with a guest that stands by",
    "pooled_burst_ratio": f"{start.AT_ONCE} at once with a guest for each, each / one alone",
    "first_rpc_ms": "restore to the agent's first answer, ms",
    "exec_ratio": "exec, ours / runc",
    "burst_ratio": f"{start.AT_ONCE} starts at once, wall time of each / one alone",
    "pss_mib_per_sandbox": "one more idle sandbox, MiB",
}


def main() -> int:
    """Run the measurements, print and write the figures; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--runs", type=int, help="starts and execs of each runtime (20)")
    parser.add_argument("--quick", action="store_true", help="5 runs, and the least of all else")
    parser.add_argument("--release", default="1.6", help="containerd's release line (1.6)")
    options = parser.parse_args()
    runs = options.runs or (5 if options.quick else 20)
    if runs < 1:
        parser.error(f"--runs {runs}: one at least")
    RESULTS.mkdir(parents=True, exist_ok=True)
    # As Ctrl-C does: containers and daemons that are running have to be taken down on the way out.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        with tempfile.TemporaryDirectory(dir=RESULTS, prefix="configurations-") as scratch:
            _measure(options.release, runs, Path(scratch), quick=options.quick)
    except LabError as error:
        CONSOLE.print(f"bench failed: {error}", style="red", markup=False)
        return 1
    return 0


def _measure(release: str, runs: int, scratch: Path, *, quick: bool) -> None:
    starts = start.measure(release, runs, 1 if quick else 3, scratch)
    start.report(starts)
    figures = starts.figures()
    one = ledger.median(starts.ledgers)
    title = f"Start of a container: {figures['kata']['p50_ms']:.0f} ms"
    note = f"the median of {runs}, its shim and guest {one.total_ms:.0f} ms;"
    note += f" runc {figures['runc']['p50_ms']:.0f} ms,"
    note += f" cold boot {figures['kata_cold']['p50_ms']:.0f} ms"
    drawing = picture.draw(one, title, note)
    _write("start.svg", drawing)

    standing_by = pooled.measure(release, runs, 1 if quick else 3, scratch)
    executed = execs.measure(release, runs, 1 if quick else 3)
    _write("exec.json", json.dumps(executed, indent=2) + "\n")
    in_pods = pods.measure(release, max(3, runs // 2))
    _write("pods.json", json.dumps(in_pods, indent=2) + "\n")
    memory = density.measure(release, (1, 5) if quick else (1, 5, 10, 20), scratch)
    density.report(memory)

    default = memory[density.SHARES[0]]
    figures["exec_ratio"] = executed["exec_ratio"]
    figures["pss_mib_per_sandbox"] = default["mib_per_sandbox"]["total"]
    figures["pss"] = memory
    figures["pooled"], figures["pooled_ratio"] = standing_by, standing_by["ratio"]
    figures["pooled_cold_ratio"] = round(
        figures["kata_cold"]["p50_ms"] / standing_by["kata"]["p50_ms"], 2
    )
    figures["pooled_burst_ratio"] = standing_by["burst_ratio"]
    figures["machine"] = {"cpus": os.cpu_count(), "kvm": os.path.exists("/dev/kvm")}
    _report(figures)
    _write("start.json", json.dumps(figures, indent=2) + "\n")


def _report(figures: dict[str, Any]) -> None:
    table = Table("figure", "", title="p50 in one run")
    for key, title in _HEADLINES.items():
        table.add_row(title, f"{figures[key]:g}")
    CONSOLE.print(table)


def _write(name: str, text: str) -> None:
    path = RESULTS / name
    path.write_text(text, encoding="utf-8")
    CONSOLE.print(f"written to {path}")


if __name__ == "__main__":
    sys.exit(main())
