"""The cache's folder: one folder per teacher, named by a digest of the teacher's fingerprint."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
import transformers

from dskd_ds.files.atomic import write_json
from dskd_ds.signal_cache.cache import SignalCache
from dskd_ds.signal_cache.segments import SEGMENT_ENDING
from dskd_ds.signal_cache.store import SignalStore
from dskd_ds.spec.models import TeacherSpec

TEACHER_FILE = "teacher.json"


@dataclass(frozen=True)
class KeptTeacher:
    """A teacher of which signal is kept."""

    folder: Path
    fingerprint: str
    model: str
    """As the spec named it that filled the folder first."""
    made_with: dict[str, str]
    """Versions of libraries and number of threads then. Rounding may depend on them too."""


def teacher_folder(root: Path, fingerprint: str) -> Path:
    """Return the folder of a teacher's signal."""
    return root / hashlib.sha256(fingerprint.encode()).hexdigest()[:16]


def open_cache(spec: TeacherSpec, fingerprint: str) -> SignalCache:
    """Open the kept signal of a teacher; it may be empty."""
    root = Path(spec.cache_folder)
    folder = teacher_folder(root, fingerprint)
    store = SignalStore(root, folder, spec.cache_limit_bytes)
    store.refresh()
    return SignalCache(store, fingerprint)


def note_teacher(spec: TeacherSpec, fingerprint: str) -> None:
    """Write down which teacher a folder belongs to, for `dskd cache`. Raises OSError."""
    folder = teacher_folder(Path(spec.cache_folder), fingerprint)
    if (folder / TEACHER_FILE).is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    made_with = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": numpy.__version__,
        "threads": str(torch.get_num_threads()),
    }
    facts = {"fingerprint": fingerprint, "model": spec.model, "made_with": made_with}
    # All ranks come here at the same time, so each renames a file of its own.
    own = folder / f"{TEACHER_FILE}.{os.urandom(8).hex()}"
    write_json(own, facts, indent=1)
    own.replace(folder / TEACHER_FILE)


def kept_teachers(root: Path) -> list[KeptTeacher]:
    """Return the teachers of which a cache keeps signal."""
    found: list[KeptTeacher] = []
    for path in sorted(root.glob(f"*/{TEACHER_FILE}")):
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            teacher = KeptTeacher(
                folder=path.parent,
                fingerprint=facts["fingerprint"],
                model=facts["model"],
                made_with=facts["made_with"],
            )
        except (OSError, ValueError, KeyError):
            continue
        if any(path.parent.glob(f"*{SEGMENT_ENDING}")):
            found.append(teacher)
    return found


def kept_fingerprint(spec: TeacherSpec, fingerprint: str, weights: str) -> str:
    """Return the fingerprint under which a cache keeps this teacher's signal.

    It is the teacher's own, if anything is kept under it. Otherwise it may be another that has the
    same weights, the same tokens and a number format that the spec allows: the cache was filled on
    another kind of device. If there are several, or none, the teacher's own is returned.

    weights: the weights' digest, with which fingerprints begin.
    """
    kept = {teacher.fingerprint for teacher in kept_teachers(Path(spec.cache_folder))}
    if fingerprint in kept:
        return fingerprint
    own_dtype, _, _, own_rest = _facts(fingerprint, weights)
    same: list[str] = []
    for other in kept:
        if not other.startswith(f"{weights}-"):
            continue
        dtype, _, _, rest = _facts(other, weights)
        if rest == own_rest and (spec.dtype == "auto" or dtype == own_dtype):
            same.append(other)
    return same[0] if len(same) == 1 else fingerprint


def _facts(fingerprint: str, weights: str) -> tuple[str, str, str, list[str]]:
    """Return number format, device, attention kernel and the rest of a fingerprint."""
    dtype, device, attention, *rest = fingerprint.removeprefix(f"{weights}-").split("-")
    return dtype, device, attention, rest
