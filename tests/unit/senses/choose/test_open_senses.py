"""How a teacher that chooses senses opens dictionary and index, and errors if one is missing."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from dskd_ds.errors import InputError
from dskd_ds.runtime.launchers import Launch
from dskd_ds.runtime.topology import Role
from dskd_ds.senses.choose.on_teacher import NO_SENSES, TeacherSenses, open_on_teacher
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.spec import load_spec


def test_a_missing_dictionary_or_index_is_an_error(
    dictionary: SenseDictionary, tmp_path: Path
) -> None:
    def opened(folder: Path, *more: str) -> TeacherSenses:
        spec = load_spec("ds_configs/runs/quickstart.toml", [f"senses.dictionary={folder}", *more])
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


def test_teachers_of_a_node_share_the_index_of_the_first(
    dictionary: SenseDictionary, tmp_path: Path
) -> None:
    """The second teacher reads no graph file; a teacher without a role has to, and fails here."""
    spec = load_spec(
        "ds_configs/runs/quickstart.toml",
        [
            f"senses.dictionary={dictionary.folder}",
            "senses.retrieve_on=teacher",
            f"run_dir={tmp_path}",
            "senses.index_search_effort=100",
        ],
    )
    first, second = (
        Role("teacher", rank, 2, Launch("torch", 2 + rank, 4, 2 + rank, 4, "127.0.0.1", 1))
        for rank in range(2)
    )
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
