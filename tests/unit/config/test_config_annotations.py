"""The annotation gate: names, permission, allow-lists and the reading of values."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from kata.config import (
    ConfigError,
    Configuration,
    Origin,
    apply_annotations,
    assets,
    check_container,
    load,
)

pytestmark = pytest.mark.unit

HYPERVISOR = "io.katacontainers.config.hypervisor."
RUNTIME = "io.katacontainers.config.runtime."
AGENT = "io.katacontainers.config.agent."
Maker = Callable[..., Configuration]


@pytest.fixture
def configured(tmp_path: Path) -> Maker:
    def make(enabled: str = '[".*"]', more: str = "") -> Configuration:
        path = tmp_path / "configuration.toml"
        path.write_text(
            '[hypervisor.qemu]\nkernel = "/k"\ninitrd = "/i"\n'
            f"enable_annotations = {enabled}\n{more}"
        )
        return load(str(path), environ={})

    return make


READ = [
    ("default_memory", "512", "default_memory", 512),
    ("default_memory", "2 GiB", "default_memory", 2048),
    ("default_memory", "1Gi", "default_memory", 1024),
    ("default_memory", "100MiB", "default_memory", 100),
    ("default_vcpus", "1.5", "default_vcpus", 1.5),
    ("default_max_vcpus", "7", "default_maxvcpus", 7),
    ("virtio_fs_extra_args", "-o, xattr", "virtio_fs_extra_args", ("-o", "xattr")),
    ("virtio_fs_extra_args", '["-o", "a,b"]', "virtio_fs_extra_args", ("-o", "a,b")),
    ("shared_fs", "virtio-9p", "shared_fs", "virtio-9p"),
    ("kernel", "/other", "kernel", "/other"),
    ("rootless", "false", "rootless", False),
    ("memory_slots", "10", "memory_slots", 10),
]


@pytest.mark.parametrize(("name", "text", "key", "value"), READ)
def test_a_value_is_read_by_the_kind_of_its_key(
    configured: Maker, name: str, text: str, key: str, value: object
) -> None:
    before = configured()
    after = apply_annotations(before, {HYPERVISOR + name: text})
    assert after.hypervisor.values()[key] == value
    assert after.hypervisor == before.hypervisor.replace(**{key: value})
    origin = after.origins[f"hypervisor.qemu.{key}"]
    assert origin == Origin("annotation", annotation=HYPERVISOR + name)
    assert str(origin) == f"annotation {HYPERVISOR}{name}"
    assert before.origins[f"hypervisor.qemu.{key}"].kind != "annotation"


UNREADABLE = [
    ("default_memory", "two", "must be an integer, not 'two'"),
    ("default_memory", "1_000", "must be an integer"),
    ("default_memory", "9" * 5000, "must be an integer"),
    ("default_memory", "5 KB", "must be an integer"),
    ("default_memory", "5 GG", "must be an integer"),
    ("default_memory", "1", "out of range"),
    ("default_max_vcpus", "2 GiB", "must be an integer"),
    ("default_vcpus", "nan", "must be a number"),
    ("virtio_fs_extra_args", '["broken', "must be a list of strings"),
    ("virtio_fs_extra_args", "[1]", "and holds an integer"),
    ("shared_fs", "none", "is not implemented yet"),
    ("enable_hugepages", "true", "is not implemented yet"),
    ("kernel_hash", "00", "must be 128 hexadecimal digits, not '00'"),
    ("hypervisor_hash", "g" * 128, "must be 128 hexadecimal digits"),
    ("image_hash", "0" * 128, "is not implemented yet"),
    ("jailer_hash", "0" * 128, "is not implemented yet"),
    ("kernel_hash", "0" * 128, "/k cannot be read: No such file"),
    ("asset_hash_type", "sha256", "cannot be 'sha256'"),
    ("kernel_hsah", "0" * 128, "unknown annotation"),
    ("default_memroy", "1", "unknown annotation"),
    ("valid_hypervisor_paths", "/", "unknown annotation"),
    ("enable_annotations", ".*", "unknown annotation"),
]


@pytest.mark.parametrize(("name", "text", "cause"), UNREADABLE)
def test_a_refusal_names_the_annotation(
    configured: Maker, name: str, text: str, cause: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_annotations(configured(), {HYPERVISOR + name: text})
    assert HYPERVISOR + name in caught.value.message
    assert cause in caught.value.message


def test_a_nearly_right_name_is_suggested(configured: Maker) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_annotations(configured(), {f"{HYPERVISOR}default_memroy": "1"})
    assert caught.value.hint == f"did you mean {HYPERVISOR}default_memory?"


GATE = [
    ('["default_vcpus"]', "default_memory", False),
    ('["default_memory"]', "default_memory", True),
    ('["default_.*"]', "default_memory", True),
    ('["memory"]', "default_memory", False),
    ('["default_mem"]', "default_memory", False),
    ("[]", "default_memory", False),
]


@pytest.mark.parametrize(("enabled", "name", "passes"), GATE)
def test_only_a_whole_name_opens_the_gate(
    configured: Maker, enabled: str, name: str, passes: bool
) -> None:
    configuration, annotations = configured(enabled), {HYPERVISOR + name: "512"}
    if passes:
        assert apply_annotations(configuration, annotations).hypervisor.default_memory == 512
        return
    with pytest.raises(ConfigError, match=f"{name} is not enabled"):
        apply_annotations(configuration, annotations)


@pytest.mark.parametrize("name", ["disable_guest_seccomp", "sandbox_cgroup_only"])
@pytest.mark.parametrize("enabled", ["[]", '["default_memory"]', '["seccomp", "sandbox_cgroup"]'])
def test_a_pod_cannot_loosen_its_own_confinement(
    configured: Maker, name: str, enabled: str
) -> None:
    annotations = {RUNTIME + name: "false" if name == "sandbox_cgroup_only" else "true"}
    with pytest.raises(ConfigError, match=f"annotation {RUNTIME}{name} is not enabled") as caught:
        apply_annotations(configured(enabled), annotations)
    assert f"add {name} to enable_annotations in [hypervisor.qemu]" in caught.value.hint
    before = configured(f'["{name}"]')
    after = apply_annotations(before, annotations)
    assert after.runtime.values()[name] is not before.runtime.values()[name]


def test_the_rest_of_the_runtime_and_the_agent_are_not_gated(configured: Maker) -> None:
    annotations = {
        f"{RUNTIME}internetworking_model": "none",
        f"{RUNTIME}create_container_timeout": "9",
        f"{AGENT}kernel_modules": "loop max_loop=4; dummy",
    }
    after = apply_annotations(configured("[]"), annotations)
    assert after.runtime.internetworking_model == "none"
    assert after.runtime.create_container_timeout == 9
    assert after.agent.create_container_timeout == 9
    assert after.agent.kernel_modules == ("loop max_loop=4", "dummy")
    assert after.origins["agent.kata.create_container_timeout"].kind == "annotation"


def test_upstreams_short_spelling_is_not_ignored(configured: Maker) -> None:
    with pytest.raises(ConfigError, match=r"io\.katacontainers\.enable_vcpus_pinning is not impl"):
        apply_annotations(configured(), {"io.katacontainers.enable_vcpus_pinning": "true"})


def test_other_annotations_are_left_alone(configured: Maker) -> None:
    configuration = configured()
    others = {
        "io.kubernetes.cri.container-type": "sandbox",
        "io.katacontainers.pkg.oci.bundle_path": "/x",
        "io.katacontainers.pkg.oci.container_type": "pod_sandbox",
    }
    assert apply_annotations(configuration, others) is configuration


REFUSED = [
    ("container.resource.swappiness", "is not implemented", "the guest has no swap"),
    ("container.resource.swap_in_bytes", "is not implemented", "the guest has no swap"),
    ("volume", "is not implemented", "option of mounts"),
    ("fs-opt.layer", "is not implemented", "option of mounts"),
    ("config.hypervisor", "unknown annotation", ""),
    ("confg.hypervisor.kernel", "unknown annotation", "config.hypervisor.kernel?"),
    ("container.resource.swapiness", "unknown annotation", "container.resource.swappiness?"),
    ("", "unknown annotation", ""),
]


@pytest.mark.parametrize(("name", "cause", "hint"), REFUSED)
def test_none_of_ours_is_dropped(configured: Maker, name: str, cause: str, hint: str) -> None:
    full = f"io.katacontainers.{name}"
    for refuse in (apply_annotations, check_container):
        with pytest.raises(ConfigError) as caught:
            refuse(configured(), {full: "1"})
        assert full in caught.value.message
        assert cause in caught.value.message
        assert hint in caught.value.hint


@pytest.mark.parametrize(
    "name",
    [
        *("firmware", "firmware_volume", "jailer_path", "image", "kernel_verity_params"),
        *("memory_offset", "enable_virtio_mem", "enable_mem_prealloc", "enable_hugepages"),
        *("reclaim_guest_freed_memory", "hugepage_type", "numa_mapping", "enable_guest_swap"),
        *("virtio_fs_cache_size", "block_device_driver", "block_device_aio", "enable_iothreads"),
        *("disable_block_device_use", "block_device_cache_set", "block_device_cache_direct"),
        *("block_device_cache_noflush", "blk_logical_sector_size", "blk_physical_sector_size"),
        *("block_device_num_queues", "block_device_queue_size", "indep_iothreads"),
        *("disable_image_nvdimm", "enable_vhost_user_store", "vhost_user_store_path"),
        *("vhost_user_reconnect_timeout_sec", "network_queues", "rx_rate_limiter_max_rate"),
        *("tx_rate_limiter_max_rate", "disable_vhost_net", "enable_iommu", "cold_plug_vfio"),
        *("enable_iommu_platform", "hot_plug_vfio", "pcie_root_port", "pcie_switch_port"),
        *("default_gpus", "default_gpu_model", "guest_hook_path", "use_legacy_serial"),
        *("cc_init_data", "prefetch_files.list"),
    ],
)
def test_upstreams_names_are_known(configured: Maker, name: str) -> None:
    text = ""
    try:
        apply_annotations(configured(), {HYPERVISOR + name: "77"})
    except ConfigError as error:  # most are known, and not implemented yet
        text = error.message
    assert "unknown" not in text


def test_a_container_has_its_pods_annotations_and_no_others(configured: Maker) -> None:
    name, kernel = f"{HYPERVISOR}default_memory", f"{HYPERVISOR}kernel_hash"
    pod = apply_annotations(configured(), {name: "512"})
    check_container(pod, {name: "512", "io.kubernetes.cri.container-type": "container"})
    check_container(pod, {})
    for others, cause in (
        ({name: "513"}, f"annotation {name} of a container .* with another value"),
        ({f"{RUNTIME}experimental": "x"}, f"annotation {RUNTIME}experimental .* without it"),
        ({kernel: "0" * 128}, f"annotation {kernel} .* without it"),
        ({f"{HYPERVISOR}default_memroy": "1"}, "unknown annotation"),
    ):
        with pytest.raises(ConfigError, match=cause):
            check_container(pod, others)


def test_a_file_has_the_hash_that_the_pod_names(
    configured: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "CACHE", str(tmp_path / "cache"))
    kernel = tmp_path / "kernel"
    kernel.write_bytes(b"vmlinux")
    right = hashlib.sha512(b"vmlinux").hexdigest()
    configuration = configured(more=f'path = "{kernel}"\nvirtio_fs_daemon = "{kernel}"\n')
    asset = {f"{HYPERVISOR}kernel": str(kernel)}
    kind = {"io.katacontainers.asset_hash_type": "sha512"}
    for name in ("kernel_hash", "path_hash", "hypervisor_hash", "virtio_fs_daemon_hash"):
        full = f"{HYPERVISOR}{name}"
        apply_annotations(configuration, {**asset, **kind, full: right.upper()})
        with pytest.raises(ConfigError, match=f"annotation {full}: {kernel} has the SHA-512 hash"):
            apply_annotations(configuration, {**asset, full: "0" * 128})
        with pytest.raises(ConfigError, match=f"annotation {full} is not enabled"):
            apply_annotations(configured("[]"), {full: right})


def test_a_hash_is_kept_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, cache = tmp_path / "kernel", tmp_path / "cache"
    monkeypatch.setattr(assets, "CACHE", str(cache))
    file.write_bytes(b"first")
    first, second = (hashlib.sha512(text).hexdigest() for text in (b"first", b"later"))
    assets.verify(str(file), first, "a")
    assert not cache.exists()  # it has changed just now: its times would not tell another change
    monkeypatch.setattr(assets, "_SETTLED", -1)
    assets.verify(str(file), first, "a")
    (kept,) = cache.iterdir()
    identity, _ = kept.read_text().split()
    kept.write_text(f"{identity} {second}")
    assets.verify(str(file), second, "a")  # the file is not read again
    kept.write_text("nonsense")
    assets.verify(str(file), first, "a")
    file.write_bytes(b"later")
    assets.verify(str(file), second, "a")
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        assets.verify(str(tmp_path / "absent"), second, "a")


def test_a_pods_kernel_parameters_replace_those_with_the_same_key(configured: Maker) -> None:
    configuration = configured(more='kernel_params = "quiet a=1 b=2"\n')
    after = apply_annotations(configuration, {f"{HYPERVISOR}kernel_params": "a=3 c a=4"})
    assert after.hypervisor.kernel_params == "quiet b=2 a=3 c a=4"


def test_paths_come_from_the_allow_list(configured: Maker, tmp_path: Path) -> None:
    good, hidden = tmp_path / "bin/qemu-a", tmp_path / "bin/deep/qemu-b"
    hidden.parent.mkdir(parents=True)
    for file in (good, hidden, tmp_path / "evil"):
        file.touch()
    configuration = configured(more=f'path = "/q"\nvalid_hypervisor_paths = ["{tmp_path}/bin/*"]\n')

    def path_after(value: str) -> str:
        return apply_annotations(configuration, {f"{HYPERVISOR}path": value}).hypervisor.path

    assert path_after(str(good)) == str(good)
    assert path_after("/q") == "/q"
    for refused in (str(hidden), f"{tmp_path}/bin/../evil", f"{tmp_path}/bin/absent", ""):
        with pytest.raises(ConfigError, match="is not allowed"):
            path_after(refused)


def test_the_outcome_is_checked_as_a_whole(configured: Maker) -> None:
    configuration = configured(more="default_maxvcpus = 2\n")
    name = f"{HYPERVISOR}default_vcpus"
    with pytest.raises(ConfigError, match=f"annotation {name}: .* more than default_maxvcpus"):
        apply_annotations(configuration, {name: "3"})
