"""The bench of kept teacher signal: ratios are taken within a pair."""

from __future__ import annotations

from pathlib import Path

import pytest

from dskd_ds.bench.signal_cache import Launches, Pair, figures
from dskd_ds.errors import InputError


def test_the_speed_up_is_the_median_of_the_pairs() -> None:
    pairs = [Pair(live=live, cache=cache) for live, cache in ((2.0, 1.0), (9.0, 3.0), (4.0, 4.0))]
    speed_up, size = figures(pairs, bytes_per_token=320.0, tokens_per_step=512)
    assert (speed_up.value, speed_up.reached) == (2.0, True)
    assert speed_up.notes["tokens/s, live"] == "128.0"
    assert speed_up.notes["ratio of each pair"] == "2.00, 3.00, 1.00"
    assert size.value == 320.0


def test_the_quickstart_must_have_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dskd_ds.bench.signal_cache.INIT_FOLDER", str(tmp_path / "nothing is here"))
    with pytest.raises(InputError, match="run make quickstart first"):
        Launches("tests/base_run.toml", tmp_path)
