"""Streams: their order, what each rank tokenises, how they resume and how they end."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dskd_ds.data.batches import places
from dskd_ds.data.blocks import train_blocks, train_rows
from dskd_ds.data.lane_reader import LaneReader
from dskd_ds.data.row_reader import RowReader
from dskd_ds.data.source import lanes_of
from dskd_ds.data.streamed import StreamedBlocks
from dskd_ds.data.text_stream import START, TextStream
from dskd_ds.errors import InputError
from dskd_ds.spec import RunSpec, load_spec
from tests.conftest import WORDS, TinyWorld
from tests.of_spec import heldout_documents_of, source_of
from tests.unit.data.chats import messages_of

FILE_DOCUMENTS = (331, 7, 500, 162)
"""No multiple of a group, so groups cross files, but not sources."""
LANES = 8


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four files of documents."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(1)
    for index, num_documents in enumerate(FILE_DOCUMENTS):
        lines = []
        for number in range(num_documents):
            words = draw.choices(WORDS, k=draw.randint(5, 60))
            lines.append(json.dumps({"title": f"{index} {number}", "text": " ".join(words)}))
        (folder / f"{index}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def spec_of(
    tiny: TinyWorld, paths: Sequence[str | Path], *keys: str, num_students: int = 1
) -> RunSpec:
    """Return the spec of a stream of eight lanes, with groups of ten documents."""
    sources = ", ".join(f'{{path="{path}", title_field="title"}}' for path in paths)
    return load_spec(
        tiny.spec_file,
        [
            f"data.train=[{sources}]",
            "data.stream=true",
            "data.stream_group_documents=10",
            "student.layers=first",
            f"train.global_batch_blocks={LANES}",
            f"topology.num_students={num_students}",
            *keys,
        ],
    )


class Rank:
    """A stream as one rank reads it, with what it tokenises."""

    def __init__(self, spec: RunSpec, tokenizer: Any, rank: int, keep_steps: int = 2) -> None:
        self.spec, self.rank = spec, rank
        self.reader = RowReader(spec.data, tokenizer, None, is_stream=True)
        self.stream = StreamedBlocks(
            partial(LaneReader, TextStream(spec.data), self.reader, LANES),
            lanes=lanes_of(spec, rank),
            num_lanes=LANES,
            keep_steps=keep_steps,
        )

    def step(self, step: int) -> dict[int, list[int]]:
        """Return this rank's blocks of a step, by place."""
        micros = range(self.spec.num_accumulation_steps)
        own = [place for micro in micros for place in places(self.spec, step, micro, self.rank)]
        return {place: self.stream.get(place)[1]["input_ids"] for place in own}


def blocks_of(ranks: Sequence[Rank], steps: range) -> dict[int, list[int]]:
    """Return what all ranks read in some steps, by place."""
    found: dict[int, list[int]] = {}
    for step in steps:
        for rank in ranks:
            found |= rank.step(step)
    return found


def ranks_of(tiny: TinyWorld, tokenizer: Any, corpus: Path, count: int) -> list[Rank]:
    spec = spec_of(tiny, [f"{corpus}/*.jsonl"], num_students=count)
    return [Rank(spec, tokenizer, rank) for rank in range(count)]


