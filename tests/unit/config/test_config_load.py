"""Loading: lookup, drop-ins, values, and errors that say where."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from kata.config import ConfigError, Configuration, Origin, load, lookup

pytestmark = pytest.mark.unit

ASSETS = '[hypervisor.qemu]\nkernel = "/k"\ninitrd = "/i"\n'


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "configuration.toml"


def load_text(base: Path, text: str, **drop_ins: str) -> Configuration:
    base.write_text(text)
    for name, content in drop_ins.items():
        folder = base.parent / "config.d"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.toml").write_text(content)
    return load(str(base), environ={})


def refusal(base: Path, text: str, **drop_ins: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_text(base, text, **drop_ins)
    return caught.value


def test_a_file_with_nothing_but_the_guest_has_the_defaults(base: Path) -> None:
    configuration = load_text(base, ASSETS)
    hypervisor, agent, runtime = (
        configuration.hypervisor,
        configuration.agent,
        configuration.runtime,
    )
    assert (hypervisor.kernel, hypervisor.initrd) == ("/k", "/i")
    assert hypervisor.path == f"/usr/bin/qemu-system-{os.uname().machine}"
    assert (hypervisor.machine_type, hypervisor.cpu_features) == ("q35", "pmu=off")
    assert (hypervisor.default_vcpus, hypervisor.default_maxvcpus) == (1.0, 0)
    assert (hypervisor.default_memory, hypervisor.msize_9p) == (2048, 131072)
    assert (hypervisor.shared_fs, hypervisor.virtio_fs_cache) == ("virtio-fs", "auto")
    assert hypervisor.virtio_fs_queue_size == 1024
    assert hypervisor.entropy_source == "/dev/urandom"
    assert (agent.dial_timeout, agent.create_container_timeout) == (45, 60)
    assert runtime.internetworking_model == "tcfilter"
    assert not runtime.disable_guest_seccomp  # upstream's default is true
    assert runtime.sandbox_cgroup_only
    assert configuration.factory.enable_template  # upstream's default is false


def test_values_come_back_in_the_types_of_their_attributes(base: Path) -> None:
    configuration = load_text(
        base,
        ASSETS
        + """default_vcpus = 2
