"""The order of a mixture of weighted sources."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_ds.data.mixture import WeightedBlocks, WeightedSource

SOURCES = st.lists(
    st.tuples(st.integers(1, 40), st.integers(1, 2000), st.floats(0.001, 1000)),
    min_size=1,
    max_size=5,
)
"""(blocks, tokens per block, weight) of each source."""


def mixture_of(sources: list[tuple[int, int, float]]) -> WeightedBlocks:
    parts: list[Any] = []
    for index, (num_blocks, block_tokens, weight) in enumerate(sources):
        blocks: Any = [(index, number) for number in range(num_blocks)]
        parts.append(WeightedSource(blocks, num_blocks * block_tokens, weight))
    return WeightedBlocks(parts, seed=3)


@settings(max_examples=50)
@given(SOURCES, st.integers(1, 400))
def test_every_beginning_has_its_shares(sources: list[tuple[int, int, float]], count: int) -> None:
    mixture = mixture_of(sources)
    located = [mixture.locate(place) for place in range(count)]
    numbers = Counter(source for source, _ in located)
    # Each source's blocks come one after the other, none twice and none left out.
    for source in numbers:
        assert [number for own, number in located if own == source] == list(range(numbers[source]))
    rates = [weight / block_tokens for _, block_tokens, weight in sources]
    for source, rate in enumerate(rates):
        assert abs(numbers[source] - count * rate / sum(rates)) < len(sources) + 0.01


@settings(max_examples=50)
@given(SOURCES)
def test_a_source_is_read_whole_before_it_begins_again(
    sources: list[tuple[int, int, float]],
) -> None:
    mixture = mixture_of(sources)
    read: dict[int, list[int]] = {index: [] for index in range(len(sources))}
    for place in range(300):
        sample, (source, number) = mixture.get(place)  # type: ignore[misc]
        assert mixture.source_of(sample) == source
        assert sample.epoch == len(read[source]) // sources[source][0]
        read[source].append(number)
    for source, (num_blocks, _, _) in enumerate(sources):
        whole = len(read[source]) // num_blocks * num_blocks
        assert sorted(read[source][:whole]) == sorted(
            list(range(num_blocks)) * (whole // num_blocks)
        )


def test_any_place_is_found_at_once() -> None:
    mixture = mixture_of([(10, 7, 1.0), (1000, 13, 0.5), (3, 1, 0.25)])
    far = mixture.locate(10**15)
    assert far == mixture.locate(10**15)
    before = mixture.locate(10**15 - 1)
    assert far != before
