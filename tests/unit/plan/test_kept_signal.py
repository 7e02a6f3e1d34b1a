"""Before a run from the cache starts: an empty cache is refused, with the command that fills it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dskd_ds.errors import InputError
from dskd_ds.models.named import RunModels
from dskd_ds.models.reply_identity import reply_fingerprint
from dskd_ds.plan.kept_signal import kept_line
from dskd_ds.signal_cache.folder import note_teacher, open_cache
from dskd_ds.spec import load_spec
from tests.conftest import TinyWorld


def line(tiny: TinyWorld, folder: Path, *overrides: str) -> str | None:
    spec = load_spec(tiny.spec_file, [f"teacher.cache_dir={folder}", *overrides])
    return kept_line(spec, RunModels.of(spec))


def test_what_is_kept_is_said_before_a_run(tiny: TinyWorld, tmp_path: Path) -> None:
    alone = ("teacher.source=cache", "topology.num_teachers=0")
    assert line(tiny, tmp_path) is None
    assert str(line(tiny, tmp_path, "teacher.source=cache_or_live")).startswith(
        "kept teacher signal: 0 bytes"
    )
    with pytest.raises(InputError, match=r"holds no signal of this teacher .*\n.*dskd teach SPEC"):
        line(tiny, tmp_path, *alone)
    spec = load_spec(tiny.spec_file, [f"teacher.cache_dir={tmp_path}"])
    own = reply_fingerprint(spec, RunModels.of(spec))
    for fingerprint in (f"x{own}", own):
        note_teacher(spec.teacher, fingerprint)
        store = open_cache(spec.teacher, fingerprint).store
        store.put(bytes(16), b"a payload")
        store.close()
        if fingerprint != own:  # another teacher's signal is of no use
            with pytest.raises(InputError, match="holds no signal"):
                line(tiny, tmp_path, *alone)
    assert "0 bytes" not in str(line(tiny, tmp_path, *alone))