virtio_fs_extra_args = ["-o", "xattr"]
enable_debug = true
seccompsandbox = "on"
[agent.kata]
kernel_modules = ["loop max_loop=4"]
reconnect_timeout_ms = 1
""",
    )
    hypervisor = configuration.hypervisor
    assert isinstance(hypervisor.default_vcpus, float)
    assert hypervisor.default_vcpus == 2.0
    assert hypervisor.virtio_fs_extra_args == ("-o", "xattr")
    assert hypervisor.enable_debug is True
    assert hypervisor.seccomp_sandbox == "on"
    assert configuration.agent.kernel_modules == ("loop max_loop=4",)
    assert configuration.agent.reconnect_timeout_ms == 1


def test_sections_do_not_change(base: Path) -> None:
    hypervisor = load_text(base, ASSETS).hypervisor
    with pytest.raises(AttributeError, match="replace"):
        hypervisor.default_memory = 1  # type: ignore[misc]
    changed = hypervisor.replace(default_memory=512)
    assert (changed.default_memory, hypervisor.default_memory) == (512, 2048)
    assert changed != hypervisor
    with pytest.raises(TypeError, match="default_memroy"):
        hypervisor.replace(default_memroy=512)


# --- lookup


def test_the_given_path_wins_over_the_environment(tmp_path: Path) -> None:
    for name in ("given", "env"):
        (tmp_path / name).write_text(ASSETS)
    given, env = str(tmp_path / "given"), str(tmp_path / "env")
    assert load(given, environ={"KATA_CONF_FILE": env}).path == given
    assert load(environ={"KATA_CONF_FILE": env}).path == env


def test_default_paths_are_tried_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    monkeypatch.setattr(lookup, "SYSTEM_FILE", str(tmp_path / "etc.toml"))
    folder = tmp_path / "share/defaults/kata-containers"
    candidates = [tmp_path / "etc.toml", *map(folder.joinpath, lookup.SHIPPED_NAMES)]
    tried = [*map(str, candidates), *lookup.shipped_files("/opt/kata")]
    assert lookup.default_files() == tried
    folder.mkdir(parents=True)
    for candidate in reversed(candidates):  # each one that appears is better than the last
        candidate.write_text(ASSETS)
        assert load(environ={}).path == str(candidate)


def test_a_missing_file_lists_what_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = [str(tmp_path / name) for name in "ab"]
    monkeypatch.setattr(lookup, "default_files", lambda: absent)
    with pytest.raises(ConfigError) as caught:
        load(environ={})
    assert all(path in caught.value.message for path in absent)
    assert "KATA_CONF_FILE" in caught.value.hint
    with pytest.raises(ConfigError, match="the given path: tried /nonexistent"):
        load("/nonexistent", environ={})
    with pytest.raises(ConfigError, match="not a regular file"):
        load(str(tmp_path), environ={})


def test_without_a_venv_the_prefix_is_pythons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/usr")
    assert lookup.installed_prefix() == "/usr"


def test_drop_ins_lie_beside_the_real_file(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    load_text(real / "base.toml", ASSETS, only="[runtime]\nenable_debug = true\n")
    link = tmp_path / "link.toml"
    link.symlink_to(real / "base.toml")
    (tmp_path / "config.d").mkdir()
    (tmp_path / "config.d/wrong.toml").write_text("[runtime]\nenable_debug = false\n")
    configuration = load(str(link), environ={})
    assert configuration.path == str(real / "base.toml")
    assert configuration.runtime.enable_debug


# --- merge


def test_drop_ins_replace_in_the_order_of_their_names(base: Path) -> None:
    table = "[hypervisor.qemu]\n"
    configuration = load_text(
        base,
        ASSETS + 'default_memory = 100\nvirtio_fs_extra_args = ["a", "b"]\nenable_debug = true\n',
        b50=table + "default_memory = 300\n",
        a10=table + 'default_memory = 200\nvirtio_fs_extra_args = ["c"]\n',
    )
    hypervisor = configuration.hypervisor
    assert hypervisor.default_memory == 300
    assert hypervisor.virtio_fs_extra_args == ("c",)
    assert hypervisor.enable_debug
    origins = configuration.origins
    folder = base.parent / "config.d"
    key = "hypervisor.qemu."
    assert origins[f"{key}default_memory"] == Origin("drop-in", str(folder / "b50.toml"), 2)
    assert origins[f"{key}virtio_fs_extra_args"] == Origin("drop-in", str(folder / "a10.toml"), 3)
    assert origins[f"{key}enable_debug"] == Origin("file", str(base), 6)
    assert origins[f"{key}path"] == Origin("default")
    assert str(origins[f"{key}enable_debug"]) == f"file {base}:6"
    with pytest.raises(KeyError):
        origins[f"{key}nothing"]
    assert set(origins) == {key for key, _, _ in configuration.effective()}
    assert len(origins) == len(list(configuration.effective()))


def test_drop_ins_are_read_in_the_order_of_their_names(base: Path) -> None:
    names = [f"{number * 7 % 20:02}" for number in range(20)]  # no order a directory would keep
    load_text(base, ASSETS, **dict.fromkeys(names, ""))
    read = list(lookup.documents(str(base)))
    assert [Path(document.path).stem for document in read[1:]] == sorted(names)
    assert [document.rank for document in read] == list(range(21))


def test_on_a_type_conflict_the_drop_in_wins_and_is_blamed(base: Path) -> None:
    error = refusal(base, ASSETS, x='\n[hypervisor]\nqemu = "gone"\n')
    assert error.message == f"{base.parent}/config.d/x.toml:3: hypervisor.qemu must be a table"
    error = refusal(base, ASSETS, x="[hypervisor.qemu.kernel]\na = 1\n")
    assert "x.toml:1: hypervisor.qemu.kernel must be a string, not a table" in error.message
    mended = load_text(base, "hypervisor = 1\n", x=ASSETS)
    assert mended.hypervisor.kernel == "/k"


def test_a_drop_in_that_is_no_file_is_an_error(base: Path) -> None:
    (base.parent / "config.d/folder").mkdir(parents=True)
    assert "config.d/folder: not a regular file" in refusal(base, ASSETS).message
    (base.parent / "config.d/folder").rmdir()
    (base.parent / "config.d/dangling").symlink_to("nowhere")
    assert "config.d/dangling: No such file" in refusal(base, ASSETS).message


# --- one setting, two names


@pytest.mark.parametrize("table", ["factory", "hypervisor.qemu.factory"])
def test_both_factory_tables_are_read(base: Path, table: str) -> None:
    configuration = load_text(base, f'{ASSETS}[{table}]\ntemplate_path = "/run/vc/vm/template"\n')
    assert configuration.origins["factory.template_path"] == Origin("file", str(base), 5)
    error = refusal(base, f'{ASSETS}[{table}]\nvm_cache_endpoint = "/x"\n')
    assert f"{base}:5: {table}.vm_cache_endpoint is not implemented yet" in error.message


@pytest.mark.parametrize("table", ["agent.kata", "runtime"])
def test_the_container_timeout_stands_in_either_table(base: Path, table: str) -> None:
    configuration = load_text(base, f"{ASSETS}[{table}]\ncreate_container_timeout = 7\n")
    assert configuration.agent.create_container_timeout == 7
    assert configuration.runtime.create_container_timeout == 7
    for key in ("agent.kata", "runtime"):
        origin = configuration.origins[f"{key}.create_container_timeout"]
        assert origin == Origin("file", str(base), 5)


def test_one_file_cannot_give_one_setting_two_values(base: Path) -> None:
    timeouts = "[agent.kata]\ncreate_container_timeout = 7\n[runtime]\ncreate_container_timeout = "
    error = refusal(base, f"{ASSETS}{timeouts}8\n")
    assert "runtime.create_container_timeout differs from agent.kata." in error.message
    assert f"{base}:7" in error.message
    assert f"{base}:5" in error.message
    assert load_text(base, f"{ASSETS}{timeouts}7\n").agent.create_container_timeout == 7
    error = refusal(base, ASSETS + 'seccomp_sandbox = "on"\nseccompsandbox = "off"\n')
    assert f"{base}:5: hypervisor.qemu.seccompsandbox differs" in error.message


def test_a_drop_in_may_use_the_other_name(base: Path) -> None:
    configuration = load_text(
        base,
        ASSETS + 'seccompsandbox = "on"\n[runtime]\ncreate_container_timeout = 7\n',
        x='[hypervisor.qemu]\nseccomp_sandbox = "off"\n[agent.kata]\ncreate_container_timeout=8\n',
    )
    assert configuration.hypervisor.seccomp_sandbox == "off"
    assert configuration.runtime.create_container_timeout == 8
    assert configuration.agent.create_container_timeout == 8
    assert configuration.origins["runtime.create_container_timeout"].kind == "drop-in"


# --- refusals

REFUSALS = [
    # the line after ASSETS (line 4), what the message must end in, what the hint must hold
    ("default_memroy = 1", "unknown key hypervisor.qemu.default_memroy", "default_memory?"),
    ("sandbox_cgroup_only = true", "unknown key hypervisor.qemu.sandbox_c", "in [runtime]"),
    ("[hypervisor.qmeu]", "unknown table hypervisor.qmeu", "qemu?"),
    ("[runtimes]", "unknown table runtimes", "runtime?"),
    ("default_memory = 63", "default_memory = 63 is out of range", "at least 64 MiB"),
    ('default_memory = "1"', "default_memory must be an integer, not a string", ""),
    ("default_memory = 1.5", "default_memory must be an integer, not a float", ""),
    ("default_memory = true", "default_memory must be an integer, not true", ""),
    ("default_vcpus = nan", "default_vcpus must be a finite number", ""),
    ("default_vcpus = inf", "default_vcpus must be a finite number", ""),
    ("enable_debug = 1", "enable_debug must be true or false, not an integer", ""),
    ("kernel_params = []", "kernel_params must be a string, not a list", ""),
    ('virtio_fs_extra_args = "x"', "must be a list of strings, not a string", ""),
    ("virtio_fs_extra_args = [1]", "must be a list of strings, and holds an integer", ""),
    ("machine_type = 2024-01-01", "machine_type must be a string, not a date", ""),
    ('shared_fs = "nfs"', 'shared_fs cannot be "nfs"', 'one of "virtio-fs", "virtio-9p"'),
    ('shared_fs = "none"', 'shared_fs = "none" is not implemented yet', "virtio-9p"),
    ("virtio_fs_queue_size = 100", "virtio_fs_queue_size cannot be 100", "1024"),
    ('image = "/img"', "hypervisor.qemu.image is not implemented yet", "use initrd"),
    (
        "enable_iommu = true",
        "hypervisor.qemu.enable_iommu is not implemented yet",
        "default, false",
    ),
    ("enable_iommu = 7", "hypervisor.qemu.enable_iommu is not implemented yet", "default, false"),
    ("[hypervisor.qemu.rootless_user]", "rootless_user is not implemented yet", ""),
    ('[runtime]\nexperimental = ["x"]', "experimental is not implemented yet", "[]"),
    (
        '[runtime]\ninternetworking_model = "l3forwarding"',
        '"l3forwarding" is not implemented yet',
        "none",
    ),
    ('[agent.kata]\nlog_level = "loud"', 'log_level cannot be "loud"', "trace"),
    ("[agent.kata]\ndial_timeout = 0", "dial_timeout = 0 is out of range", "at least 1 s"),
    ("[agent.kata.mem_agent]\nmem_agent_enable = true", "enable is not implemented yet", ""),
    ('enable_annotations = ["("]', "not a regular expression", "patterns"),
    ('virtio_fs_daemon = ""', 'shared_fs = "virtio-fs" needs it', "virtio-9p"),
    ("default_vcpus = 3.5\ndefault_maxvcpus = 3", "3.5 is more than default_maxvcpus = 3", ""),
]


@pytest.mark.parametrize(("line", "cause", "hint"), REFUSALS, ids=[row[0] for row in REFUSALS])
def test_a_refusal_names_file_line_key_and_remedy(
    base: Path, line: str, cause: str, hint: str
) -> None:
    error = refusal(base, f"{ASSETS}{line}\n")
    at = 5 if line.startswith(("[agent", "[runtime]")) else 4
    assert error.message.startswith(f"{base}:{at}: ")
    assert cause in error.message
    assert hint in error.hint
    assert str(error) == f"{error.message} ({error.hint})" if error.hint else error.message


@pytest.mark.parametrize("name", ["kernel", "initrd", "path"])
def test_the_guest_and_qemu_must_be_named(base: Path, name: str) -> None:
    values = {"path": "/q", "kernel": "/k", "initrd": "/i", name: ""}
    lines = "".join(f'{key} = "{value}"\n' for key, value in values.items())
    error = refusal(base, f"[hypervisor.qemu]\n{lines}")
    assert f"hypervisor.qemu.{name} is not set" in error.message


BROKEN = [
    ("[hypervisor.qemu]\nkernel = \n", 2),
    ("a = 1\na = 2\n", 2),
    ("[runtime]\n[runtime]\n", 2),
    ('a = """\nfor ever\n', 3),
    ("\n\nplain words\n", 3),
]


