"""Dictionaries built under mpirun are the same with any number of ranks, and after a kill."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from dskd_ds.runtime.console import child_environment
from dskd_ds.runtime.launch import senses_command
from dskd_ds.senses.dictionary.dictionary import open_dictionary
from tests.conftest import WORDS, TinyWorld
from tests.processes.conftest import Launch, children_with, mpirun, warm_dskd
from tests.processes.warm import warm

pytestmark = pytest.mark.process

SETTINGS = ("senses.collect_tokens=32768", "senses.vectors_per_token=20000")
"""So many vectors that the token ids are divided into several ranges, which ranks share out."""


def write_corpus(path: Path, seed: int, words: list[str]) -> None:
    """Write 2000 documents of random words."""
    draw = random.Random(seed)
    lines = []
    for i in range(2000):
        text = " ".join(draw.choices(words, k=draw.randint(20, 60)))
        lines.append(json.dumps({"title": f"{path.stem} {i}", "text": text}))
    path.write_text("\n".join(lines) + "\n")


def launch_of(
    tiny: TinyWorld,
    dictionary: Path,
    ranks: int,
    corpus: str = "first",
    flags: tuple[str, ...] = (),
    settings: tuple[str, ...] = (),
) -> list[str]:
    """Return the mpirun command line that `dskd senses build` runs, for a dictionary of a corpus.

    flags: `--refresh` makes it the command line of `dskd senses refresh`.
    """
    path = tiny.folder / f"{corpus}.jsonl"
    if not path.is_file():
        words = WORDS if corpus == "first" else [*WORDS[:20], "zebra", "quark"]
        write_corpus(path, seed=len(corpus), words=words)
    chosen = (
        f"senses.dictionary={dictionary}",
        f'data.train=[{{path="{path}", title_field="title"}}]',
        *SETTINGS,
        *settings,
    )
    return senses_command(str(tiny.spec_file), chosen, ranks, flags)


def digests(folder: Path) -> dict[str, str]:
    """Return the digests of all files below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def whole(tiny: TinyWorld, launch: Launch) -> Path:
    """A dictionary that one rank built without interruption, once per session."""
    folder = tiny.folder / "whole"
    if not folder.is_dir():
        assert launch(*warm(launch_of(tiny, folder, 1))).code == 0
    return folder


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_any_number_of_ranks_builds_the_same_dictionary(
    tiny: TinyWorld, launch: Launch, whole: Path, ranks: int
) -> None:
    folder = tiny.folder / f"by-{ranks}"
    command = launch_of(tiny, folder, ranks)
    # Two ranks are started by Python, so that their hashes have other seeds than those of `whole`.
    assert launch(*(command if ranks == 2 else warm(command))).code == 0
    assert digests(folder) == digests(whole)
    assert not Path(f"{folder}.work").exists()


@pytest.mark.slow
def test_several_texts_give_the_same_dictionary_for_any_number_of_ranks(
    tiny: TinyWorld, launch: Launch, whole: Path
) -> None:
    """Two texts, each with its own limits."""
    other = tiny.folder / "other.jsonl"
    write_corpus(other, seed=7, words=[*WORDS[:20], "zebra", "quark"])
    first = f'{{path="{tiny.folder / "first.jsonl"}", title_field="title"}}'
    second = f'{{path="{other}", title_field="title", collect_tokens=8192, vectors_per_token=500}}'
    settings = (f"senses.corpus=[{first}, {second}]",)
    folders = {ranks: tiny.folder / f"several-{ranks}" for ranks in (1, 2, 4)}
    for ranks, folder in folders.items():
        assert launch(*warm(launch_of(tiny, folder, ranks, settings=settings))).code == 0
    assert digests(folders[2]) == digests(folders[1])
    assert digests(folders[4]) == digests(folders[1])
    one, several = open_dictionary(whole), open_dictionary(folders[1])
    assert several.facts["num_tokens"] > one.facts["num_tokens"]
    tokens = [entry["tokens"] for entry in several.facts["history"]]
    assert tokens == [32768 + 8192]


def test_a_killed_build_is_continued_with_another_number_of_ranks(
    tiny: TinyWorld, launch: Launch, whole: Path
) -> None:
    folder = tiny.folder / "killed"
    environment = child_environment(os.environ) | {
        "OMP_NUM_THREADS": "1",
        "DSKD_HOME": str(tiny.folder / "home"),
    }
    running = subprocess.Popen(
        launch_of(tiny, folder, 2), env=environment, stdout=subprocess.DEVNULL
    )
    # Killed as soon as a batch is committed: before that, nothing could be continued.
    work = Path(f"{folder}.work")
    try:
        while not (found := sorted(work.glob("*/rank-*/progress.json"))):
            assert running.poll() is None, "the build ended before anything was committed"
            time.sleep(0.01)
    finally:
        for process in children_with(str(folder)):
            os.kill(process, signal.SIGKILL)
        running.wait()
    done = {batch for path in found for batch in json.loads(path.read_text())["batches"]}
    assert 0 < len(done) < 32
    assert not folder.exists()
    assert launch(*warm(launch_of(tiny, folder, 1))).code == 0
    assert digests(folder) == digests(whole)
    assert not work.exists()


