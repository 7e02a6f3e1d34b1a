"""The sample on disk against sorting everything in memory: any split over ranks, any order, cuts, restarts."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
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
from dskd_ds.senses.build.spill import BackgroundSpill, Collected, Layout, Spill, rank_folder
from dskd_ds.senses.build.vectors import (
    Rows,
    is_held_out,
    is_text,
    make_rows,
    position_hashes,
    smallest,
)
from dskd_ds.spec import load_spec
from dskd_ds.spec.senses import SensesSpec
from tests.conftest import TinyWorld
from tests.of_spec import teacher_of, train_blocks_of
from tests.unit.conftest import T

NUM_TOKENS, SIZE = 7, 2


def random_rows(seed: int, number: int, num_hashes: int = 2**63) -> Rows:
    """Rows whose state follows from token, hash and place, so that a mix-up shows."""
    generator = np.random.default_rng(seed)
    tokens, places = generator.integers(0, NUM_TOKENS, number), generator.permutation(number)
    hashes = generator.integers(0, num_hashes, number).astype(np.uint64)
    states = np.stack([tokens * 1000 + places, hashes % np.uint64(60_000)], axis=1).astype(
        np.uint16
    )
    return make_rows(tokens, hashes, places, states)


def slow_sample(rows: Rows, per_token: int) -> list[tuple[int, int, int]]:
    """(token, hash, place) of the sample, by brute force."""
    found: dict[int, dict[int, int]] = {}
    for row in rows:
        places = found.setdefault(int(row["token"]), {})
        places[int(row["hash"])] = min(int(row["place"]), places.get(int(row["hash"]), 2**62))
    return [
        (token, hash_, found[token][hash_])
        for token in sorted(found)
        for hash_ in sorted(found[token])[:per_token]
    ]


def keys(rows: Rows) -> list[tuple[int, int, int]]:
    return [(int(row["token"]), int(row["hash"]), int(row["place"])) for row in rows]


@given(
    seed=st.integers(0, 1000),
    number=st.integers(0, 80),
    per_token=st.integers(1, 6),
    num_hashes=st.sampled_from([5, 2**63]),
)
def test_smallest(seed: int, number: int, per_token: int, num_hashes: int) -> None:
    rows = random_rows(seed, number, num_hashes)
    assert keys(smallest(rows, per_token)) == slow_sample(rows, per_token)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    number=st.integers(0, 200),
    per_token=st.integers(1, 5),
    ranks=st.integers(1, 4),
    bucket_tokens=st.integers(1, 8),
    spill_rows=st.integers(1, 50),
    num_hashes=st.sampled_from([11, 2**63]),
)
def test_a_collection_does_not_depend_on_how_it_was_made(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    number: int,
    per_token: int,
    ranks: int,
    bucket_tokens: int,
    spill_rows: int,
    num_hashes: int,
) -> None:
    """Batches go to ranks at random and in any order; commits, kills (what is not committed is given again) and cuts come at random."""
    rows = random_rows(seed, number, num_hashes)
    generator = np.random.default_rng(seed)
    work = tmp_path_factory.mktemp("work")
    size = rows.dtype.itemsize
    layout = Layout(
        SIZE,
        NUM_TOKENS,
        per_token,
        bucket_bytes=bucket_tokens * per_token * size,
        spill_bytes=spill_rows * size,
    )
    batches = dict(enumerate(np.array_split(rows, 12)))
    while left := [i for i in batches if i not in Collected(work, layout).batches]:
        for rank in range(int(generator.integers(1, ranks + 1))):
            spill = Spill(rank_folder(work, rank), layout)
            for i in generator.permutation(left[rank::ranks]):
                spill.add(batches[int(i)], int(i))
                if generator.random() < 0.3:
                    spill.commit()
            if generator.random() < 0.5:
                spill.commit()  # otherwise the rank is killed here
    collected = Collected(work, layout)
    assert [key for part in collected for key in keys(part)] == slow_sample(rows, per_token)
    found = np.concatenate([rows[:0], *collected])
    np.testing.assert_array_equal(
        found["state"][:, 0], (found["token"] * 1000 + found["place"]).astype(np.uint16)
    )


def test_the_disk_is_bounded(tmp_path: Path) -> None:
    per_token = 10
    layout = Layout(
        SIZE,
        NUM_TOKENS,
        per_token,
        bucket_bytes=per_token * random_rows(0, 1).itemsize,
        spill_bytes=1,
    )
    spill = Spill(rank_folder(tmp_path, 0), layout)
    for batch in range(200):
        rows = random_rows(batch, 50)
        spill.add(rows, batch)
        held = sum(path.stat().st_size for path in spill.folder.glob("*.rows")) // rows.itemsize
        if batch % 10 == 9:
            spill.commit()
            held = sum(path.stat().st_size for path in spill.folder.glob("*.rows")) // rows.itemsize
            assert held <= NUM_TOKENS * 2 * per_token


def test_what_a_kill_left_beyond_the_commit_is_cut_off(tmp_path: Path) -> None:
    layout = Layout(SIZE, NUM_TOKENS, 100)
    folder = rank_folder(tmp_path, 0)
    spill = Spill(folder, layout)
    spill.add(random_rows(0, 20), 0)
    spill.commit()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (path,) = folder.glob("*.rows")
    with path.open("ab") as file:
        file.write(b"half a row")
    (folder / "000000.9.rows").write_bytes(b"of a cut that was never committed")
    Spill(folder, layout)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_background_thread_says_what_went_wrong(tmp_path: Path) -> None:
    spill = BackgroundSpill(Spill(rank_folder(tmp_path, 0), Layout(SIZE, NUM_TOKENS, 100)))
    rows = random_rows(0, 5)
    rows["token"] = NUM_TOKENS + 1
    spill.add(rows, 0)
    with pytest.raises(IndexError):
        spill.close()
    assert not (rank_folder(tmp_path, 0) / "progress.json").exists()


def test_the_first_batch_is_committed_at_once(tmp_path: Path) -> None:
    spill = BackgroundSpill(Spill(rank_folder(tmp_path, 0), Layout(SIZE, NUM_TOKENS, 100)))
    spill.add(random_rows(0, 5), 17)
    spill.add(random_rows(1, 5), 18)  # waits for the one before
    assert 17 in json.loads((rank_folder(tmp_path, 0) / "progress.json").read_text())["batches"]
    spill.close()


def test_position_hashes_name_a_position_of_a_document_wherever_it_is_packed() -> None:
    here = position_hashes(
        0, {"segment_starts": [0, 3], "doc_digests": [11, -7], "doc_offsets": [5, 0]}, 8
    )
    there = position_hashes(0, {"segment_starts": [0], "doc_digests": [-7], "doc_offsets": [2]}, 8)
    np.testing.assert_array_equal(here[5:8], there[:3])
    assert len(set(here.tolist())) == 8
    assert not np.array_equal(
        here,
        position_hashes(
            1, {"segment_starts": [0, 3], "doc_digests": [11, -7], "doc_offsets": [5, 0]}, 8
        ),
    )


def test_no_state_is_collected_from_padding(teacher: FrozenModel) -> None:
    """Of a chat that leaves most of its block free; the arg-max belongs to some token there too."""
    row = block_row([Segment([3, 4, 5], [(0, 1)], digest=9, offset=0)], T, 0)
    spec: Any = SimpleNamespace(
        data=SimpleNamespace(block_tokens=T), seed=0, senses=SensesSpec(dictionary="-")
    )
    assert attributed(teacher, [row], ForwardBatch(0, (0,)), spec, [])["place"].tolist() == [
        0,
        1,
        2,
    ]
    assert attributed(teacher, [row], ForwardBatch(0, (0,)), spec, [3])["place"].tolist() == [
        1,
        2,
    ]  # nor from a BOS token
    assert is_text(block_row([Segment([1] * T, [], digest=-9, offset=0)], T, 0), T, [0]).all()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_full_disk_is_one_message(
    tiny: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """And nothing else is called so."""

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Spill, "_append", fail)
    spec = load_spec(tiny.spec_file)
    with pytest.raises(
        InputError if number == errno.ENOSPC else PermissionError, match=os.strerror(number)
    ):
        collect(spec, teacher_of(spec), train_blocks_of(spec), tmp_path / "work", Communicator())


def test_ranks_that_do_not_see_each_other_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dskd_ds.senses.build.collect.VISIBLE_SECONDS", 0.0)
    layout = Layout(SIZE, NUM_TOKENS, 3)
    spill = Spill(rank_folder(tmp_path, 0), layout)
    spill.add(random_rows(0, 10), 0)
    spill.commit()
    assert whole_collection(tmp_path, layout, 1).batches == {0}
    with pytest.raises(
        InputError, match=r"1 of 2 forward batches are there.*\n.*a disk that all nodes share"
    ):
        whole_collection(tmp_path, layout, 2)


def test_the_sample_is_uniform() -> None:
    """Every position of a long document is as likely as any other to be in the sample: which tenth of it do the samples come from?"""
    counts = np.zeros(10)
    for seed in range(400):
        hashes = position_hashes(
            seed, {"segment_starts": [0], "doc_digests": [123], "doc_offsets": [0]}, 1000
        )
        rows = make_rows(
            np.zeros(1000, np.int64), hashes, np.arange(1000), np.zeros((1000, 1), np.uint16)
        )
        counts += np.bincount(smallest(rows, 20)["place"] // 100, minlength=10)
    assert ((counts - 800) ** 2 / 800).sum() < 27.9  # chi-squared, 9 degrees of freedom: 1 in 1,000
    everything = position_hashes(
        0, {"segment_starts": [0], "doc_digests": [5], "doc_offsets": [0]}, 64_000
    )
    held_out = is_held_out(
        make_rows(
            np.zeros(64_000, np.int64),
            everything,
            np.arange(64_000),
            np.zeros((64_000, 1), np.uint16),
        )
    )
    assert 850 < held_out.sum() < 1150  # 1 in 64


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
    assert (
        len({len(batch.blocks) for batch in batches}) == 1
    )  # one shape: results do not depend on which rank has the last one
    assert [batch.number for batch in batches] == list(range(len(batches)))


@given(
    seed=st.integers(0, 1000),
    min_confidence=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    way=st.sampled_from(["argmax", "next"]),
)
@settings(deadline=None)
def test_attribution_and_confidence(seed: int, min_confidence: float, way: Any) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(600, 9, generator=generator) * 3
    targets = torch.where(
        torch.rand(600, generator=generator) < 0.1,
        IGNORE,
        torch.randint(0, 9, (600,), generator=generator),
    )
    teacher: Any = SimpleNamespace(logits=lambda hidden: hidden)
    found = attribution(
        teacher,
        logits,
        targets,
        SensesSpec(dictionary="-", attribution=way, min_confidence=min_confidence),
    )
    probabilities = logits.double().softmax(dim=1)
    for row in range(600):
        token = int(probabilities[row].argmax()) if way == "argmax" else int(targets[row])
        sure = token != IGNORE and probabilities[row, token] >= min_confidence
        assert int(found[row]) == (token if sure else IGNORE)
