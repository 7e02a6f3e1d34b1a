"""Packed text: the same blocks as without it, for any number of ranks, also after a kill."""

from __future__ import annotations

import copy
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tokenizers.normalizers import Replace

from dskd_ds.data.batches import BlockSource
from dskd_ds.data.blocks import train_blocks, train_rows
from dskd_ds.data.pack_groups import BlockGroups
from dskd_ds.data.packed import check_packed, open_packed
from dskd_ds.data.source import num_steps, open_blocks, open_source
from dskd_ds.data.text_parts import text_parts
from dskd_ds.errors import InputError
from dskd_ds.senses.dictionary.identity import corpus_digest
from tests.conftest import TinyWorld
from tests.unit.data.packs import contents, pack, spec_of


def places_of(source: BlockSource, count: int) -> list[Any]:
    return [source.get(place) for place in range(count)]


def test_a_run_trains_on_the_same_blocks_in_the_same_order(
    tiny: TinyWorld, tokenizer: Any, text_folder: Path, packed: Path
) -> None:
    live = open_source(spec_of(tiny, text_folder).data, tokenizer, seed=5, step_blocks=4)
    from_pack = open_source(
        spec_of(tiny, text_folder, f'data.packed="{packed}"').data, tokenizer, seed=5, step_blocks=4
    )
    assert len(from_pack.blocks) == len(live.blocks) > 1000  # type: ignore[attr-defined]
    count = len(live.blocks) + 100  # type: ignore[attr-defined]
    assert places_of(from_pack, count) == places_of(live, count)


@pytest.mark.parametrize("change", ["normalizer", "eos_token"])
def test_a_tokenizer_with_the_same_vocabulary_has_blocks_of_its_own(
    tiny: TinyWorld, tokenizer: Any, text_folder: Path, change: str
) -> None:
    """The blocks of another tokenizer are not taken from the cache for its own."""
    other = copy.deepcopy(tokenizer)
    if change == "normalizer":
        other.backend_tokenizer.normalizer = Replace("a", "o")
    else:
        other.eos_token = other.convert_ids_to_tokens(5)
    data = spec_of(tiny, text_folder).data
    assert other.get_vocab() == tokenizer.get_vocab()
    assert train_blocks(data, tokenizer)["input_ids"] != train_blocks(data, other)["input_ids"]


def test_three_ranks_write_the_same_bytes(
    tiny: TinyWorld, tokenizer: Any, text_folder: Path, packed: Path
) -> None:
    folder = text_folder / "three"
    pack(spec_of(tiny, text_folder, f'data.packed="{folder}"'), tokenizer, num_ranks=3)
    assert contents(folder / "text") == contents(packed / "text")
    assert len([name for name in contents(folder) if name.endswith(".arrow")]) == 5
    assert not folder.with_name("three.partial").exists()


