"""On-policy text of steps that are not done comes back, for any number of ranks."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from dskd_ds.data.batches import Sample, places
from dskd_ds.data.block import Block
from dskd_ds.models.resolve import load_tokenizer
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.student.on_policy import OnPolicyBlocks, WrittenBlock
from tests.conftest import TinyWorld

GLOBAL = 12


def blocks_of(tiny: TinyWorld, num_students: int, rank: int) -> OnPolicyBlocks:
    """Return the on-policy blocks of a rank, which cannot write text."""
    spec: RunSpec = load_spec(
        tiny.spec_file,
        [
            f"topology.num_students={num_students}",
            f"train.global_batch_blocks={GLOBAL}",
            "train.on_policy_fraction=1",
            "train.on_policy_prompt_tokens=8",
            "train.on_policy_new_tokens=6",
        ],
    )
    ends = SimpleNamespace(eos_token_id=0)
    config = SimpleNamespace(get_text_config=lambda: ends)
    model = SimpleNamespace(generation_config=ends, config=config)
    engine: Any = SimpleNamespace(module=SimpleNamespace(language_model=model))
    tokenizer = load_tokenizer(str(tiny.folder / "teacher"))
    return OnPolicyBlocks(spec, tokenizer, rank, source=None, engine=engine)  # type: ignore[arg-type]


def written(index: int) -> WrittenBlock:
    """Return a block that tells its index."""
    block = Block(
        input_ids=[index],
        segment_starts=[0],
        doc_digests=[7],
        doc_offsets=[0],
        unsupervised=[[0, 0]],
    )
    return WrittenBlock(Sample(0, index), block, num_tokens=index)


def states_of(tiny: TinyWorld, num_students: int, lacking: int | None = None) -> list[Any]:
    """Return the states of all ranks that have written steps 3 and 4. lacking: a rank without 4."""
    states = []
    for rank in range(num_students):
        blocks = blocks_of(tiny, num_students, rank)
        for step in (3, 4):
            if step == 4 and rank == lacking:
                continue
            own = [
                places(blocks._spec, step, micro, rank)
                for micro in range(blocks._spec.num_accumulation_steps)
            ]
            blocks._written[step] = {index: written(index) for part in own for index in part}
        states.append(json.loads(json.dumps(blocks.state_dict())))
    return states


@pytest.mark.parametrize(("num_saved", "num_loaded"), [(2, 2), (2, 1), (2, 4), (4, 3)])
def test_each_rank_gets_the_text_of_its_places(
    tiny: TinyWorld, num_saved: int, num_loaded: int
) -> None:
    states = states_of(tiny, num_saved)
    found: list[int] = []
    for rank in range(num_loaded):
        blocks = blocks_of(tiny, num_loaded, rank)
        blocks.load_state_dict(states)
        for micro in range(blocks._spec.num_accumulation_steps):
            for index in places(blocks._spec, 4, micro, rank):
                assert blocks.get(index) == (Sample(0, index), written(index).block)
                found.append(index)
    assert sorted(found) == list(range(4 * GLOBAL, 5 * GLOBAL))


def test_a_step_that_one_rank_had_not_written_is_written_again_by_all(tiny: TinyWorld) -> None:
    states = states_of(tiny, 2, lacking=1)
    for rank in range(2):
        blocks = blocks_of(tiny, 2, rank)
        blocks.load_state_dict(states)
        assert list(blocks._written) == [3]
