"""Removes the folders of old runs, and never one whose model is or was in use."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from choral.core.errors import StoreError
from choral.stores import registry
from choral.stores.files import sync_folder
from choral.stores.folder import RESULT

DOOMED: Final = ".removed-"
"""How the name of a folder begins that is being removed: a crash leaves it to the next time."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed, or would be.

    Attributes:
        removed: Runs, oldest first.
        promoted: Old runs that stay, since their models are or were in use.
        kept: Runs that are new enough.
        freed_bytes: Bytes of the files.
    """

    removed: tuple[str, ...]
    promoted: tuple[str, ...]
    kept: tuple[str, ...]
    freed_bytes: int


def prune(root: Path, *, keep: int, dry_run: bool) -> Pruned:
    """Remove the oldest completed runs.

    Unfinished runs, and folders that are no run's, are never touched.

    Args:
        root: The folder of the runs.
        keep: How many of the newest stay, besides the promoted ones.
        dry_run: Remove nothing.

    Raises:
        StoreError: A folder cannot be removed, or the registry cannot be read.
    """
    models, _ = registry.models(root)
    used = {decision.run_id for decision in registry.history(root)}
    ours = [m for m in models if (m.folder / RESULT).exists() and m.folder.parent == root]
    promoted = [m for m in ours if m.run_id in used]
    others = [m for m in ours if m.run_id not in used]
    old = others[: len(others) - keep] if keep < len(others) else []
    freed = sum(_size(m.folder) for m in old)
    if not dry_run:
        for left in root.glob(f"{DOOMED}*"):
            _remove(left)
        for model in old:
            doomed = root / f"{DOOMED}{model.folder.name}"
            try:
                model.folder.replace(doomed)
                sync_folder(root)
            except OSError as error:
                raise StoreError(f"cannot remove {model.folder}: {error.strerror}") from None
            _remove(doomed)
    return Pruned(
        tuple(m.run_id for m in old),
        tuple(m.run_id for m in promoted),
        tuple(m.run_id for m in others[len(old) :]),
        freed,
    )


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise StoreError(f"cannot remove {folder}: {error.strerror}") from None


def _size(folder: Path) -> int:
    return sum(p.lstat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
