"""The clustering benches' error and counts of WordNet's senses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dskd_ds.bench.adaptive import wordnet_sense_counts
from dskd_ds.bench.states import quantisation_error
from dskd_ds.senses.dictionary.senses import Senses


def test_quantisation_error_uses_the_senses_of_a_states_token_only() -> None:
    senses = Senses(
        np.array([2, 2, 5]),
        torch.tensor([[0.0, 0.0], [4.0, 0.0], [1.0, 1.0]]),
        np.ones(3, np.int64),
    )
    states = torch.tensor([[3.0, 1.0], [1.0, 1.0], [9.0, 9.0]])
    # Token 7 has no sense, so its state is left out.
    error = quantisation_error(senses, np.array([2, 5, 7]), states)
    assert error == pytest.approx((1.0 + 0.0) / 2)
    # Token 5 has a sense equal to this state, but token 2 has not.
    assert quantisation_error(senses, np.array([2]), states[1:2]) == pytest.approx(1.0)


def test_wordnet_sense_counts_add_parts_of_speech(tmp_path: Path) -> None:
    lines = {
        "noun": "  1 licence\nbank n 10 3 @ ~ # 10 5 08420278\n",
        "verb": "bank v 8 2 @ ~ 8 1 02343056\n",
        "adj": "",
        "adv": "",
    }
    for part, text in lines.items():
        (tmp_path / f"index.{part}").write_text(text)
    assert wordnet_sense_counts(tmp_path) == {"bank": 18}
