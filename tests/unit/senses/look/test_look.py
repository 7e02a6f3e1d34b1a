"""Looking at a dictionary: words, nearest senses, show, map, projector, stats, on a dictionary whose geometry is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_ds.commands import cli
from dskd_ds.errors import InputError
from dskd_ds.lexicon.relations import TokenRelations
from dskd_ds.models.resolve import load_tokenizer, model_fingerprint, tokenizer_fingerprint
from dskd_ds.senses.dictionary.contexts import Context, contexts_table
from dskd_ds.senses.dictionary.dictionary import SenseDictionary, open_dictionary, write_dictionary
from dskd_ds.senses.dictionary.distances import exact_nearest
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.senses.look import map as sense_map
from dskd_ds.senses.look import show, stats
from dskd_ds.senses.look.forms import forms_of, near_words, words_with_senses
from dskd_ds.senses.look.map_picture import draw_map
from dskd_ds.senses.look.nearest import neighbours
from dskd_ds.senses.look.projector import COLUMNS, export_projector
from tests.conftest import TinyWorld

COUNTS = {
    "bank": (30, 50, 20),
    "river": (8, 2),
    "money": (5, 5),
    "happy": (3,),
    "sad": (1, 1),
    "glad": (40, 2),
}
PLACES = {
    "bank": ((0, 0), (9, 0), (20, 20)),
    "river": ((0, 1), (30, 0)),
    "money": ((9, 1), (9, 3)),
    "happy": ((50, 0),),
    "sad": ((50, 4), (50, 8)),
    "glad": ((50, 1), (60, 0)),
}
"""word -> its senses' first two dimensions; the others are 0. bank 2 lies by the river, bank 1 by the money."""


@pytest.fixture(scope="module")
def tokenizer(tiny: TinyWorld) -> Any:
    return load_tokenizer(str(tiny.folder / "teacher"))


