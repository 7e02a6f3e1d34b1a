"""Packing, splits, masks and the global order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tomli_w
import torch
from hypothesis import given
from hypothesis import strategies as st

from dskd_ds.data.batches import (
    IGNORE,
    MappedBlocks,
    Sample,
    make_batch,
    places,
)
from dskd_ds.data.blocks import position_ids
from dskd_ds.errors import InputError
from dskd_ds.models.frozen import load_frozen
from dskd_ds.models.resolve import load_tokenizer
from dskd_ds.spec import load_spec
from tests.conftest import TinyWorld
from tests.of_spec import (
    heldout_blocks_of,
    heldout_documents_of,
    teacher_of,
    train_blocks_of,
    train_documents_of,
)


def test_heldout_titles_are_never_trained_on(tiny: TinyWorld) -> None:
    spec = load_spec(tiny.spec_file)
    held, trained = set(heldout_documents_of(spec)["title"]), set(train_documents_of(spec)["title"])
    assert len(held) == 12
    assert len(trained) == 118  # of 120; two share a title with held-out documents
    assert not held & trained


def test_split_by_fraction_is_a_partition(tiny: TinyWorld) -> None:
    tree = tiny.spec_tree()
    del tree["data"]["heldout"]  # type: ignore[attr-defined]
    path = tiny.folder / "fraction.toml"
    path.write_text(tomli_w.dumps(tree))
    spec = load_spec(path, ["data.heldout_fraction=0.3"])
    held, trained = heldout_documents_of(spec)["title"], train_documents_of(spec)["title"]
    assert sorted([*held, *trained]) == sorted(f"document {i}" for i in range(120))
    assert 15 < len(held) < 60


def test_blocks_hold_the_texts_in_order_and_targets_stay_in_their_document(tiny: TinyWorld) -> None:
    spec = load_spec(tiny.spec_file)
    blocks = train_blocks_of(spec)
    ids = [token for block in blocks for token in block["input_ids"]]
    # Blocks laid end to end are the texts, each followed by the end-of-text token 0.
    assert all(len(block["input_ids"]) == 32 for block in blocks)
    tokenizer = load_tokenizer(spec.teacher.model)
    expected = [
        token
        for text in train_documents_of(spec)["text"]
        for token in [*tokenizer(text)["input_ids"], 0]
    ]
    assert ids == expected[: len(ids)]
    batch = make_batch([blocks[1], blocks[2]], [Sample(0, 1), Sample(0, 2)])
    for row in range(2):
        for position in range(31):
            begins = batch.position_ids[row, position + 1] == 0
            expected_target = IGNORE if begins else batch.input_ids[row, position + 1]
            assert batch.targets[row, position] == expected_target
        assert batch.targets[row, 31] == IGNORE


def test_no_attention_crosses_documents(tiny: TinyWorld) -> None:
    """A document's states do not depend on what is packed before it."""
    teacher = load_frozen(teacher_of(load_spec(tiny.spec_file)))
    ids = torch.randint(1, 200, (2, 20), generator=torch.Generator().manual_seed(0))
    packed = teacher.hidden_states(ids, torch.tensor([position_ids([0, 8], 20)] * 2))
    alone = teacher.hidden_states(ids[:, 8:], torch.arange(12).repeat(2, 1))
    torch.testing.assert_close(packed[:, 8:], alone, rtol=1e-4, atol=1e-4)
    joined = teacher.hidden_states(ids, torch.arange(20).repeat(2, 1))
    # The check can fail: with attention across documents, the states differ.
    assert (joined[:, 8:] - alone).abs().max() > 0.01


@given(ranks=st.sampled_from([1, 2, 3, 4, 6]), step=st.integers(0, 5))
def test_a_steps_blocks_do_not_depend_on_the_number_of_ranks(ranks: int, step: int) -> None:
    spec = load_spec(
        "tests/base_run.toml",
        ["train.global_batch_blocks=12", f"topology.num_students={ranks}"],
    )
    dealt = [
        place
        for micro in range(spec.num_accumulation_steps)
        for rank in range(ranks)
        for place in places(spec, step, micro, rank)
    ]
    assert sorted(dealt) == list(range(step * 12, step * 12 + 12))


def test_each_epoch_is_a_new_permutation() -> None:
    rows = [{"number": i} for i in range(50)]
    source = MappedBlocks(rows, seed=3)
    epochs = [[source.get(epoch * 50 + i)[0].block for i in range(50)] for epoch in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(50))
    assert epochs[0] != epochs[1]
    assert epochs[0] == [MappedBlocks(rows, seed=3).get(i)[0].block for i in range(50)]


def test_wrong_sources_are_reported(tiny: TinyWorld, tmp_path: Path) -> None:
    def message(*overrides: str) -> str:
        with pytest.raises(InputError) as error:
            train_blocks_of(load_spec(tiny.spec_file, overrides))
        return str(error.value)

    assert "no such file" in message('data.train=[{path="/nowhere/a.jsonl"}]')
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps({"body": "a b"}) + "\n")
    assert "has the columns ['body']" in message(f'data.train=[{{path="{path}"}}]')
    assert "do not fill one block" in message(
        f'data.train=[{{path="{path}", text_field="body"}}]',
        "data.heldout_fraction=0.0",
        "data.heldout=[]",
    )


@pytest.mark.parametrize("stream", [False, True])
def test_a_text_that_is_no_string_is_refused(tiny: TinyWorld, tmp_path: Path, stream: bool) -> None:
    """A list of paragraphs would be trained on as Python writes it."""
    path = tmp_path / "lists.jsonl"
    path.write_text(json.dumps({"text": ["A first paragraph.", "A second."]}) + "\n")
    changes = [f'data.train=[{{path="{path}"}}]', "student.layers=first"]
    spec = load_spec(tiny.spec_file, [*changes, f"data.stream={str(stream).lower()}"])
    with pytest.raises(
        InputError,
        match=r'\[data.train.0\] path = ".*lists.jsonl", but its column "text" holds a list in the'
        r" row with .*A first paragraph",
    ):
        list(train_documents_of(spec))


def test_a_row_without_text_is_left_out(tiny: TinyWorld, tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    rows = [{"text": "a text", "title": "one"}, {"text": None, "title": "two"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = load_spec(tiny.spec_file, [f'data.train=[{{path="{path}"}}]'])
    assert train_documents_of(spec)["text"] == ["a text"]


def test_heldout_blocks_exist(tiny: TinyWorld) -> None:
    assert len(heldout_blocks_of(load_spec(tiny.spec_file))) > 3


def test_text_and_parquet_files_are_read(tiny: TinyWorld, tmp_path: Path) -> None:
    import datasets

    (tmp_path / "a.txt").write_text("one paragraph of text\n\nanother one\n")
    datasets.Dataset.from_dict({"text": ["one paragraph of text", "another one"]}).to_parquet(
        str(tmp_path / "a.parquet")
    )
    for name in ("a.txt", "a.parquet"):
        spec = load_spec(
            tiny.spec_file,
            [
                f'data.train=[{{path="{tmp_path / name}"}}]',
                "data.heldout=[]",
                "data.heldout_fraction=0.0",
            ],
        )
        assert [text.strip() for text in train_documents_of(spec)["text"]] == [
            "one paragraph of text",
            "another one",
        ]
