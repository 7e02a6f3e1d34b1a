"""The sample on disk against a sort of everything in memory: any ranks, order, cuts and kills."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_ds.senses.build.spill import BackgroundSpill, Collected, Layout, Spill, rank_folder
from tests.unit.senses.build.rows import NUM_TOKENS, SIZE, keys, random_rows, slow_sample


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(0, 200),
    per_token=st.integers(1, 5),
    ranks=st.integers(1, 4),
    bucket_tokens=st.integers(1, 8),
    spill_rows=st.integers(1, 50),
    num_hashes=st.sampled_from([11, 2**63]),
)
def test_a_collection_does_not_depend_on_how_it_was_made(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    count: int,
    per_token: int,
    ranks: int,
    bucket_tokens: int,
    spill_rows: int,
    num_hashes: int,
) -> None:
    """Batches go to random ranks in random order, with random commits, kills and cuts.

    After a kill, batches that were not committed are given again.
    """
    rows = random_rows(seed, count, num_hashes)
    generator = np.random.default_rng(seed)
    work = tmp_path_factory.mktemp("work")
    row_bytes = rows.dtype.itemsize
    layout = Layout(
        SIZE,
        NUM_TOKENS,
        per_token,
        bucket_bytes=bucket_tokens * per_token * row_bytes,
        spill_bytes=spill_rows * row_bytes,
    )
    batches = dict(enumerate(np.array_split(rows, 12)))
    while left := [index for index in batches if index not in Collected(work, layout).batches]:
        for rank in range(int(generator.integers(1, ranks + 1))):
            spill = Spill(rank_folder(work, rank), layout)
            for index in generator.permutation(left[rank::ranks]):
                spill.add(batches[int(index)], int(index))
                if generator.random() < 0.3:
                    spill.commit()
            if generator.random() < 0.5:
                spill.commit()  # otherwise the rank is killed here
    collected = Collected(work, layout)
    assert [key for part in collected for key in keys(part)] == slow_sample(rows, per_token)
    found = np.concatenate([rows[:0], *collected])
    expected_states = (found["token"] * 1000 + found["position"]).astype(np.uint16)
    np.testing.assert_array_equal(found["state"][:, 0], expected_states)


def test_the_disk_is_bounded(tmp_path: Path) -> None:
    per_token = 10
    row_bytes = random_rows(0, 1).itemsize
    layout = Layout(SIZE, NUM_TOKENS, per_token, bucket_bytes=per_token * row_bytes, spill_bytes=1)
    spill = Spill(rank_folder(tmp_path, 0), layout)
    for batch in range(200):
        spill.add(random_rows(batch, 50), batch)
        if batch % 10 == 9:
            spill.commit()
            file_bytes = sum(path.stat().st_size for path in spill.folder.glob("*.rows"))
            assert file_bytes // row_bytes <= NUM_TOKENS * 2 * per_token


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


def test_an_error_of_the_background_thread_is_raised(tmp_path: Path) -> None:
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
    progress = json.loads((rank_folder(tmp_path, 0) / "progress.json").read_text())
    assert 17 in progress["batches"]
    spill.close()
