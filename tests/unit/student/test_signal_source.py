"""What [teacher] source names: a link, a cache before a link, or a cache alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from dskd_ds.commands.fill_signals import fill
from dskd_ds.data.batches import read_batch
from dskd_ds.data.source import open_source
from dskd_ds.errors import InputError
from dskd_ds.link import StudentSide
from dskd_ds.models.named import RunModels
from dskd_ds.models.reply_identity import reply_fingerprint
from dskd_ds.signal_cache.folder import note_teacher, open_cache
from dskd_ds.spec import load_spec
from dskd_ds.student.replies.requests import RequestBuilder
from dskd_ds.student.replies.signal_source import open_signal_source
from tests.conftest import TinyWorld
from tests.unit.signal_cache.world import DirectLink
from tests.unit.small_llama import small_llama


def no_link() -> StudentSide:
    raise AssertionError("a run from the cache alone listens for no teacher")


def test_a_run_from_the_cache_alone_opens_no_link(tiny: TinyWorld, tmp_path: Path) -> None:
    spec = load_spec(
        tiny.spec_file,
        [
            "loss.sense_weight=0",
            f"teacher.cache_dir={tmp_path}",
            "teacher.source=cache",
            "topology.num_teachers=0",
        ],
    )
    models = RunModels.of(spec)
    source = open_source(spec.data, models.teacher.tokenizer, seed=spec.seed, step_blocks=4)
    fingerprint = reply_fingerprint(spec, models)
    note_teacher(spec.teacher, fingerprint)
    fill(spec, models, source, [[0], [1]], open_cache(spec.teacher, fingerprint))

    signal = open_signal_source(spec, models, no_link)
    assert signal.uncached is signal.link
    builder = RequestBuilder(spec, None, models.shared_vocab_size, models.teacher.hidden_size)
    filled = builder.request(read_batch(source, range(2)))
    answer = signal.link.submit(filled.arrays, filled.wanted).result(timeout=60)
    assert len(builder.read(filled, answer).top_k.ids) == len(filled.positions["top_k"])
    assert signal.link.fingerprint == fingerprint
    later = builder.request(read_batch(source, range(1, 4)))
    with pytest.raises(InputError, match=r"for 2 of the next 3 blocks\.\n.*`dskd teach SPEC`"):
        signal.link.submit(later.arrays, later.wanted).result(timeout=60)
    signal.link.close()


def test_other_sources_listen_for_teachers(tiny: TinyWorld, tmp_path: Path) -> None:
    link = DirectLink(small_llama(60, 8))
    for name in ("live", "cache_or_live"):
        overrides = [f"teacher.source={name}", f"teacher.cache_dir={tmp_path}"]
        spec = load_spec(tiny.spec_file, overrides)
        signal = open_signal_source(spec, RunModels.of(spec), lambda: link)
        assert signal.uncached is link  # the student's own text is not kept
        assert (signal.link is link) == (name == "live")
        signal.link.close()
    assert link.is_closed
