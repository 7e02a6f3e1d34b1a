"""`dskd senses map`: the points, their layout, and the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dskd_ds.errors import InputError
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.look.map import choose_points, layout
from dskd_ds.senses.look.map_picture import draw_map


def test_the_points_are_the_words_senses_and_their_neighbours(
    dictionary: SenseDictionary, tokenizer: Any
) -> None:
    points = choose_points(dictionary, tokenizer, ["bank", "happy"])
    own = [point.label for point in points if point.share is not None]
    assert own == ["bank 1", "bank 2", "bank 3", "happy 1"]
    assert len({point.row for point in points}) == len(points)
    assert {point.label for point in points if point.share is None} >= {"river", "money", "glad"}
    assert all(points[point.neighbour_of].share is not None for point in points)


def test_the_picture_has_every_label_once(
    dictionary: SenseDictionary, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import textalloc
    from matplotlib import image

    labels: list[str] = []
    allocate = textalloc.allocate

    def recording(axes: Any, x: Any, y: Any, texts: list[str], **options: Any) -> Any:
        labels.extend(texts)
        result = allocate(axes, x, y, texts, **options)
        assert len(axes.texts) == len(texts)
        return result

    monkeypatch.setattr(textalloc, "allocate", recording)
    output = tmp_path / "new" / "map.png"
    points = draw_map(dictionary, tokenizer, ["bank", "happy"], output)
    assert labels == [point.label for point in points]
    picture = image.imread(output)
    assert picture.shape[0] > 900
    assert picture[..., :3].min() < 0.5


def test_layout_is_repeatable_and_keeps_groups_together() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(3).repeat_interleave(8)
    centres = 20 * torch.randn(3, 16, generator=generator)
    vectors = centres[groups] + torch.randn(24, 16, generator=generator)
    plane = layout(vectors)
    np.testing.assert_array_equal(plane, layout(vectors))
    distances = np.linalg.norm(plane[:, None] - plane[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argmin(axis=1)
    assert (groups.numpy()[nearest] == groups.numpy()).all()


def test_layout_of_three_points() -> None:
    assert layout(torch.randn(3, 16)).shape == (3, 2)


def test_a_map_of_too_many_words_is_refused(dictionary: SenseDictionary, tokenizer: Any) -> None:
    with pytest.raises(InputError, match="a map holds at most 8"):
        choose_points(dictionary, tokenizer, ["bank"] * 9)
