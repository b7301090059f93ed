"""Which pods are restored from the configuration's template, and what they are given besides."""

from pathlib import Path

import pytest

from kata.config import Configuration, apply_annotations, load
from kata.host import capacity
from kata.hypervisor.port import Growth
from kata.template.base import base_of
from kata.template.key import Key
from kata.template.store import Store, TemplateError

pytestmark = pytest.mark.unit

_PREFIX = "io.katacontainers.config.hypervisor."
_SIZES = "default_vcpus", "default_memory", "kernel_params"


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    for name in ("kernel", "initrd", "qemu", "virtiofsd"):
        (tmp_path / name).touch()
    path = tmp_path / "configuration.toml"
    path.write_text(
        f"""[hypervisor.qemu]
path = "{tmp_path}/qemu"
kernel = "{tmp_path}/kernel"
initrd = "{tmp_path}/initrd"
virtio_fs_daemon = "{tmp_path}/virtiofsd"
enable_annotations = {list(_SIZES)}
[factory]
template_path = "{tmp_path}/templates"
"""
    )
    return load(str(path))


def _with(configuration: Configuration, **wishes: str) -> Configuration:
    return apply_annotations(
        configuration, {_PREFIX + name: value for name, value in wishes.items()}
    )


def test_more_memory_is_plugged_into_the_files_machine(configuration: Configuration) -> None:
    base, growth = base_of(_with(configuration, default_memory="2100"))
    assert growth == Growth(vcpus=0, memory_mib=52)
    assert Key.of(base).name == Key.of(configuration).name


def test_what_limits_ask_for_comes_on_top(
    configuration: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "processors", lambda: 4)
    monkeypatch.setattr(capacity, "memory_mib", lambda: 8192)
    asked = Growth(1, 300)
    assert base_of(configuration, asked) == (configuration, asked)
    _, growth = base_of(_with(configuration, default_memory="2100"), asked)
    assert growth == Growth(1, 352)
    with pytest.raises(TemplateError, match="32769 MiB more than the template's 2048 are too much"):
        base_of(configuration, Growth(0, 16 * 2048 + 1))


def test_a_machine_that_could_not_grow_is_not_restored_in_vain(
    configuration: Configuration,
) -> None:
    def changed(**settings: int) -> Configuration:
        return configuration._replace(hypervisor=configuration.hypervisor.replace(**settings))

    with pytest.raises(TemplateError, match="memory_slots"):
        base_of(changed(memory_slots=0), Growth(0, 128))
    with pytest.raises(TemplateError, match="default_maxmemory"):
        base_of(changed(default_maxmemory=2100), Growth(0, 128))
    with pytest.raises(TemplateError, match="default_maxvcpus"):
        base_of(changed(default_maxvcpus=1), Growth(1, 0))


@pytest.mark.parametrize("wishes", [{"default_memory": "512"}, {"kernel_params": "quiet x=y"}])
def test_a_machine_of_another_shape_has_no_template(
    configuration: Configuration, wishes: dict[str, str]
) -> None:
    with pytest.raises(TemplateError, match="another shape"):
        base_of(_with(configuration, **wishes))


def test_a_directory_that_others_can_write_to_is_not_trusted(
    configuration: Configuration, tmp_path: Path
) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates").chmod(0o777)
    with pytest.raises(PermissionError, match="not ours alone"):
        Store(configuration.factory.template_path).ready(Key.of(configuration))


def test_a_template_is_given_up_when_its_clones_do_not_answer(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    record = tmp_path / "0011223344556677"
    record.mkdir()
    (record / "template.json").write_text(
        '{"name": "0011223344556677", "inputs": {}, "made_at": 7.0, "took_seconds": 1,'
        ' "memory_bytes": 1, "memory_digest": "", "state_digest": "", "trusted": []}'
    )
    assert not store.blame(record.name, 6.0, surely=True)  # another one had the name then
    assert not store.blame(record.name, 7.0, surely=False)
    store.absolve(record.name)
    assert not store.blame(record.name, 7.0, surely=False)
    assert store.blame(record.name, 7.0, surely=False)
    assert not record.exists()
