"""How a teacher that chooses senses opens dictionary and index, and errors if one is missing."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from dskd_ds.errors import InputError
from dskd_ds.runtime.launchers import Launch
from dskd_ds.runtime.topology import Role, teacher_of_step
from dskd_ds.senses.choose.on_teacher import (
    NO_SENSES,
    TeacherSenses,
    of_dictionary,
    open_on_teacher,
)
from dskd_ds.senses.choose.open import open_retriever
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.spec import RunSpec, load_spec
from tests.unit.senses.choose import small


def test_a_missing_dictionary_or_index_is_an_error(
    dictionary: SenseDictionary, tmp_path: Path
) -> None:
    def opened(folder: Path, *more: str) -> TeacherSenses:
        spec = load_spec("tests/base_run.toml", [f"senses.dictionary={folder}", *more])
        return open_on_teacher(spec, None, ExitStack())

    on_teacher = "senses.retrieve_on=teacher"
    assert opened(tmp_path / "nowhere") == NO_SENSES
    with pytest.raises(
        InputError, match=r'\[senses\] dictionary = ".*nowhere", but there is no such folder'
    ):
        opened(tmp_path / "nowhere", on_teacher)
    senses = opened(dictionary.folder, on_teacher)
    assert senses.retriever is not None
    assert senses.name.startswith("-index-")
    (dictionary.folder / "index").rename(tmp_path / "away")
    with pytest.raises(InputError, match=r'\[senses\] candidates = "hybrid", but .* has no index'):
        opened(dictionary.folder, on_teacher)
    assert opened(dictionary.folder, on_teacher, "senses.candidates=lexical").retriever is not None


def sharing_spec(dictionary: SenseDictionary, run_dir: Path) -> RunSpec:
    """Return a run whose teachers choose senses by an index."""
    settings = [
        f"senses.dictionary={dictionary.folder}",
        "senses.retrieve_on=teacher",
        f"run_dir={run_dir}",
        "senses.index_search_effort=100",
    ]
    return load_spec("tests/base_run.toml", settings)


def test_teachers_of_a_node_share_the_index_of_the_first(
    dictionary: SenseDictionary, tmp_path: Path
) -> None:
    """The second teacher reads no graph file; a teacher without a role has to, and fails here."""
    spec = sharing_spec(dictionary, tmp_path)
    first, second = (
        Role("teacher", rank, 2, Launch("torch", 2 + rank, 4, 2 + rank, 4, "127.0.0.1", 1))
        for rank in range(2)
    )
    check_shared_index(spec, dictionary, first, second)


def test_teachers_of_a_step_of_their_own_share_it_too(
    dictionary: SenseDictionary, tmp_path: Path
) -> None:
    """Beside another step on the node, whose index has another address."""
    spec = sharing_spec(dictionary, tmp_path)
    launches = [Launch("srun", rank, 2, rank, 2, "127.0.0.1", 1) for rank in range(2)]
    first, second = (teacher_of_step(launch, spec.topology, 4) for launch in launches)
    with ExitStack() as cleanup:
        open_on_teacher(spec, teacher_of_step(launches[0], spec.topology, 6), cleanup)
        check_shared_index(spec, dictionary, first, second)


def check_shared_index(
    spec: RunSpec, dictionary: SenseDictionary, first: Role, second: Role
) -> None:
    """Check that the second teacher asks the first one; the graph file is gone by then."""
    queries = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    with ExitStack() as cleanup:
        leader = open_on_teacher(spec, first, cleanup)
        (dictionary.folder / "index" / "graph.bin").write_bytes(b"gone")
        follower = open_on_teacher(spec, second, cleanup)
        assert leader.name == follower.name
        found, expected = (
            senses.retriever.search(queries, 20)
            for senses in (follower, leader)
            if senses.retriever and senses.retriever.search
        )
        assert found.shape == (5, 20)
        assert (found == expected).all()
        with pytest.raises(InputError, match=r"graph\.bin"):
            open_on_teacher(spec, None, cleanup)


def term(kind: str, folder: Path, **keys: str) -> str:
    """Return one of [[loss.terms]] for an override."""
    more = "".join(f',{key}="{value}"' for key, value in keys.items())
    return f'{{kind="{kind}",student_layer=1,weight=1.0,dictionary="{folder}"{more}}}'


def with_terms(run_dir: Path, *terms: str) -> RunSpec:
    return load_spec(
        "tests/base_run.toml",
        [
            f"run_dir={run_dir}",
            "senses.retrieve_on=teacher",
            "senses.index_search_effort=100",
            "loss.sense_weight=0.0",
            f"loss.terms=[{','.join(terms)}]",
        ],
    )


def test_a_teacher_opens_the_dictionaries_of_terms_that_it_chooses_for(tmp_path: Path) -> None:
    """Two sets from one dictionary, one from another; none for kinds that get states."""
    first = small.dictionary_in(tmp_path / "first", layer=2).folder
    second = small.dictionary_in(tmp_path / "second", layer=3, seed=1).folder
    terms = [
        term("posterior", first),
        term("contrast", first),
        term("contrast", first, attribution="predicts").replace("layer=1", "layer=2"),
        term("posterior", second).replace("layer=1", "layer=2"),
        term("sense", tmp_path / "nowhere"),
    ]
    with ExitStack() as cleanup:
        opened = open_on_teacher(with_terms(tmp_path, *terms), None, cleanup)
        alone = open_on_teacher(with_terms(tmp_path, *terms[:2]), None, cleanup)
    assert opened.retriever is None
    assert [wanted.layer for wanted in opened.terms] == [2, 2, 3]
    assert len(alone.terms) == 1
    assert alone.name.startswith("-index-")
    assert opened.name != alone.name
    assert len(opened.name) == len(alone.name)  # a fingerprint has at most 200 characters


def test_a_dictionary_of_the_heads_states_is_refused(tmp_path: Path) -> None:
    folder = small.dictionary_in(tmp_path / "last", layer=-1).folder
    with ExitStack() as cleanup, pytest.raises(InputError, match="holds states of layer -1, but"):
        open_on_teacher(with_terms(tmp_path, term("posterior", folder)), None, cleanup)


def test_students_and_teachers_of_a_node_may_both_have_an_index(tmp_path: Path) -> None:
    """Of one dictionary, in one launch: students for `sense`, teachers for `posterior`."""
    folder = small.dictionary_in(tmp_path / "senses", layer=2).folder
    spec = with_terms(tmp_path, term("posterior", folder))
    of_student = of_dictionary(spec, str(folder))
    of_student = of_student.model_copy(
        update={"senses": of_student.senses.model_copy(update={"retrieve_on": "student"})}
    )
    launches = [Launch("torch", rank, 2, rank, 2, "127.0.0.1", 1) for rank in range(2)]
    queries = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    with ExitStack() as cleanup:
        student = open_retriever(of_student, Role("student", 0, 1, launches[0]), cleanup)
        teacher = open_on_teacher(spec, Role("teacher", 0, 1, launches[1]), cleanup)
        assert student.search is not None
        assert student.search(queries, 20).shape == (5, 20)
        assert len(teacher.terms) == 1