def test_a_killed_job_goes_on_with_the_missing_shards(
    tiny: TinyWorld,
    tokenizer: Any,
    text_folder: Path,
    packed: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = spec_of(tiny, text_folder, f'data.packed="{text_folder / "killed"}"')
    made: list[int] = []
    real = BlockGroups.make

    def make(self: BlockGroups, group: int, counts: Counter[str]) -> pa.RecordBatch:
        if group == 3 and len(made) == 3:
            raise KeyboardInterrupt  # not caught by anything on the way
        made.append(group)
        return real(self, group, counts)

    monkeypatch.setattr(BlockGroups, "make", make)
    with pytest.raises(KeyboardInterrupt):
        pack(spec, tokenizer)
    with pytest.raises(InputError, match="holds no packed text"):
        check_packed(spec.data, tokenizer, None)
    made.append(-1)
    pack(spec, tokenizer)
    assert made == [0, 1, 2, -1, 3, 4]
    assert contents(text_folder / "killed" / "text") == contents(packed / "text")


def test_a_complete_pack_is_kept_and_a_damaged_file_is_named(
    tiny: TinyWorld,
    tokenizer: Any,
    text_folder: Path,
    packed: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = text_folder / "again"
    shutil.copytree(packed, folder)
    spec = spec_of(tiny, text_folder, f'data.packed="{folder}"')
    pack(spec, tokenizer)
    assert "complete already" in capsys.readouterr().out
    shard = folder / "text" / "00001.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(InputError, match=r"00001.arrow: its content differs.*\n.*delete"):
        pack(spec, tokenizer)
    shard.write_bytes(content[:-1])
    with pytest.raises(InputError, match=r"00001.arrow: it has .*\n.*dskd data pack SPEC"):
        check_packed(spec.data, tokenizer, None)


def test_opening_reads_no_shard_and_a_place_one(
    tiny: TinyWorld,
    tokenizer: Any,
    text_folder: Path,
    packed: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the size: a run that resumes reads nothing before its place."""
    import datasets

    opened: list[str] = []
    real = datasets.Dataset.from_file

    def from_file(path: str) -> Any:
        opened.append(Path(path).name)
        return real(path)

    monkeypatch.setattr(datasets.Dataset, "from_file", from_file)
    part = text_parts(spec_of(tiny, text_folder, f'data.packed="{packed}"').data)[0]
    blocks = open_packed(part, tokenizer, None)
    assert opened == []
    assert len(blocks[len(blocks) - 1]["input_ids"]) == 32
    assert opened == ["00004.arrow"]
    assert blocks[len(blocks) - 2]
    assert opened == ["00004.arrow"]


def test_rows_are_packed_too(tiny: TinyWorld, tokenizer: Any, text_folder: Path) -> None:
    folder = text_folder / "rows"
    spec = spec_of(tiny, text_folder, "data.packing=none", f'data.packed="{folder}"')
    pack(spec, tokenizer, num_ranks=2, max_tokens=35)
    live = train_rows(spec.data, tokenizer, 35)
    blocks = open_packed(text_parts(spec.data)[0], tokenizer, 35)
    assert [blocks[index] for index in range(len(blocks))] == list(live)
    assert max(map(len, live["input_ids"])) == 35
    with pytest.raises(InputError, match=r"none\.max_tokens was 35, now 36"):
        open_packed(text_parts(spec.data)[0], tokenizer, 36)


@pytest.mark.parametrize("is_packed", [False, True])
def test_weights_share_the_tokens(
    tiny: TinyWorld, tokenizer: Any, text_folder: Path, is_packed: bool
) -> None:
    """Conversations leave blocks partly empty, so tokens are counted, not blocks."""
    keys = [f'data.packed="{text_folder / "weighted"}"'] if is_packed else []
    spec = spec_of(tiny, text_folder, *keys, weights="1,3")
    if is_packed:
        pack(spec, tokenizer, num_ranks=2)
    source = open_source(spec.data, tokenizer, seed=5, step_blocks=4)
    count = int(source.num_blocks(1.0))  # type: ignore[attr-defined]
    tokens = [0, 0]
    samples = set()
    for place in range(count):
        sample, block = source.get(place)
        ends = [*block["segment_starts"][1:], 32]
        padding = 32 - block["segment_starts"][-1] if block["doc_digests"][-1] == 0 else 0
        tokens[source.source_of(sample)] += ends[-1] - padding  # type: ignore[attr-defined]
        samples.add(sample)
    assert tokens[1] / sum(tokens) == pytest.approx(0.75, abs=0.01)
    assert len(samples) == count  # no draw has the key of another
    epochs = spec.train.model_copy(update={"num_steps": None, "num_epochs": 2.0})
    assert num_steps(spec.model_copy(update={"train": epochs}), source) == count * 2 // 4


def test_a_dictionary_is_built_from_packed_blocks(
    tiny: TinyWorld, tokenizer: Any, text_folder: Path, packed: Path
) -> None:
    live = open_blocks(spec_of(tiny, text_folder).data, tokenizer)
    spec = spec_of(tiny, text_folder, f'data.packed="{packed}"')
    blocks = open_blocks(spec.data, tokenizer)
    assert corpus_digest(blocks) == corpus_digest(live)
    assert blocks[len(blocks) - 1] == live[len(live) - 1]
    # Of sources that are packed apart, a dictionary's blocks are made anew.
    weighted = spec_of(tiny, text_folder, f'data.packed="{packed}"', weights="1,2")
    assert corpus_digest(open_blocks(weighted.data, tokenizer)) == corpus_digest(live)
