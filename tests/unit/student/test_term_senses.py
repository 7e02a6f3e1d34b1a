"""Dictionaries of losses below the head: opened for students, refused where they do not fit."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dskd_ds.errors import InputError
from dskd_ds.lexicon.relations import TokenRelations
from dskd_ds.models.named import RunModels
from dskd_ds.runtime.launchers import Launch
from dskd_ds.runtime.topology import Role
from dskd_ds.senses.choose.on_teacher import of_dictionary
from dskd_ds.senses.dictionary.senses import Senses
from dskd_ds.senses.dictionary.write import write_dictionary
from dskd_ds.spec import RunSpec, load_spec
from dskd_ds.student.terms.layers import LayerTerm
from dskd_ds.student.terms.senses import check_term_dictionaries, margin_in, open_term_retrievers
from tests.conftest import TinyWorld

D = 32
"""Hidden size of the tiny teacher, which has four layers."""


def write_senses(
    folder: Path,
    models: RunModels,
    layer: int = 2,
    attribution: str = "on",
    spread: float = 0.5,
    without_sinks: bool = True,
) -> str:
    """Write a dictionary of the tiny teacher without an index; return its folder."""
    rows = torch.randn(20, D, generator=torch.Generator().manual_seed(0))
    write_dictionary(
        folder,
        Senses(
            np.repeat(np.arange(10), 2),
            rows,
            np.full(20, 3),
            np.full(20, spread, np.float32),
        ),
        TokenRelations({}, {1: [2]}, []),
        {
            "vocab_size": models.teacher.vocab_size,
            "layer": layer,
            "teacher": models.teacher.fingerprint,
            "tokenizer": models.teacher.tokenizer_fingerprint,
            "settings": {"attribution": attribution},
            "sinks_left_out": without_sinks,
        },
        2,
    )
    return str(folder)


def spec_with(
    tiny: TinyWorld, run_dir: Path, *terms: str, settings: tuple[str, ...] = ()
) -> RunSpec:
    overrides = [f"run_dir={run_dir}", "student.layers=first", f"loss.terms=[{','.join(terms)}]"]
    return load_spec(tiny.spec_file, [*overrides, "senses.candidates=lexical", *settings])


def term_text(kind: str, folder: str, **keys: Any) -> str:
    more = "".join(f',{key}="{value}"' for key, value in keys.items())
    return (
        f'{{kind="{kind}",student_layer=1,teacher_layer=2,weight=1.0,dictionary="{folder}"{more}}}'
    )


@pytest.fixture
def models(tiny: TinyWorld) -> RunModels:
    return RunModels.of(load_spec(tiny.spec_file))


def test_terms_share_a_dictionary_and_others_have_none(
    tiny: TinyWorld, models: RunModels, tmp_path: Path
) -> None:
    folder = write_senses(tmp_path / "senses", models)
    texts = [term_text(kind, folder) for kind in ("posterior", "contrast", "sense")]
    plain = '{kind="mse",student_layer=1,weight=1.0}'
    spec = spec_with(tiny, tmp_path / "run", *texts, plain)
    check_term_dictionaries(spec, models)
    terms = [LayerTerm(term, 2) for term in spec.loss.terms]
    role = Role("student", 0, 2, Launch("torch", 0, 2, 0, 2, "127.0.0.1", 1))
    with ExitStack() as cleanup:
        opened = open_term_retrievers(spec, models, terms, role, cleanup)
    assert [retriever is None for retriever in opened] == [False, False, False, True]


def test_each_term_says_for_itself_whether_its_senses_are_shuffled(
    tiny: TinyWorld, tmp_path: Path
) -> None:
    """The sense term at the head may be a control while a loss below it is none."""
    shuffled = ("loss.sense_weight=1.0", "loss.shuffled_senses=true")
    spec = spec_with(tiny, tmp_path / "run", settings=shuffled)
    of_term = of_dictionary(spec, "elsewhere")
    assert of_term.senses.dictionary == "elsewhere"
    assert not of_term.loss.shuffled_senses
    assert spec.loss.shuffled_senses


def test_students_need_no_index_where_the_teacher_chooses(
    tiny: TinyWorld, models: RunModels, tmp_path: Path
) -> None:
    """Of a dictionary that has none; the kinds that get states search it as before."""
    folder = write_senses(tmp_path / "senses", models)
    on_teacher = ("senses.candidates=hybrid", "senses.retrieve_on=teacher")
    alone = (*on_teacher, "topology.num_teachers=0")
    smoothed = term_text("mse", folder).replace("}", ",smoothing=0.5}")
    texts = [term_text("posterior", folder), term_text("contrast", folder), smoothed]
    spec = spec_with(tiny, tmp_path / "run", *texts, settings=alone)
    check_term_dictionaries(spec, models)
    terms = [LayerTerm(term, 2) for term in spec.loss.terms]
    role = Role("student", 0, 2, Launch("torch", 0, 2, 0, 2, "127.0.0.1", 1))
    with ExitStack() as cleanup:
        posterior, contrast, mse = open_term_retrievers(spec, models, terms, role, cleanup)
    assert posterior is not None
    assert contrast is not None
    assert mse is not None
    assert posterior.wanted == contrast.wanted
    in_launch = spec_with(tiny, tmp_path / "run", *texts, settings=on_teacher)
    by_student = spec_with(tiny, tmp_path / "run", term_text("sense", folder), settings=alone)
    for needing in (in_launch, by_student):
        with pytest.raises(InputError, match="has no index"):
            check_term_dictionaries(needing, models)


@pytest.mark.parametrize(
    ("kind", "built", "keys", "reason"),
    [
        ("sense", {"without_sinks": False}, {}, "was built by an earlier version"),
        ("posterior", {"layer": 3}, {}, "states of the teacher's layer 3, but the term compares"),
        ("contrast", {"attribution": "argmax"}, {}, 'attribution = "argmax", but the term'),
        ("contrast", {}, {"attribution": "predicts"}, 'attribution = "on", but the term'),
        ("posterior", {"spread": 0.0}, {}, "each of its senses is a single state"),
    ],
)
def test_a_dictionary_that_does_not_fit_is_refused(
    tiny: TinyWorld,
    models: RunModels,
    tmp_path: Path,
    kind: str,
    built: dict[str, Any],
    keys: dict[str, str],
    reason: str,
) -> None:
    folder = write_senses(tmp_path / "senses", models, **built)
    spec = spec_with(tiny, tmp_path / "run", term_text(kind, folder, **keys))
    with pytest.raises(InputError, match=reason):
        check_term_dictionaries(spec, models)


def test_the_head_input_and_a_missing_index_are_refused(
    tiny: TinyWorld, models: RunModels, tmp_path: Path
) -> None:
    folder = write_senses(tmp_path / "last", models, layer=4)
    text = term_text("sense", folder).replace("teacher_layer=2", "teacher_layer=4")
    with pytest.raises(InputError, match="states before the final norm"):
        check_term_dictionaries(spec_with(tiny, tmp_path / "run", text), models)
    folder = write_senses(tmp_path / "senses", models)
    hybrid = ("senses.candidates=hybrid",)
    spec = spec_with(tiny, tmp_path / "run", term_text("sense", folder), settings=hybrid)
    with pytest.raises(InputError, match="has no index"):
        check_term_dictionaries(spec, models)
    smoothed = term_text("mse", folder).replace("}", ",smoothing=0.5}")
    check_term_dictionaries(
        spec_with(tiny, tmp_path / "run", smoothed, settings=hybrid), models
    )  # own senses need no index


def test_a_missing_dictionary_is_named_with_the_command_that_builds_it(
    tiny: TinyWorld, models: RunModels, tmp_path: Path
) -> None:
    folder = str(tmp_path / "nowhere")
    spec = spec_with(tiny, tmp_path / "run", term_text("contrast", folder, attribution="predicts"))
    with pytest.raises(InputError) as caught:
        check_term_dictionaries(spec, models)
    reason, way_out = str(caught.value).split("\n")
    assert (
        reason == f'[[loss.terms]] number 1: dictionary = "{folder}", but there is no such folder.'
    )
    settings = ("dictionary", folder), ("hidden_layer", "2"), ("attribution", "next")
    assert all(f"--set senses.{key}={value}" in way_out for key, value in settings)


def test_the_margin_has_the_unit_of_the_terms_own_dictionary(
    tiny: TinyWorld, models: RunModels, tmp_path: Path
) -> None:
    from dskd_ds.senses.dictionary.dictionary import open_dictionary

    dictionary = open_dictionary(write_senses(tmp_path / "senses", models))
    distance = dictionary.facts["median_antonym_distance"]
    assert distance is not None
    spec = load_spec(tiny.spec_file, ["loss.margin=0.5", "loss.margin_unit=median_antonym"])
    assert margin_in(spec, dictionary) == pytest.approx(0.5 * distance)
    assert margin_in(load_spec(tiny.spec_file), dictionary) == 1.0


@pytest.mark.parametrize(
    ("term", "reason"),
    [
        (
            '{kind="posterior",student_layer=1,weight=1.0}',
            "needs the senses of the teacher's layer",
        ),
        ('{kind="mse",student_layer=1,weight=1.0,smoothing=0.5}', "smoothing needs the senses"),
        ('{kind="gram",student_layer=1,weight=1.0,smoothing=0.5}', "has no target state"),
        ('{kind="gram",student_layer=1,weight=1.0,dictionary="d"}', "reads no senses"),
        ('{kind="mse",student_layer=1,weight=1.0,shuffled_senses=true}', "reads no senses"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(tiny: TinyWorld, term: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        load_spec(tiny.spec_file, [f"loss.terms=[{term}]"])


def test_a_token_that_was_read_has_no_confidence(tiny: TinyWorld) -> None:
    settings = ["senses.attribution=on", "senses.min_confidence=0.5"]
    with pytest.raises(InputError, match="not one that is predicted"):
        load_spec(tiny.spec_file, settings)
