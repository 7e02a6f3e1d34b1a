"""A run that goes on with other numbers of ranks trains on every block once, in the same groups."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_ds.data.batches import places
from dskd_ds.spec import RunSpec, load_spec

MICRO, GLOBAL = 2, 24
NUM_STUDENTS = st.sampled_from([1, 2, 3, 4, 6, 12])


def spec_of(num_students: int) -> RunSpec:
    """Return the spec of a run with this number of students."""
    return load_spec(
        "tests/base_run.toml",
        [
            f"topology.num_students={num_students}",
            f"train.micro_batch_blocks={MICRO}",
            f"train.global_batch_blocks={GLOBAL}",
        ],
    )


@settings(max_examples=30)
@given(st.lists(NUM_STUDENTS, min_size=1, max_size=5))
def test_no_block_is_lost_or_repeated_when_the_number_of_ranks_changes(worlds: list[int]) -> None:
    """worlds: the number of students in each step."""
    micro_batches: list[range] = []
    for step, num_students in enumerate(worlds):
        spec = spec_of(num_students)
        for micro in range(spec.num_accumulation_steps):
            micro_batches += [places(spec, step, micro, rank) for rank in range(num_students)]
    trained = [place for batch in micro_batches for place in batch]
    assert trained == list(range(len(worlds) * GLOBAL))
    # A micro-batch is a request, so the teacher's replies are the same too.
    assert {batch.start % MICRO for batch in micro_batches} == {0}
    assert {len(batch) for batch in micro_batches} == {MICRO}
