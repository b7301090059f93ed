"""Our runtime under configurations other than the installed one: a copy, with a drop-in each."""

import dataclasses
import shutil
from pathlib import Path

from lab.paths import CONFIGURATION, DROP_INS
from lab.runtimes import KATA, Runtime


def cold(folder: Path) -> Runtime:
    """Return our runtime with templates switched off; its configuration lies in a new folder."""
    return _variant(folder / "cold", "kata_cold", "[factory]\nenable_template = false\n")


def pooled(folder: Path, most: int) -> Runtime:
    """Return our runtime with guests that stand by; its configuration lies in a new folder."""
    name = f"pool_of_{most}"
    return _variant(folder / name, name, f"[factory]\nvm_cache_number = {most}\n")


def with_share(folder: Path, share: str) -> Runtime:
    """Return our runtime with a kind of share; its configuration lies in a new folder."""
    return _variant(folder / share, share, f'[hypervisor.qemu]\nshared_fs = "{share}"\n')


def _variant(folder: Path, name: str, drop_in: str) -> Runtime:
    shutil.copytree(DROP_INS, folder / DROP_INS.name)
    path = Path(shutil.copy(CONFIGURATION, folder))
    (folder / DROP_INS.name / "90-bench.toml").write_text(drop_in)
    return dataclasses.replace(KATA, name=name, ctr_options=(*KATA.ctr_options[:-1], str(path)))
