"""Sources with a file per epoch: epoch e of a run trains on file e."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dskd_ds.data.batches import BlocksByEpoch, Sample
from dskd_ds.data.epoch_files import check_output
from dskd_ds.data.source import num_steps
from dskd_ds.errors import InputError
from dskd_ds.plan.preflight import preflight
from dskd_ds.spec import load_spec
from tests.conftest import TinyWorld
from tests.of_spec import source_of, teacher_of

SIZES = (5, 3, 4)
FILES: list[list[Any]] = [
    [f"file {file}, block {i}" for i in range(size)] for file, size in enumerate(SIZES)
]


def test_each_epoch_reads_all_blocks_of_its_file_once() -> None:
    source = BlocksByEpoch(FILES, seed=3)
    place = 0
    for epoch in range(7):  # the first file follows the last one
        file = FILES[epoch % 3]
        found = [source.get(place + i) for i in range(len(file))]
        place += len(file)
        assert sorted(block for _, block in found) == file
        assert [FILES[epoch % 3][sample.block] for sample, _ in found] == [b for _, b in found]
        assert {sample.epoch for sample, _ in found} == {epoch}
    # A place gives the same block whatever was read before it.
    assert source.get(0) == BlocksByEpoch(FILES, seed=3).get(0)
    assert [BlocksByEpoch(FILES, seed=s).get(0)[0].block for s in range(9)] != [0] * 9


@pytest.mark.parametrize(("epochs", "blocks"), [(1, 5), (2, 8), (3, 12), (4, 17), (1.5, 6.5)])
def test_epochs_of_different_sizes_are_counted(epochs: float, blocks: float) -> None:
    assert BlocksByEpoch(FILES, seed=0).num_blocks(epochs) == blocks


@pytest.fixture
def settings(tmp_path: Path) -> list[str]:
    """Two files of conversations, one with 30 rows and one with 36."""
    for epoch, count in enumerate((30, 36)):
        rows = [
            {
                "prompt": [{"role": "user", "content": f"what is big {i} of {epoch}?"}],
                "completion": [{"role": "assistant", "content": "large"}],
            }
            for i in range(count)
        ]
        path = tmp_path / f"chats-{epoch}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = f'{{path="{tmp_path}/chats-{{epoch}}.jsonl", format="chat"}}'
    return [
        f"data.train=[{source}]",
        "data.epoch_files=2",
        "data.chat_template=plain",
        "data.heldout=[]",
        "data.heldout_fraction=0.0",
        "train.num_epochs=2",
        "train.global_batch_blocks=2",
    ]


def test_a_run_reads_the_file_of_its_epoch(tiny: TinyWorld, settings: list[str]) -> None:
    spec = load_spec(_without_steps(tiny), settings)
    source = source_of(spec)
    assert isinstance(source, BlocksByEpoch)
    tokenizer = teacher_of(spec).tokenizer
    num_blocks = int(source.num_blocks(1)), int(source.num_blocks(2))
    assert num_steps(spec, source) == num_blocks[1] // 2
    for place in range(num_blocks[1]):
        sample, block = source.get(place)
        epoch = int(place >= num_blocks[0])
        assert sample == Sample(epoch, sample.block)
        text = tokenizer.decode(block["input_ids"])
        assert f"of {epoch}?" in text
        assert f"of {1 - epoch}?" not in text


def _without_steps(tiny: TinyWorld) -> Path:
    """The tiny spec without num_steps, which excludes num_epochs."""
    import tomli_w

    tree: Any = tiny.spec_tree()
    del tree["train"]["num_steps"]
    path = tiny.folder / "epochs.toml"
    path.write_text(tomli_w.dumps(tree))
    return path


def test_a_missing_file_of_a_later_epoch_is_found_before_the_run(
    tiny: TinyWorld, settings: list[str], tmp_path: Path
) -> None:
    from dskd_ds.models.named import RunModels

    spec = load_spec(_without_steps(tiny), settings)
    models = RunModels(teacher=teacher_of(spec), student=None)
    preflight(spec, models, with_senses=False)
    (tmp_path / "chats-1.jsonl").unlink()
    with pytest.raises(InputError, match=r"chats-1.jsonl.*there is no such file"):
        preflight(spec, models, with_senses=False)


def test_held_out_questions_are_told_by_their_title(tiny: TinyWorld, settings: list[str]) -> None:
    """Their text differs from file to file, so a hash of it would let them into training."""
    spec_file = _without_steps(tiny)
    untitled = [*settings, "data.heldout_fraction=0.02"]
    with pytest.raises(InputError, match=r"\[data.train.0\] title_field = .*, but each epoch"):
        load_spec(spec_file, untitled)
    titled = settings[0].replace('format="chat"', 'format="chat", title_field="title"')
    load_spec(spec_file, [*untitled, titled])
    load_spec(spec_file, [*untitled, "data.heldout=[{path='heldout.jsonl'}]"])


def test_files_without_a_number_are_refused(tiny: TinyWorld, settings: list[str]) -> None:
    with pytest.raises(InputError, match=r"epoch_files = 2, but no path .* contains \{epoch\}"):
        load_spec(tiny.spec_file, ["data.epoch_files=2"])
    with pytest.raises(InputError, match="epoch_files = 2, but a stream has no epochs"):
        load_spec(tiny.spec_file, [*settings[:2], "data.stream=true", "student.layers=first"])


def test_an_output_is_checked_before_the_work(tmp_path: Path) -> None:
    check_output(str(tmp_path / "new" / "chats-{epoch}.jsonl"), epochs=2)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    with pytest.raises(InputError, match=r"2 epochs, .*\n  put \{epoch\} into the name"):
        check_output(str(tmp_path / "chats.jsonl"), epochs=2)
    with pytest.raises(InputError, match=f"--output {tmp_path}: .* written: Is a directory"):
        check_output(str(tmp_path), epochs=1)
    with pytest.raises(InputError, match=r"--output /proc/chats.jsonl: it cannot be written"):
        check_output("/proc/chats.jsonl", epochs=1)