def through_json(states: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return states as a checkpoint gives them back."""
    loaded: list[dict[str, Any]] = json.loads(json.dumps(states))
    return loaded


def test_the_order_does_not_depend_on_the_ranks_and_each_tokenises_its_share(
    tiny: TinyWorld, tokenizer: Any, corpus: Path
) -> None:
    steps = range(100)
    alone = blocks_of(ranks_of(tiny, tokenizer, corpus, 1), steps)
    four = ranks_of(tiny, tokenizer, corpus, 4)
    assert blocks_of(four, steps) == alone
    assert sorted(alone) == list(range(100 * LANES))
    for rank in four:
        rank.stream.close()
        assert 0 < rank.reader.num_tokenised <= 0.3 * sum(FILE_DOCUMENTS)


def test_a_lane_is_its_groups_packed_alone(tiny: TinyWorld, tokenizer: Any, corpus: Path) -> None:
    """The slow version: every group as a corpus of its own, dealt to the lanes in turn."""
    per_group = 40
    sources = ("0.jsonl", "3.jsonl")
    spec = spec_of(
        tiny, [corpus / name for name in sources], f"data.stream_group_documents={per_group}"
    )
    lanes: list[list[list[int]]] = [[] for _ in range(LANES)]
    number = 0
    for source in sources:
        lines = (corpus / source).read_text().splitlines()
        for first in range(0, len(lines), per_group):
            group = corpus / "group" / f"{source}-{first}.jsonl"
            group.parent.mkdir(exist_ok=True)
            group.write_text("\n".join(lines[first : first + per_group]) + "\n")
            keys = (f'data.train=[{{path="{group}", title_field="title"}}]', "data.stream=false")
            blocks = train_blocks(spec_of(tiny, [], *keys).data, tokenizer)
            lanes[number % LANES] += blocks["input_ids"]
            number += 1
    num_steps = min(map(len, lanes))
    found = blocks_of([Rank(spec, tokenizer, 0)], range(num_steps))
    expected = {
        step * LANES + lane: lanes[lane][step] for step in range(num_steps) for lane in range(LANES)
    }
    assert found == expected


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_a_resumed_stream_goes_on_where_it_was(
    tiny: TinyWorld, tokenizer: Any, corpus: Path, num_ranks: int
) -> None:
    """The feed reads two steps ahead of the checkpoint, which two ranks wrote."""
    whole = blocks_of(ranks_of(tiny, tokenizer, corpus, 1), range(110))
    before = ranks_of(tiny, tokenizer, corpus, 2)
    blocks_of(before, range(93))
    states = through_json([rank.stream.state_dict() for rank in before])
    after = ranks_of(tiny, tokenizer, corpus, num_ranks)
    for rank in after:
        rank.stream.load_state_dict(states)
    # A save before anything is read stores what was loaded.
    assert after[0].stream.state_dict()["lanes"] == states[0]["lanes"] | states[1]["lanes"]
    resumed = blocks_of(after, range(91, 110))
    assert resumed == {place: whole[place] for place in range(91 * LANES, 110 * LANES)}
    # And once more, from a checkpoint of the resumed run.
    states = through_json([rank.stream.state_dict() for rank in after])
    again = ranks_of(tiny, tokenizer, corpus, 1)
    again[0].stream.load_state_dict(states)
    assert again[0].step(109) == {place: whole[place] for place in range(109 * LANES, 110 * LANES)}


def test_resuming_tokenises_no_more_than_a_fresh_start(
    tiny: TinyWorld, tokenizer: Any, corpus: Path
) -> None:
    """After 1,000 blocks; counted without the thread that reads ahead of what is needed."""
    num_steps = 1000 // LANES
    keys = ("data.stream_group_documents=25",)
    spec = spec_of(tiny, [f"{corpus}/*.jsonl"] * 2, *keys)
    fresh, resumed = Rank(spec, tokenizer, 0), Rank(spec, tokenizer, 0)
    blocks_of([fresh], range(num_steps + 1))
    resumed.stream.load_state_dict(through_json([fresh.stream.state_dict()]))
    starts = {lane: resumed.stream._position(lane, num_steps)["mark"] for lane in range(LANES)}
    assert min(mark["group"] for mark in starts.values()) > 3 * LANES
    reader = LaneReader(TextStream(spec.data), resumed.reader, LANES, starts)
    for lane in range(LANES):
        assert reader.next_group(lane) is not None
    fresh_reader = RowReader(spec.data, tokenizer, None, is_stream=True)
    begin = LaneReader(
        TextStream(spec.data), fresh_reader, LANES, dict.fromkeys(range(LANES), START)
    )
    for lane in range(LANES):
        begin.next_group(lane)
    assert 0 < resumed.reader.num_tokenised <= 2 * fresh_reader.num_tokenised


def test_a_checkpoint_of_an_earlier_version_is_refused(
    tiny: TinyWorld, tokenizer: Any, corpus: Path
) -> None:
    rank = ranks_of(tiny, tokenizer, corpus, 1)[0]
    with pytest.raises(InputError, match=r"read streams in another order.\n.*another run_dir"):
        rank.step(3)


def test_a_stream_cannot_go_back(tiny: TinyWorld, tokenizer: Any, corpus: Path) -> None:
    rank = ranks_of(tiny, tokenizer, corpus, 1)[0]
    blocks_of([rank], range(30))
    with pytest.raises(AssertionError, match="cannot go back"):
        rank.step(0)


def test_the_end_of_the_text_is_reported(tiny: TinyWorld, tokenizer: Any, corpus: Path) -> None:
    rank = Rank(spec_of(tiny, [corpus / "1.jsonl"]), tokenizer, 0)
    with pytest.raises(InputError, match=r"ends after 0 steps: lane 1 of 8 .*\n.*num_steps"):
        rank.step(0)


def test_an_invalid_line_is_reported(tiny: TinyWorld, tokenizer: Any, tmp_path: Path) -> None:
    """It may come hours after the start: one message then names the checkpoint to resume from."""
    (tmp_path / "1.jsonl").write_text((tiny.folder / "train.jsonl").read_text())
    (tmp_path / "2.jsonl").write_text('{"title": "half a li\n')
    rank = Rank(spec_of(tiny, [f"{tmp_path}/*.jsonl"]), tokenizer, 0)
    with pytest.raises(InputError, match=r"cannot be read further: .+\n.*last checkpoint"):
        blocks_of([rank], range(1000))
    with pytest.raises(InputError, match="its first rows cannot be read"):
        source_of(spec_of(tiny, [tmp_path / "2.jsonl"]))


def test_text_files_are_streamed(tiny: TinyWorld, tokenizer: Any, tmp_path: Path) -> None:
    """Unlike those of .jsonl files, their columns are known only from their rows."""
    texts = [f"the house is {word}" for word in WORDS]
    (tmp_path / "text.txt").write_text("\n\n".join(texts) + "\n")
    keys = (
        f'data.train=[{{path="{tmp_path}/text.txt"}}]',
        "data.block_tokens=16",
        "data.heldout=[]",
        "data.heldout_fraction=0",
        "data.stream_group_documents=1000",
        "train.global_batch_blocks=1",
        "topology.num_students=1",
    )
    rank = source_of(spec_of(tiny, [], *keys))
    mapped = train_blocks(spec_of(tiny, [], *keys, "data.stream=false").data, tokenizer)
    assert [rank.get(place)[1] for place in range(len(mapped))] == list(mapped)
    (tmp_path / "text.txt").write_text("")
    with pytest.raises(InputError, match="its first rows cannot be read"):
        source_of(spec_of(tiny, [], *keys))


def test_a_streams_own_documents_are_not_evaluated_on(tiny: TinyWorld, corpus: Path) -> None:
    with pytest.raises(InputError, match=r"stream = true.*\n.*\[\[data.heldout\]\]"):
        heldout_documents_of(spec_of(tiny, [corpus / "0.jsonl"], "data.heldout=[]"))


def test_a_stream_of_conversations_is_packed_as_a_corpus_is(
    tiny: TinyWorld, tokenizer: Any, tmp_path: Path
) -> None:
    rows = [{"messages": messages_of([(f"what is {i}?", f"it is number {i}")])} for i in range(200)]
    rows.insert(3, {"messages": [{"role": "user", "content": "no answer"}]})
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = f'data.train=[{{path="{path}", format="chat", supervise="completions"}}]'
    keys = [source, "data.chat_template=plain", "data.heldout=[]", "data.heldout_fraction=0.2"]
    for packing in ("data.packing=blocks", "data.packing=none"):
        one_group = ("data.stream_group_documents=1000", "train.global_batch_blocks=1")
        spec = load_spec(
            tiny.spec_file,
            [
                *keys,
                packing,
                "data.stream=true",
                "student.layers=first",
                "topology.num_students=1",
                *one_group,
            ],
        )
        rank = source_of(spec)
        mapped = train_rows(
            load_spec(tiny.spec_file, [*keys, packing]).data, tokenizer, max_tokens=None
        )
        assert [rank.get(place)[1] for place in range(len(mapped))] == list(mapped)