@pytest.mark.parametrize(("text", "line"), BROKEN)
def test_a_file_that_is_not_toml_is_blamed_by_line(base: Path, text: str, line: int) -> None:
    assert refusal(base, text).message.startswith(f"{base}:{line}: not TOML: ")


def test_a_file_that_is_not_utf8_is_refused(base: Path) -> None:
    base.write_bytes(b"# \xff\n")
    with pytest.raises(ConfigError, match="not UTF-8 at byte 2"):
        load(str(base), environ={})


# --- sizes

VCPUS = [
    # default_vcpus, default_maxvcpus, host, boot, ceiling
    (1.0, 0, 4, 1, 4),
    (0.0, 0, 4, 1, 4),
    (-1.0, 0, 4, 4, 4),
    (1.2, 0, 4, 2, 4),
    (9.0, 0, 4, 4, 4),
    (-1.0, 2, 4, 2, 2),
    (-1.0, 0, 400, 256, 256),
    (1.0, 8, 4, 1, 4),
]


@pytest.mark.parametrize(("vcpus", "most", "host", "boot", "ceiling"), VCPUS)
def test_vcpus_follow_the_host(
    base: Path, vcpus: float, most: int, host: int, boot: int, ceiling: int
) -> None:
    hypervisor = load_text(base, ASSETS).hypervisor
    hypervisor = hypervisor.replace(default_vcpus=vcpus, default_maxvcpus=most)
    assert hypervisor.boot_vcpus(host) == boot
    assert hypervisor.ceiling_vcpus(host) == ceiling
