"""The nearest rows, against a slow search, and the nearest senses of other owners."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.dictionary.distances import exact_nearest
from dskd_ds.senses.look.forms import forms_of
from dskd_ds.senses.look.nearest import neighbours
from tests.unit.senses.look.known import owner_of


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), keep=st.integers(1, 12), rows_at_once=st.integers(1, 9))
def test_nearest_rows_are_those_of_a_slow_search(
    dictionary: SenseDictionary, seed: int, keep: int, rows_at_once: int
) -> None:
    queries = torch.randn(3, 32, generator=torch.Generator().manual_seed(seed)) * 20
    among = np.flatnonzero(np.random.default_rng(seed).random(dictionary.num_token_rows) < 0.7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dskd_ds.senses.dictionary.distances.SCAN_ROWS", rows_at_once)
        rows, distances = exact_nearest(dictionary, queries, among, keep)
    senses = dictionary.senses[torch.from_numpy(among)].double()
    exact = (queries[:, None].double() - senses).square().sum(dim=2).numpy()
    assert rows.shape == (3, min(keep, len(among)))
    tolerance = {"rtol": 1e-4, "atol": 1e-3}
    np.testing.assert_allclose(distances, np.sort(exact, axis=1)[:, :keep], **tolerance)
    for exact_of_query, found in zip(exact, rows, strict=True):
        of_found_rows = exact_of_query[np.searchsorted(among, found)]
        np.testing.assert_allclose(of_found_rows, np.sort(exact_of_query)[:keep], **tolerance)


def test_neighbours_are_other_owners_each_once(dictionary: SenseDictionary, tokenizer: Any) -> None:
    rows = forms_of(dictionary, tokenizer, "bank")[0].rows(dictionary)
    all_rows = np.arange(dictionary.num_token_rows)
    by_money, by_river, _ = neighbours(dictionary, rows, all_rows, 3)
    assert by_money[0].owner == owner_of(tokenizer, "money")
    assert by_money[0].distance == pytest.approx(1 / 32)
    assert by_river[0].owner == owner_of(tokenizer, "river")
    for found in (by_money, by_river):
        owners = {neighbour.owner for neighbour in found}
        assert len(owners - {owner_of(tokenizer, "bank")}) == 3