def test_a_collection_that_is_kept_serves_other_dictionaries(
    tiny: TinyWorld, launch: Launch, whole: Path
) -> None:
    """The second build adds nothing to the collection and deletes only its own parts."""
    kept = tiny.folder / "kept"
    first, second = tiny.folder / "from-kept-1", tiny.folder / "from-kept-2"
    settings = (f"senses.collection_dir={kept}",)
    assert launch(*warm(launch_of(tiny, first, 2, settings=settings))).code == 0
    assert digests(first) == digests(whole)
    collected = digests(kept)
    assert any("rank-" in name for name in collected)
    assert not any("parts-" in name for name in collected)
    settings = (f"senses.collection_dir={kept}", "senses.num_senses=2")
    assert launch(*warm(launch_of(tiny, second, 1, settings=settings))).code == 0
    assert digests(kept) == collected
    assert len(open_dictionary(second).senses) < len(open_dictionary(first).senses)


@pytest.mark.slow
def test_refresh_adds_another_corpus_once(tiny: TinyWorld, launch: Launch, whole: Path) -> None:
    alone, shared = tiny.folder / "refreshed-1", tiny.folder / "refreshed-2"
    for folder, ranks in ((alone, 1), (shared, 2)):
        shutil.copytree(whole, folder)
        assert launch(*warm(launch_of(tiny, folder, ranks, "second", ("--refresh",)))).code == 0
    assert digests(alone) == digests(shared)
    before, after = open_dictionary(whole), open_dictionary(alone)
    assert [len(entry["sources"]) for entry in after.facts["history"]] == [1, 1]
    assert after.facts["history"][0] == before.facts["history"][0]
    assert after.sense_counts.sum() > before.sense_counts.sum()
    assert after.facts["num_tokens"] > before.facts["num_tokens"]
    assert all(
        len(texts) == 3
        for row, texts in after.contexts_of(range(50)).items()
        if after.sense_counts[row] >= 3
    )
    # As after a kill between the rename of the dictionary and the deletion of the work folder.
    left = Path(f"{alone}.work")
    left.mkdir()
    os.utime(tiny.folder / "second.jsonl")  # another time stamp, but the same text
    assert launch(*warm(launch_of(tiny, alone, 1, "second", ("--refresh",)))).code == 0
    assert digests(alone) == digests(shared)
    assert not left.exists()


def test_refresh_refuses_states_of_another_layer(
    tiny: TinyWorld, launch: Launch, whole: Path
) -> None:
    before = digests(whole)
    path = tiny.folder / "train.jsonl"
    ended = launch(
        *warm_dskd(
            "senses",
            "refresh",
            str(tiny.spec_file),
            "--set",
            f"senses.dictionary={whole}",
            "--set",
            f'data.train=[{{path="{path}", title_field="title"}}]',
            "--set",
            "senses.hidden_layer=2",
        )
    )
    assert ended.code == 2
    assert "[senses] hidden_layer = 2, but" in ended.output
    assert "Traceback" not in ended.output
    assert digests(whole) == before


@pytest.mark.slow
def test_training_refuses_a_dictionary_of_another_layer(tiny: TinyWorld, launch: Launch) -> None:
    folder = tiny.folder / "layer-2"
    settings = ("--set", f"senses.dictionary={folder}", "--set", "senses.hidden_layer=2")
    assert launch(*warm(senses_command(str(tiny.spec_file), settings[1::2], 1))).code == 0
    assert open_dictionary(folder).layer == 2
    ended = launch(*warm_dskd("train", str(tiny.spec_file), *settings))
    assert ended.code == 2
    assert "holds states of layer 2" in ended.output
    ended = launch(
        *warm_dskd("senses", "build", str(tiny.spec_file), *settings[:3], "senses.hidden_layer=9")
    )
    assert ended.code == 2
    assert "the teacher has 4 layers" in ended.output


def test_two_builds_of_one_dictionary_do_not_run_at_once(tiny: TinyWorld, launch: Launch) -> None:
    from filelock import FileLock

    folder = tiny.folder / "taken"
    with FileLock(f"{folder}.lock"):
        ended = launch(*warm(launch_of(tiny, folder, 1)))
    assert ended.code == 2
    assert "another process is building it" in ended.output


def test_ranks_with_different_digests_notice_it(tiny: TinyWorld, launch: Launch) -> None:
    code = (
        "from dskd_ds.runtime.mpi import Communicator\n"
        f"marker, comm = {str(tiny.folder)!r}, Communicator()\n"
        "assert comm.all_ranks_equal(b'the same')\n"
        "assert not comm.all_ranks_equal(b'rank %d' % comm.rank)\n"
        "print('both answers are right', comm.rank)"
    )
    ended = launch(*mpirun(2, "-c", code))
    assert ended.code == 0
    assert all(f"both answers are right {rank}" in ended.output for rank in (0, 1))


@pytest.mark.fault
def test_an_error_on_one_rank_ends_all(tiny: TinyWorld, launch: Launch) -> None:
    """Without an abort rank 1 would wait in MPI's finalisation, and rank 0 in the barrier."""
    code = (
        "import sys\nfrom dskd_ds.runtime.mpi import Communicator, run_or_abort_all_ranks\n"
        f"marker = {str(tiny.folder)!r}\n"
        "def work():\n    comm = Communicator()\n"
        "    assert comm.rank == 0, 'rank 1 breaks'\n    comm.barrier()\n"
        "sys.exit(run_or_abort_all_ranks(work))"
    )
    ended = launch(*mpirun(2, "-c", code))
    assert ended.code != 0
    assert "rank 1 breaks" in ended.output
