"""What the cache of teacher signal holds for a run, before it starts."""

from __future__ import annotations

from pathlib import Path

from dskd_ds.errors import InputError
from dskd_ds.models.named import RunModels
from dskd_ds.models.reply_identity import reply_fingerprint
from dskd_ds.signal_cache.folder import kept_fingerprint, teacher_folder
from dskd_ds.signal_cache.room import segment_files
from dskd_ds.spec import RunSpec


def kept_line(spec: RunSpec, models: RunModels) -> str | None:
    """Return a line about what is kept of the run's teacher; None for a run without a cache.

    Raises InputError if the run has nothing but the cache, and that holds nothing of its teacher.
    """
    if spec.teacher.source == "live":
        return None
    root = Path(spec.teacher.cache_folder)
    own = reply_fingerprint(spec, models)
    fingerprint = kept_fingerprint(spec.teacher, own, models.teacher.weights_digest)
    folder = teacher_folder(root, fingerprint)
    num_bytes = sum(file.num_bytes for file in segment_files(root) if file.path.parent == folder)
    if num_bytes == 0 and spec.teacher.source == "cache":
        raise InputError(
            f'[teacher] source = "cache", but {root} holds no signal of this teacher ({own}).\n'
            "  fill it with `dskd teach SPEC`, name another [teacher] cache_dir (`dskd cache SPEC`"
            ' lists what it holds), or set source = "cache_or_live" and start a teacher.'
        )
    return f"kept teacher signal: {num_bytes:,} bytes in {folder}"
