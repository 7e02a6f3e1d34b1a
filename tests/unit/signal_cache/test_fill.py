"""Filling ahead: all that a run will ask is kept, and each block is read once for all epochs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dskd_ds.commands import fill_signals
from dskd_ds.commands.fill_room import refuse_too_small
from dskd_ds.commands.fill_signals import (
    fill,
    own_lanes,
    places_by_block,
    run_places,
    stream_places,
    whole_request,
)
from dskd_ds.commands.teach import check_source
from dskd_ds.data.batches import Batch, BlockSource, make_batch
from dskd_ds.data.source import open_source
from dskd_ds.errors import InputError
from dskd_ds.link.messages import Array
from dskd_ds.models.named import RunModels
from dskd_ds.models.reply_identity import reply_fingerprint
from dskd_ds.senses.choose.retrieve import SenseRetriever
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.signal_cache.folder import open_cache
from dskd_ds.signal_cache.room import enough_limit, segment_files
from dskd_ds.signal_cache.segments import HEADER_BYTES
from dskd_ds.signal_cache.store import SignalStore
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.student.replies.requests import RequestBuilder
from dskd_ds.teacher.answer import answer
from tests.conftest import TinyWorld
from tests.unit.conftest import D, V
from tests.unit.signal_cache.world import (
    NUM_BLOCKS,
    DirectLink,
    Text,
    cache_in,
    cached,
    micro_batches,
    spec_of,
)
from tests.unit.small_llama import small_llama


def tiny_spec(tiny: TinyWorld, tmp_path: Path, *overrides: str) -> RunSpec:
    return load_spec(
        tiny.spec_file,
        [
            f"data.train=[{{path = '{tiny.folder / 'heldout.jsonl'}', title_field = 'title'}}]",
            "data.heldout=[]",
            "loss.sense_weight=0",
            "train.num_steps=9",
            "train.global_batch_blocks=4",
            f"teacher.cache_dir={tmp_path / 'kept'}",
            "teacher.source=cache",
            "topology.num_teachers=0",
            *overrides,
        ],
    )


def batch_at(source: BlockSource, place: int) -> Batch:
    sample, block = source.get(place)
    return make_batch([block], [sample])


def test_what_was_filled_by_two_ranks_is_all_that_is_asked(tiny: TinyWorld, tmp_path: Path) -> None:
    spec = tiny_spec(tiny, tmp_path)
    models = RunModels.of(spec)
    source = open_source(
        spec.data, models.teacher.tokenizer, seed=spec.seed, step_blocks=4, max_tokens=256
    )
    groups, num_positions = places_by_block(source, run_places(spec, source))
    assert num_positions == sum(len(batch_at(source, group[0]).supervised) for group in groups)
    assert sorted(place for group in groups for place in group) == list(range(36))
    assert max(map(len, groups)) >= 3  # the text is short: blocks come again
    fingerprint = reply_fingerprint(spec, models)
    for rank in range(2):
        filled = fill(spec, models, source, groups[rank::2], open_cache(spec.teacher, fingerprint))
        assert filled.num_asked == filled.num_blocks == len(groups[rank::2])
    again = open_cache(spec.teacher, fingerprint)
    sizes = models.shared_vocab_size, models.teacher.hidden_size
    builder = RequestBuilder(spec, None, *sizes)
    for place in range(36):
        sample, block = source.get(place)
        request = builder.request(make_batch([block], [sample]))
        found = again.look_up(request.arrays, request.wanted, sizes)
        assert found.num_asked > 0
        assert found.num_missing == 0
    assert fill(spec, models, source, groups, again).num_asked == 0


def test_a_block_is_read_once_for_the_sense_positions_of_all_epochs(
    tmp_path: Path, dictionary: SenseDictionary
) -> None:
    teacher, spec = small_llama(V, D), spec_of("topk")
    retriever = SenseRetriever(dictionary, spec.senses, spec.loss, spec.seed)
    builder = RequestBuilder(spec, retriever, V, D)
    text, cache = Text(), cache_in(tmp_path)
    groups, _ = places_by_block(text, range(2 * NUM_BLOCKS))
    assert [len(group) for group in groups] == [2] * NUM_BLOCKS
    for group in groups:
        request = whole_request(builder, text, group)
        found = cache.look_up(request.arrays, request.wanted, (V, D))
        cache.keep(found, answer(teacher, found.request(), request.wanted))
    cache.store.close()
    link = DirectLink(teacher)
    micro_batches(spec, cached(link, tmp_path), retriever)
    assert link.rows == 0


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_the_places_of_a_stream_are_dealt_by_lane(
    tiny: TinyWorld, tmp_path: Path, num_ranks: int
) -> None:
    spec = tiny_spec(tiny, tmp_path, "data.stream=true", "student.layers=first")
    places: list[int] = []
    for rank in range(num_ranks):
        lanes = own_lanes(spec, rank, num_ranks)
        of_rank = stream_places(spec, Text(), lanes)
        assert {place % 4 for place in of_rank} == set(lanes)
        places += of_rank
    assert sorted(places) == list(range(36))


def test_a_limit_that_is_too_small_is_refused_with_the_bytes(
    tiny: TinyWorld, tmp_path: Path
) -> None:
    spec = tiny_spec(tiny, tmp_path, "teacher.cache_limit_bytes=1000")
    with pytest.raises(InputError, match=r"cache_limit_bytes = 1000, but the signal of 5 blocks"):
        refuse_too_small(spec, RunModels.of(spec), num_blocks=5, num_positions=5 * 31)
    unlimited = tiny_spec(tiny, tmp_path, "teacher.cache_limit_bytes=0")
    refuse_too_small(unlimited, RunModels.of(unlimited), num_blocks=10**9, num_positions=10**12)


def test_only_what_is_learned_needs_room(tiny: TinyWorld, tmp_path: Path) -> None:
    """Conversations with long questions and short answers fit a limit that all positions exceed."""
    text = tmp_path / "chats.jsonl"
    question = " ".join(["what is a big bank"] * 4)
    rows = [
        {
            "prompt": [{"role": "user", "content": f"{number} {question}?"}],
            "completion": [{"role": "assistant", "content": "large"}],
        }
        for number in range(20)
    ]
    text.write_text("".join(json.dumps(row) + "\n" for row in rows))
    chats = f"data.train=[{{path='{text}', format='chat', supervise='completions'}}]"
    spec = tiny_spec(tiny, tmp_path, chats, "data.chat_template=plain", "data.block_tokens=64")
    models = RunModels.of(spec)
    source = open_source(spec.data, models.teacher.tokenizer, seed=1, step_blocks=4)
    groups, num_positions = places_by_block(source, run_places(spec, source))
    found = [batch_at(source, group[0]) for group in groups]
    assert num_positions == sum(len(batch.supervised) for batch in found)
    num_tokens = sum(batch.input_ids.numel() for batch in found)
    assert num_positions * 4 < num_tokens
    with pytest.raises(InputError, match="takes at least") as refusal:
        refuse_too_small(
            tiny_spec(tiny, tmp_path, chats, "teacher.cache_limit_bytes=1"),
            models,
            len(groups),
            num_positions,
        )
    needed = re.search(r"at least ([\d,]+) bytes", str(refusal.value))
    assert needed is not None
    limit = int(needed[1].replace(",", "")) + 1
    limited = tiny_spec(tiny, tmp_path, chats, f"teacher.cache_limit_bytes={limit}")
    refuse_too_small(limited, models, len(groups), num_positions)
    with pytest.raises(InputError, match="takes at least"):
        refuse_too_small(limited, models, len(groups), num_tokens)


def test_a_full_disk_ends_the_filling(
    tiny: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny_spec(tiny, tmp_path)
    models = RunModels.of(spec)
    source = open_source(spec.data, models.teacher.tokenizer, seed=1, step_blocks=4)
    (tmp_path / "kept").write_text("a file where the folder should be")
    monkeypatch.setattr(fill_signals, "tqdm", lambda groups, **_: groups)
    with pytest.raises(InputError, match="make room, or name another folder"):
        fill(spec, models, source, [[0]], open_cache(spec.teacher, "f"))


def test_signal_that_students_refuse_is_not_kept(
    tiny: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny_spec(tiny, tmp_path)
    models = RunModels.of(spec)
    source = open_source(spec.data, models.teacher.tokenizer, seed=1, step_blocks=4)
    sample, _ = source.get(1)

    def second_is_nan(*args: Any) -> dict[str, Array]:
        arrays = answer(*args)
        if asked:
            arrays["top_k_logits"][0, 0] = np.nan
        asked.append(arrays)
        return arrays

    asked: list[dict[str, Array]] = []
    monkeypatch.setattr(fill_signals, "answer", second_is_nan)
    cache = open_cache(spec.teacher, "f")
    message = rf"block {sample.block} of epoch {sample.epoch} is invalid(.|\n)*top_k_logits has val"
    with pytest.raises(InputError, match=message):
        fill(spec, models, source, [[0], [1]], cache)
    assert len(asked) == 2
    assert cache.store.num_records == 1


def filled_with_limit(spec: RunSpec, limit: int) -> int:
    """Fill the cache of a spec with this limit; returns the bytes that it then holds."""
    limited = spec.model_copy(
        update={"teacher": spec.teacher.model_copy(update={"cache_limit_bytes": limit})}
    )
    models = RunModels.of(limited)
    source = open_source(limited.data, models.teacher.tokenizer, seed=1, step_blocks=4)
    groups, _ = places_by_block(source, range(36))
    fill(limited, models, source, groups, open_cache(limited.teacher, "f"))
    return sum(file.num_bytes for file in segment_files(Path(limited.teacher.cache_folder)))


def test_a_fill_that_loses_its_own_signal_ends_and_names_a_limit_that_is_enough(
    tiny: TinyWorld, tmp_path: Path
) -> None:
    needed = filled_with_limit(tiny_spec(tiny, tmp_path), 0)
    spec = tiny_spec(tiny, tmp_path, f"teacher.cache_dir={tmp_path / 'limited'}")
    message = r"cache_limit_bytes = \d+, but that is too small: [\d,]+ bytes of this teacher's"
    with pytest.raises(InputError, match=message) as refusal:
        filled_with_limit(spec, int(0.8 * needed))
    named = re.search(r"about (\d+) is enough", str(refusal.value))
    assert named is not None
    assert needed < int(named[1]) < 2 * needed
    filled_with_limit(spec, int(named[1]))


def test_a_fill_says_what_it_removed_of_other_teachers(
    tiny: TinyWorld, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    needed = filled_with_limit(tiny_spec(tiny, tmp_path), 0)
    root = tmp_path / "shared"
    other = SignalStore(root, root / "other")
    other.put(bytes(16), bytes(needed))
    other.close()
    capfd.readouterr()
    filled_with_limit(
        tiny_spec(tiny, tmp_path, f"teacher.cache_dir={root}"),
        enough_limit(needed, num_open=1, most_payload_bytes=needed // 2),
    )
    lines = [line for line in capfd.readouterr().err.splitlines() if "other teachers" in line]
    assert len(lines) == 1
    assert f"{needed + HEADER_BYTES:,} bytes of other teachers' signal were removed" in lines[0]


def test_a_live_run_is_not_filled(tiny: TinyWorld, tmp_path: Path) -> None:
    check_source(tiny_spec(tiny, tmp_path))
    with pytest.raises(InputError, match="a live teacher's signal is not kept"):
        check_source(load_spec(tiny.spec_file))
