"""What the measurements make of what they measured: the arithmetic, the ledgers and the picture."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from bench import density, ledger, picture
from bench.ledger import StartLedger, Step
from bench.series import Series
from bench.start import AT_ONCE, Starts
from lab.runtimes import KATA, RUNC

pytestmark = pytest.mark.unit

RESTORED = StartLedger(
    "pod",
    900.0,
    (
        Step("shim start", 0.0, 160.0),
        Step("virtual machine", 170.0, 120.0),
        Step("guest answer", 291.0, 209.0),
        Step("create <container> & more", 510.0, 280.0),
    ),
)


def test_ratios_come_from_the_medians_of_one_run() -> None:
    serial = {
        "runc": Series((90.0, 100.0, 400.0)),
        "kata": Series((500.0, 400.0, 9000.0)),
        "kata_cold": Series((6000.0, 4000.0)),
    }
    bursts = {"runc": Series((500.0,)), "kata": Series((3000.0, 4000.0, 8000.0))}
    figures = Starts(serial, bursts, [RESTORED]).figures()
    assert figures["kata"] | {"p50_ms": 500.0, "n": 3} == figures["kata"]
    assert (figures["ratio"], figures["cold_ratio"]) == (5.0, 8.0)
    assert figures["burst_ratio"] == 4000.0 / AT_ONCE / 500.0
    assert figures["first_rpc_ms"] == 330.0
    assert json.loads(json.dumps(figures))["ledgers"][0]["steps"][0]["name"] == "shim start"


def test_ledgers_are_found_in_a_log_that_quotes_them() -> None:
    record = {
        "sandbox_id": "pod",
        "total_ms": 5000.0,
        "steps": [{"name": "guest boot", "begin_ms": 1.5, "took_ms": 4000.0}],
    }
    quoted = json.dumps(f"start ledger {json.dumps(record)}")
    log = f"started\nlevel=info msg={quoted} runtime=kata\n"
    assert ledger.find(log) == [StartLedger("pod", 5000.0, (Step("guest boot", 1.5, 4000.0),))]
    assert not ledger.find(log)[0].restored
    assert RESTORED.restored


def test_one_more_is_the_slope_without_what_the_first_brings() -> None:
    samples = {
        count: density.Sample(
            {
                "shim": {"pss": 30 + 20.0 * count, "private": 1.0},
                "total": {"pss": 50 + 90.0 * count, "private": 1.0},
            },
            taken=70 + 120.0 * count,
        )
        for count in (1, 5, 10)
    }
    figures = density.figures(samples)
    assert figures["mib_per_sandbox"] == {"shim": 20.0, "total": 90.0}
    assert figures["available_mib_per_sandbox"] == 120.0
    assert figures["counts"]["5"]["total"]["pss"] == 500.0
    assert density.slope({1: 10.0, 5: 52.0, 10: 100.0}) == pytest.approx(10.0, abs=0.1)


def test_processes_are_told_apart_by_their_command_lines(tmp_path: Path) -> None:
    assert density.kind_of("/usr/bin/qemu-system-x86_64 -name sandbox-shim", KATA) == "qemu"
    assert density.kind_of("/usr/libexec/virtiofsd --fd=3", KATA) == "virtiofsd"
    assert density.kind_of("/opt/kata/venv/bin/python3 -m kata.shim -id a", KATA) == "shim"
    assert density.kind_of("sleep 100000", RUNC) == "container"
    rollup = tmp_path / "smaps_rollup"
    rollup.write_text("5500-7fff ---p 00000000 00:00 0 [rollup]\nRss: 900 kB\nPss:   12 kB\n")
    assert density.fields(str(rollup)) == {"Rss": 900, "Pss": 12}


def test_the_picture_has_a_bar_in_place_for_every_step() -> None:
    root = ET.fromstring(picture.draw(RESTORED, "Start <1>", "of 20 & more"))
    ns = {"svg": "http://www.w3.org/2000/svg"}
    bars = [
        (float(bar.attrib["x"]), float(bar.attrib["width"]))
        for bar in root.findall("svg:rect[@class='step']", ns)
    ]
    assert len(bars) == len(RESTORED.steps)
    scale = bars[0][1] / 160.0
    for (x, width), step in zip(bars, RESTORED.steps, strict=True):
        assert x - bars[0][0] == pytest.approx(step.begin_ms * scale, abs=0.2)
        assert width == pytest.approx(step.took_ms * scale, abs=0.2)
        assert x + width < float(root.attrib["width"])
    words = [text.text for text in root.findall("svg:text", ns)]
    assert {step.name for step in RESTORED.steps} < set(words)
    assert {"160 ms", "280 ms"} < set(words)


@pytest.mark.parametrize(("total", "tick"), [(7.0, 1), (900.0, 200), (5800.0, 1000)])
def test_the_scale_has_few_round_marks(total: float, tick: int) -> None:
    assert picture.tick_ms(total) == tick
