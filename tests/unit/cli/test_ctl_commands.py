"""kata-ctl as a user meets it: a process with arguments, two streams and a status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kata.cli import manual
from kata.cli.completion import Shell
from kata.cli.ctl import COMMANDS, load
from kata.config.configuration import SECTIONS

pytestmark = pytest.mark.unit

CHECKOUT = Path(__file__).parents[3]
ASSETS = '[hypervisor.qemu]\nkernel = "/k"\ninitrd = "/i"\n'


def ctl(
    *words: str, status: int = 0, stdin: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "kata.cli.ctl", *words],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT / "src"), **environment},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, done
    return done


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "configuration.toml"
    path.write_text(ASSETS + "default_memory = 1024\n[runtime]\nsandbox_logs_count = 3\n")
    folder = tmp_path / "config.d"
    folder.mkdir()
    (folder / "50-mine.toml").write_text('# first\n[agent.kata]\nlog_level = "debug"\n')
    return path


def test_config_prints_toml_with_the_origin_of_every_value(base: Path) -> None:
    said = ctl("config", "--all", "--config", str(base)).stdout
    tree = tomllib.loads(said)
    assert tree["hypervisor"]["qemu"]["default_memory"] == 1024
    keys = {f"{section.table}.{name}" for section in SECTIONS for name in section.settings}
    lines = [line for line in said.splitlines() if " = " in line]
    assert len(lines) == len(keys)
    assert all("  # " in line for line in lines)
    (memory,) = [line for line in lines if line.startswith("default_memory = ")]
    assert memory.endswith(f"# MiB; file {base}:4")
    (level,) = [line for line in lines if line.startswith('log_level = "debug"')]
    assert level.endswith(f"# drop-in {base.parent}/config.d/50-mine.toml:3")
    (idle,) = [line for line in lines if line.startswith("enable_iommu = ")]
    assert idle.endswith("# default; not implemented yet")


def test_config_as_json_has_every_key_and_says_what_is_not_implemented(base: Path) -> None:
    told = json.loads(ctl("config", "--json", KATA_CONF_FILE=str(base)).stdout)
    assert told["file"] == str(base)
    keys = {f"{section.table}.{name}" for section in SECTIONS for name in section.settings}
    assert told["values"].keys() == keys
    assert told["values"]["agent.kata.log_level"] == {
        "value": "debug",
        "unit": None,
        "implemented": True,
        "origin": {
            "kind": "drop-in",
            "file": f"{base.parent}/config.d/50-mine.toml",
            "line": 3,
            "annotation": None,
        },
    }
    assert not told["values"]["hypervisor.qemu.enable_iommu"]["implemented"]


def test_config_filters_by_table_key_and_change_and_applies_annotations(base: Path) -> None:
    one = json.loads(ctl("config", "--json", "--config", str(base), "default_memory").stdout)
    assert list(one["values"]) == ["hypervisor.qemu.default_memory"]
    table = json.loads(ctl("config", "--json", "--config", str(base), "factory").stdout)
    assert {key.rpartition(".")[0] for key in table["values"]} == {"factory"}
    name = "io.katacontainers.config.hypervisor.default_memory"
    words = ("config", "--json", "--changed", "--config", str(base), "-a", f"{name}=2 GiB")
    changed = json.loads(ctl(*words).stdout)["values"]
    assert changed["hypervisor.qemu.default_memory"]["value"] == 2048
    assert changed["hypervisor.qemu.default_memory"]["origin"]["annotation"] == name
    assert "hypervisor.qemu.default_vcpus" not in changed


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("defualt_memory = 1\n", (":4: unknown key", "default_memory?")),
        ("enable_iommu = true\n", (":4: ", "enable_iommu is not implemented yet")),
        ("default_memory = \n", (":4: not TOML",)),
        ("default_memory = 1\n", (":4: ", "out of range", "at least 64")),
    ],
    ids=["unknown", "unimplemented", "syntax", "range"],
)
def test_config_says_where_and_why_it_cannot_be_used(
    tmp_path: Path, text: str, words: tuple[str, ...]
) -> None:
    path = tmp_path / "configuration.toml"
    path.write_text(ASSETS + text)
    said = ctl("config", "--config", str(path), status=1)
    assert said.stdout == ""
    assert said.stderr.startswith(f"kata-ctl: {path}")
    assert all(word in said.stderr for word in words), said.stderr


def test_config_names_the_nearest_key(base: Path) -> None:
    said = ctl("config", "default_memroy", "--config", str(base), status=1).stderr
    assert "did you mean default_memory?" in said


def test_check_fails_with_a_remedy_where_no_container_can_run(base: Path) -> None:
    said = ctl("check", "--json", "--config", str(base), status=1).stdout
    told = json.loads(said)
    by_name = {each["check"]: each for each in told["checks"]}
    assert not told["ok"]
    assert by_name["guest kernel"]["level"] == "fail"
    assert "kata-ctl image build" in by_name["guest kernel"]["remedy"]
    assert f"{base}:2" in by_name["guest kernel"]["remedy"]
    text = ctl("check", "--config", str(base), status=1).stdout
    assert text.splitlines()[-1].startswith("containers cannot run here")
    assert "/k: No such file or directory" in text


def test_check_of_a_broken_configuration_goes_on_with_the_host(tmp_path: Path) -> None:
    path = tmp_path / "configuration.toml"
    path.write_text("nonsense = 1\n")
    told = json.loads(ctl("check", "--json", "--config", str(path), status=1).stdout)
    names = [each["check"] for each in told["checks"]]
    assert names[0] == "configuration"
    assert told["checks"][0]["level"] == "fail"
    assert {"kvm", "vhost-vsock", "cgroups", "memory", "containerd"} < set(names)


def test_env_tells_of_what_is_missing(base: Path) -> None:
    told = json.loads(ctl("env", "--json", "--config", str(base)).stdout)
    assert told["runtime"]["configuration"] == str(base)
    assert told["runtime"]["drop_ins"] == [f"{base.parent}/config.d/50-mine.toml"]
    assert told["hypervisor"]["memory_mib"] == 1024
    assert told["guest"]["kernel_release"] is None
    assert told["host"]["cgroups"] in ("v1", "v2", "hybrid")
    assert f"configuration         {base}" in ctl("env", "--config", str(base)).stdout


def test_an_unknown_sandbox_is_an_error_that_says_where_to_look() -> None:
    said = ctl("show", "no-such-sandbox", status=1)
    assert "`kata-ctl list` shows them" in said.stderr
    assert said.stdout == ""


def test_ledger_of_a_log_is_drawn_and_nonsense_refused() -> None:
    ledger = (
        r'time="x" level=info msg="start ledger {\"sandbox_id\": \"s\", \"total_ms\": 100.0, '
        r'\"steps\": [{\"name\": \"guest boot\", \"begin_ms\": 50.0, \"took_ms\": 25.0}]}" name=y'
    )
    drawn = ctl("start-ledger", "-", stdin=f"noise\n{ledger}\n").stdout.splitlines()
    assert drawn[0] == "s  100.0 ms"
    assert drawn[1].split("ms  ")[1] == " " * 24 + "█" * 12
    assert "no" in ctl("start-ledger", "-", stdin="{}\n", status=1).stderr


@pytest.mark.parametrize("words", ["--all", "--json", "default_memory"])
@pytest.mark.parametrize("reader", ["head -n 1", "exit"])
def test_output_that_nobody_reads_is_no_failure_of_ours(
    base: Path, words: str, reader: str
) -> None:
    """Short output is written at the end only, and long output, too, may find its reader gone then."""
    script = f"{sys.executable} -m kata.cli.ctl config {words} --config {base} | {reader}"
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT / "src")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    if words == "--all" and reader != "exit":
        assert done.stdout == f"# {base}\n"


def test_output_that_cannot_be_written_is_told_of_once(base: Path) -> None:
    command = [sys.executable, "-m", "kata.cli.ctl", "config", "--config", str(base)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT / "src")},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "standard output: No space left on device" in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    command = load(name)
    assert command.help
    assert all(getattr(each, "help", None) for each in command.params if each.name != "help")


def test_little_is_imported_for_a_short_answer() -> None:
    script = "import sys; from kata.cli.ctl import main; sys.argv = ['kata-ctl', '--version']"
    script += "\ntry: main()\nexcept SystemExit: pass\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT / "src")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert not {"asyncio", "qemu.qmp", "google.protobuf", "msgspec", "kata.config"} & loaded


def test_the_page_of_the_docs_is_what_the_commands_say() -> None:
    assert (CHECKOUT / "docs/kata-ctl.md").read_text() == manual.document()


def test_man_pages_and_completions_are_written_where_they_belong(tmp_path: Path) -> None:
    written = {os.path.relpath(path, tmp_path) for path in manual.write(str(tmp_path))}
    assert {f"man/man1/kata-ctl-{name}.1" for name in COMMANDS} < written
    assert {shell.file for shell in Shell} < written
    for page in (tmp_path / "man/man1").iterdir():
        lines = page.read_text().splitlines()
        assert lines[0].startswith(".TH ")
        assert {".SH NAME", ".SH SYNOPSIS", ".SH EXIT STATUS"} < set(lines)
        # Every request that roff would read is one that we meant.
        requests = {line.split()[0] for line in lines if line.startswith((".", "'"))}
        assert requests <= {".TH", ".SH", ".TP", ".PP", ".br"}


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("kata-ctl ", set(COMMANDS)),
        ("kata-ctl st", {"start-ledger"}),
        ("kata-ctl image ", {"build", "show", "verify"}),
        ("kata-ctl completion ", {"bash", "zsh", "fish"}),
        ("kata-ctl check --str", {"--strict"}),
    ],
)
def test_bash_completes(typed: str, wanted: set[str]) -> None:
    words = typed.split(" ")
    said = ctl(
        _KATA_CTL_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=str(len(words) - 1)
    ).stdout
    assert set(said.split()) == wanted


def test_the_completion_script_is_bash() -> None:
    script = ctl("completion", "bash").stdout
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=10)
