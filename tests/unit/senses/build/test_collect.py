"""Forward batches, the tokens that states are attributed to, and errors of the work folder."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dskd_ds.data.batches import IGNORE
from dskd_ds.data.packing import Segment, block_row
from dskd_ds.errors import InputError
from dskd_ds.models.frozen import FrozenModel
from dskd_ds.runtime.mpi import Communicator
from dskd_ds.senses.build.collect import (
    ForwardBatch,
    attributed,
    attribution,
    collect,
    forward_batches,
    whole_collection,
)
from dskd_ds.senses.build.spill import Layout, Spill, rank_folder
from dskd_ds.spec import load_spec
from dskd_ds.spec.senses import SensesSpec
from tests.conftest import TinyWorld
from tests.of_spec import teacher_of, train_blocks_of
from tests.unit.conftest import T
from tests.unit.senses.build.rows import NUM_TOKENS, SIZE, random_rows


@given(
    num_blocks=st.integers(1, 30),
    block_tokens=st.sampled_from([256, 512, 1024, 4096]),
    num_tokens=st.integers(1, 40_000),
)
def test_batches_are_full_and_read_each_block_once(
    num_blocks: int, block_tokens: int, num_tokens: int
) -> None:
    batches = forward_batches(num_blocks, block_tokens, num_tokens, 0)
    read = [block for batch in batches for block in batch.blocks]
    assert len(read) == len(set(read)) >= 1
    # One shape: the result does not depend on which rank reads the last batch.
    assert len({len(batch.blocks) for batch in batches}) == 1
    assert [batch.index for batch in batches] == list(range(len(batches)))


def test_no_state_of_padding_or_a_bos_token_is_collected(teacher: FrozenModel) -> None:
    """The arg-max attributes states of padding to tokens too."""
    row = block_row([Segment([3, 4, 5], [(0, 1)], digest=9, offset=0)], T, 0)
    spec: Any = SimpleNamespace(
        data=SimpleNamespace(block_tokens=T), seed=0, senses=SensesSpec(dictionary="-")
    )
    batch = ForwardBatch(0, (0,))
    without_bos = attributed(teacher, [row], batch, spec, begin=[])
    assert without_bos["position"].tolist() == [0, 1, 2]
    with_bos = attributed(teacher, [row], batch, spec, begin=[3])
    assert with_bos["position"].tolist() == [1, 2]


def test_a_state_may_belong_to_the_token_that_it_sits_on(teacher: FrozenModel) -> None:
    row = block_row([Segment([3, 4, 5], [(0, 1)], digest=9, offset=0)], T, 0)
    spec: Any = SimpleNamespace(
        data=SimpleNamespace(block_tokens=T),
        seed=0,
        senses=SensesSpec(dictionary="-", attribution="on"),
    )
    found = attributed(teacher, [row], ForwardBatch(0, (0,)), spec, begin=[])
    assert found["token"].tolist() == [3, 4, 5]
    assert found["position"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(("layer", "kept"), [(1, [1, 2]), (-1, [0, 1, 2])])
def test_sinks_are_left_out_below_the_last_layer(layer: int, kept: list[int]) -> None:
    row = block_row([Segment([3, 4, 5], [(0, 1)], digest=9, offset=0)], T, 0)
    spec: Any = SimpleNamespace(
        data=SimpleNamespace(block_tokens=T),
        seed=0,
        senses=SensesSpec(dictionary="-", attribution="on", hidden_layer=layer),
    )
    states = torch.ones(1, T, 4)
    states[0, 0] = 11.0  # 121 times the squared length of the others
    teacher: Any = SimpleNamespace(states_of_layer=lambda *_: (states, states))
    found = attributed(teacher, [row], ForwardBatch(0, (0,)), spec, begin=[])
    assert found["position"].tolist() == kept


@given(
    seed=st.integers(0, 1000),
    min_confidence=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    mode=st.sampled_from(["argmax", "next"]),
)
def test_attribution_and_confidence(seed: int, min_confidence: float, mode: Any) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(600, 9, generator=generator) * 3
    ignored = torch.rand(600, generator=generator) < 0.1
    following = torch.randint(0, 9, (600,), generator=generator)
    targets = torch.where(ignored, IGNORE, following)
    teacher: Any = SimpleNamespace(logits=lambda hidden: hidden)
    senses = SensesSpec(dictionary="-", attribution=mode, min_confidence=min_confidence)
    found = attribution(teacher, logits, targets, senses)
    probabilities = logits.double().softmax(dim=1)
    for row in range(600):
        token = int(probabilities[row].argmax()) if mode == "argmax" else int(targets[row])
        sure = token != IGNORE and probabilities[row, token] >= min_confidence
        assert int(found[row]) == (token if sure else IGNORE)


@pytest.mark.parametrize("path", [Path("/dev/full"), Path("/proc/sys/kernel")])
def test_only_a_full_disk_becomes_an_input_error(
    tiny: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    """What is written to /dev/full does not fit; /proc/sys/kernel is a folder."""
    monkeypatch.setattr("dskd_ds.senses.build.spill.bucket_path", lambda *_: path)
    spec = load_spec(tiny.spec_file)
    expected = InputError if path.name == "full" else IsADirectoryError
    with pytest.raises(expected, match=r"No space left|Is a directory"):
        collect(spec, teacher_of(spec), train_blocks_of(spec), tmp_path / "work", Communicator())


def test_a_rank_that_does_not_see_the_others_files_reports_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dskd_ds.senses.build.collect.VISIBLE_SECONDS", 0.0)
    layout = Layout(SIZE, NUM_TOKENS, 3)
    spill = Spill(rank_folder(tmp_path, 0), layout)
    spill.add(random_rows(0, 10), 0)
    spill.commit()
    assert whole_collection(tmp_path, layout, 1).batches == {0}
    expected = r"sees only 1 of 2 forward batches.*\n.*a disk that all nodes share"
    with pytest.raises(InputError, match=expected):
        whole_collection(tmp_path, layout, 2)