@pytest.fixture(scope="module")
def dictionary(
    tiny: TinyWorld, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> SenseDictionary:
    token = {word: tokenizer(f" {word}")["input_ids"][0] for word in COUNTS}
    words = sorted(COUNTS, key=lambda word: token[word])
    owners = np.array([token[word] for word in words for _ in COUNTS[word]])
    centroids = torch.zeros(len(owners), 32)
    centroids[:, :2] = torch.tensor(
        [place for word in words for place in PLACES[word]], dtype=torch.float32
    )
    counts = np.array([count for word in words for count in COUNTS[word]])
    relations = TokenRelations(
        {token["happy"]: [token["glad"], 500]},
        {token["happy"]: [token["sad"]], token["sad"]: [token["happy"]]},
        [(token["bank"], token["money"])],
    )
    folder = tmp_path_factory.mktemp("look") / "senses"
    facts = {
        "vocab_size": 500,
        "layer": -1,
        "teacher": model_fingerprint(str(tiny.folder / "teacher")),
        "tokenizer": tokenizer_fingerprint(tokenizer),
    }
    found = [Context(f"text\tbefore {row}", " word", "\nafter") for row in range(len(owners))]
    senses = Senses(
        owners, centroids, counts, np.linspace(0.1, 1.0, len(owners)).astype(np.float32)
    )
    write_dictionary(
        folder,
        senses,
        relations,
        facts,
        4,
        [contexts_table(range(len(owners)), [0] * len(owners), found)],
    )
    return open_dictionary(folder)


def owner(tokenizer: Any, word: str) -> int:
    return int(tokenizer(f" {word}")["input_ids"][0])


def test_forms_of_a_word(dictionary: SenseDictionary, tokenizer: Any) -> None:
    (form,) = forms_of(dictionary, tokenizer, "Bank")  # only the lower-case form has senses
    assert (form.text, form.owner) == ("bank", owner(tokenizer, "bank"))
    assert dictionary.sense_counts[form.rows(dictionary)].tolist() == [50, 30, 20]
    (phrase,) = forms_of(dictionary, tokenizer, "bank money")
    assert phrase.owner == 500


def test_an_unknown_word_is_explained(dictionary: SenseDictionary, tokenizer: Any) -> None:
    with pytest.raises(
        InputError,
        match=r"banq: it has no senses in .*: its tokens are ' .*' .*\n  words with .* spelt like it: bank",
    ):
        forms_of(dictionary, tokenizer, "banq")
    with pytest.raises(InputError, match="it is a token, but the teacher's text gave it no vector"):
        forms_of(dictionary, tokenizer, "city")
    assert near_words(dictionary, tokenizer, "BANK")[0] == "bank"


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), keep=st.integers(1, 12), at_once=st.integers(1, 9))
def test_nearest_rows_are_those_of_a_slow_search(
    dictionary: SenseDictionary, seed: int, keep: int, at_once: int
) -> None:
    queries = torch.randn(3, 32, generator=torch.Generator().manual_seed(seed)) * 20
    among = np.flatnonzero(np.random.default_rng(seed).random(dictionary.num_token_rows) < 0.7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dskd_ds.senses.dictionary.distances.SCAN_ROWS", at_once)
        rows, distances = exact_nearest(dictionary, queries, among, keep)
    exact = (
        (queries[:, None].double() - dictionary.senses[torch.from_numpy(among)].double())
        .square()
        .sum(dim=2)
        .numpy()
    )
    assert rows.shape == (3, min(keep, len(among)))
    np.testing.assert_allclose(distances, np.sort(exact, axis=1)[:, :keep], rtol=1e-4, atol=1e-3)
    for line, found in zip(exact, rows, strict=True):
        np.testing.assert_allclose(
            line[np.searchsorted(among, found)], np.sort(line)[:keep], rtol=1e-4, atol=1e-3
        )


def test_neighbours_are_other_owners_each_once(dictionary: SenseDictionary, tokenizer: Any) -> None:
    rows = forms_of(dictionary, tokenizer, "bank")[0].rows(dictionary)
    everything = np.arange(dictionary.num_token_rows)
    by_money, by_river, _ = neighbours(dictionary, rows, everything, 3)
    assert by_money[0].owner == owner(tokenizer, "money")
    assert by_money[0].distance == pytest.approx(1 / 32)
    assert by_river[0].owner == owner(tokenizer, "river")
    for line in (by_money, by_river):
        assert len({n.owner for n in line} - {owner(tokenizer, "bank")}) == 3


def test_show(dictionary: SenseDictionary, tokenizer: Any) -> None:
    (view,) = show.look_up(dictionary, tokenizer, "bank")
    assert [(sense.number, sense.count, sense.share) for sense in view.senses] == [
        (1, 50, 0.5),
        (2, 30, 0.3),
        (3, 20, 0.2),
    ]
    assert [sense.nearest[0].word for sense in view.senses[:2]] == ["money", "river"]
    (happy,) = show.look_up(dictionary, tokenizer, "happy")
    assert (happy.synonyms, happy.antonyms) == (["glad", "bank money"], ["sad"])
    text = show.render(view)
    assert "sense 1: 50% of the vectors (50)" in text
    assert "»word« after" in text
    (phrase,) = show.look_up(dictionary, tokenizer, "bank money")
    assert "composed from the senses of its tokens" in show.render(phrase)


@given(
    left=st.text(" ab", max_size=30), right=st.text(" ab\n", max_size=30), width=st.integers(4, 12)
)
def test_snippets_keep_the_token_in_its_column(left: str, right: str, width: int) -> None:
    text = show.snippet(Context(left, " bank", right), width)
    assert text.index("»") == width
    assert "\n" not in text
    assert len(text) <= 2 * width + 6


def test_map_has_every_sense_and_label_once(
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
    points = draw_map(dictionary, tokenizer, ["bank", "happy"], tmp_path / "new" / "map.png")
    assert [point.label for point in points if point.share is not None] == [
        "bank 1",
        "bank 2",
        "bank 3",
        "happy 1",
    ]
    assert labels == [point.label for point in points]
    assert len({point.row for point in points}) == len(points)
    assert {point.label for point in points if point.share is None} >= {"river", "money", "glad"}
    assert all(points[point.beside].share is not None for point in points)
    picture = image.imread(tmp_path / "new" / "map.png")
    assert picture.shape[0] > 900
    assert picture[..., :3].min() < 0.5


def test_layout_is_the_same_each_time_and_keeps_groups_together() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(3).repeat_interleave(8)
    vectors = 20 * torch.randn(3, 16, generator=generator)[groups] + torch.randn(
        24, 16, generator=generator
    )
    plane = sense_map.layout(vectors)
    np.testing.assert_array_equal(plane, sense_map.layout(vectors))
    gaps = np.linalg.norm(plane[:, None] - plane[None], axis=2)
    np.fill_diagonal(gaps, np.inf)
    assert (groups.numpy()[gaps.argmin(axis=1)] == groups.numpy()).all()
    assert sense_map.layout(vectors[:3]).shape == (3, 2)


def test_a_map_of_too_many_words_is_refused(dictionary: SenseDictionary, tokenizer: Any) -> None:
    with pytest.raises(InputError, match="a map holds at most 8"):
        sense_map.choose_points(dictionary, tokenizer, ["bank"] * 9)


def test_projector_files_are_what_tensorboard_reads(
    dictionary: SenseDictionary, tokenizer: Any, tmp_path: Path
) -> None:
    from google.protobuf import text_format
    from tensorboard.plugins.projector import ProjectorConfig
    from tensorboard.plugins.projector.projector_plugin import _read_tensor_tsv_file

    assert export_projector(dictionary, tokenizer, tmp_path / "out", 5) == 5
    config = text_format.Parse(
        (tmp_path / "out" / "projector_config.pbtxt").read_text(), ProjectorConfig()
    )
    (embedding,) = config.embeddings
    tensor = _read_tensor_tsv_file(str(tmp_path / "out" / embedding.tensor_path))
    lines = [
        line.split("\t")
        for line in (tmp_path / "out" / embedding.metadata_path).read_text().splitlines()
    ]
    assert tensor.shape == (5, 32)
    assert tuple(lines[0]) == COLUMNS
    assert [line[0] for line in lines[1:]] == ["bank 1", "glad 1", "bank 2", "bank 3", "river 1"]
    assert all(len(line) == len(COLUMNS) for line in lines)
    assert lines[1][3:5] == ["50", "0.500"]
    np.testing.assert_array_equal(tensor[0, :2], (9, 0))
    (tmp_path / "out" / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="holds other files"):
        export_projector(dictionary, tokenizer, tmp_path / "out", 5)


def test_stats(dictionary: SenseDictionary, tokenizer: Any, tmp_path: Path) -> None:
    found = stats.measure(dictionary, tokenizer)
    assert (found.num_tokens, found.num_words, found.num_token_rows, found.num_vectors) == (
        6,
        6,
        12,
        sum(map(sum, COUNTS.values())),
    )
    assert found.senses_per_token == {
        "least": 1,
        "quarter": 2,
        "median": 2,
        "three_quarters": 2,
        "most": 3,
        "mean": 2,
    }
    assert found.share_of_tokens_with == pytest.approx(
        {"synonyms": 1 / 6, "antonyms": 2 / 6, "either": 2 / 6}
    )
    assert found.share_of_vectors_with["antonyms"] == pytest.approx(5 / found.num_vectors)
    assert [item.word for item in found.polysemous] == ["bank", "glad"]
    places, weights = np.array([(0, 0), (9, 0), (20, 20)], float), np.array([0.3, 0.5, 0.2])
    mean = weights @ places
    assert found.polysemous[0].dispersion == pytest.approx(
        weights @ ((places - mean) ** 2).sum(axis=1) / 32, rel=1e-5
    )
    assert found.distances.median_antonym_distance == pytest.approx(16 / 32)
    assert "bank" in stats.render(found)
    stats.draw(dictionary, tmp_path / "stats.png")
    assert (tmp_path / "stats.png").read_bytes()[1:4] == b"PNG"


def test_words_are_whole(dictionary: SenseDictionary, tokenizer: Any) -> None:
    assert set(words_with_senses(dictionary, tokenizer).values()) == set(COUNTS)


def test_commands(
    dictionary: SenseDictionary, tiny: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [
        str(tiny.spec_file),
        "--set",
        f"senses.dictionary={dictionary.folder}",
        "--set",
        f"run_dir={tmp_path}",
    ]
    assert cli.main(["senses", "show", common[0], "bank", *common[1:], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["senses"][0]["nearest"][0]["word"] == "money"
    assert cli.main(["senses", "map", common[0], "bank", "river", *common[1:]]) == 0
    assert (tmp_path / "senses-bank-river.png").stat().st_size > 10_000
    assert cli.main(["senses", "projector", *common, "--max-senses", "3"]) == 0
    assert "3 senses" in capsys.readouterr().out
    assert cli.main(["senses", "stats", *common, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_tokens"] == 6
    assert cli.main(["senses", "show", common[0], "qqq", *common[1:]]) == 2
    assert capsys.readouterr().err.startswith("qqq: it has no senses")
