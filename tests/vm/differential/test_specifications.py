"""Specifications under runc and under ours: what a program sees must agree, but for the list.

All containers that are ours run in one guest, two at a time; runc's run meanwhile.
"""

import asyncio
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cases
import differences
import file_cases
import generated
import pytest
import root as root_filesystem
from cases import SOURCES, Case
from differences import DIFFERENCES, Difference
from lab.bundle import Bundle, Configured
from lab.paths import CHECKOUT, GUEST_KERNEL, TEST_LOGS
from sides import Layers, Ours, Outcome, Runc

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(not GUEST_KERNEL.exists(), reason="no guest built; run `make setup`"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the root is made for x86_64"),
]

CASES = (*cases.ALL, *file_cases.ALL, *generated.draw())
Outcomes = dict[str, tuple[Outcome, Outcome]]


class Stage:
    """The folders of all runs, and the two runtimes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._base, self._sources = folder / "base", folder / "sources"
        self._base.mkdir()
        root_filesystem.build(self._base)
        cases.make_sources(self._sources)
        self.runc = Runc(folder)

    def prepare(self, case: Case, side: str) -> tuple[str, dict[str, Any], Layers, Path]:
        """Make what one run of a case needs: name, specification, root, bundle."""
        folder = self.folder / case.name
        own = folder / f"own-{side}"
        own.mkdir(parents=True)
        if case.prepare:
            case.prepare(own)
        name = f"{case.name}-{os.getpid()}"
        spec = json.dumps(case.placed(name)).replace(SOURCES, str(self._sources))
        layers = Layers(folder / side, self._base, own)
        return name, json.loads(spec), layers, folder / f"bundle-{side}"

    async def run(self, wanted: list[Case], sandbox: Bundle, configuration: Path) -> Outcomes:
        """Run cases under both; return the outcomes by name, runc's first."""
        ours = Ours(sandbox, configuration)
        pause = cases.specification(process={"args": ["/bin/sh", "-c", "sleep 10000"]})
        kinds = {"io.kubernetes.cri.container-type": "sandbox"}
        await ours.start(pause | {"annotations": kinds}, self._base)
        theirs: dict[str, Outcome] = {}
        found: dict[str, Outcome] = {}
        waiting = iter(wanted)

        def run_runc() -> None:
            for case in wanted:
                theirs[case.name] = self.runc.run(*self.prepare(case, "runc"))

        async def run_ours() -> None:
            for case in waiting:
                found[case.name] = await ours.run(*self.prepare(case, "ours"))

        await asyncio.gather(asyncio.to_thread(run_runc), run_ours(), run_ours())
        await ours.stop()
        return {name: (theirs[name], found[name]) for name in theirs}


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcomes]:
    """The outcomes of all cases that are wanted of this module."""
    wanted: list[Any] = []
    for item in request.session.items:
        if item.path == request.path and isinstance(item, pytest.Function):
            needed = item.callspec.params if hasattr(item, "callspec") else {}
            wanted += [needed["case"]] if "case" in needed else []
    folder = tmp_path_factory.mktemp("differential")
    for name in ("bundle", "etc"):
        (folder / name).mkdir()
    configured = Configured(folder / "etc")
    configured.set("hypervisor.qemu", default_vcpus=str(differences.PROCESSORS))
    bundle = Bundle(folder / "bundle")
    stage = Stage(folder)
    try:
        yield asyncio.run(stage.run(wanted, bundle, configured.path))
        assert bundle.leftovers() == []
    except BaseException:
        bundle.keep_evidence(TEST_LOGS / "differential")
        raise
    finally:
        bundle.close()
        stage.runc.close()


@pytest.fixture(scope="module")
def occurred() -> set[Difference]:
    """The differences that have shown."""
    return set()


def explained(case: Case, runc: Outcome, ours: Outcome, occurred: set[Difference]) -> list[str]:
    """Return the differences that are not on the list; those that are go to `occurred`."""
    found = [("outcome", runc.ended, ours.ended)] if runc.ended != ours.ended else []
    if runc.report and ours.report:
        found += differences.found(runc.report, ours.report)
    new = []
    for field, left, right in found:
        known = [each for each in DIFFERENCES if each.allows(case.spec, field, left, right)]
        occurred.update(known)
        if not known:
            new.append(f"{field}: runc has {left}, ours {right}")
    return new


@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_view(case: Case, outcomes: Outcomes, occurred: set[Difference]) -> None:
    runc, ours = outcomes[case.name]
    new = explained(case, runc, ours, occurred)
    assert not new, "\n".join([*new, f"runc: {runc.error}", f"ours: {ours.error}"])
    if case.refused:
        errors = [each.error for each in (runc, ours) if each.ended == "refused"]
        assert errors
        assert all(re.search(case.refused, error, re.IGNORECASE) for error in errors), errors
    else:
        assert runc.report or ours.report, (runc.error, ours.error)


def test_every_listed_difference_shows(
    request: pytest.FixtureRequest, outcomes: Outcomes, occurred: set[Difference]
) -> None:
    if len(outcomes) < len(CASES):
        pytest.skip("only with all cases")
    there = [each for each in DIFFERENCES if each.here()]
    assert [each.field for each in there if each not in occurred] == []


def test_page_tells_of_these_differences() -> None:
    page = CHECKOUT / "docs" / "differences.md"
    assert page.read_text() == differences.page(), "write the page anew, as its comment says"


def test_there_are_enough_specifications() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert len([case for case in CASES if not case.refused]) >= 100
