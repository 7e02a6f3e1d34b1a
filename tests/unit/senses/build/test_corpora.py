"""A dictionary of several texts: samples with their own limits, joined and clustered together."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dskd_ds.errors import InputError
from dskd_ds.runtime.mpi import Communicator
from dskd_ds.senses.build.build import build
from dskd_ds.senses.build.collect import collect
from dskd_ds.senses.build.corpora import collect_corpora, layouts_of, open_corpora
from dskd_ds.senses.dictionary.dictionary import open_dictionary
from dskd_ds.spec import RunSpec, load_spec
from tests.conftest import TinyWorld
from tests.of_spec import teacher_of

CHATS = [
    {
        "title": f"chat {number}",
        "messages": [
            {"role": "user", "content": f"where is the zebra {number}"},
            {"role": "assistant", "content": "near the river"},
        ],
    }
    for number in range(60)
]
TEMPLATE = "{% for message in messages %}quark quark {{ message.content }}\n{% endfor %}"


@pytest.fixture
def spec(tiny: TinyWorld, tmp_path: Path) -> RunSpec:
    """A spec whose dictionary is built from the tiny world's text and from chats."""
    chats = tmp_path / "chats.jsonl"
    chats.write_text("\n".join(json.dumps(chat) for chat in CHATS))
    (tmp_path / "template.jinja").write_text(TEMPLATE)
    text = f'{{path="{tiny.folder / "train.jsonl"}", collect_tokens=2048, vectors_per_token=7}}'
    chat = (
        f'{{path="{chats}", format="chat", title_field="title", vectors_per_token=5,'
        f' chat_template="{tmp_path / "template.jinja"}"}}'
    )
    overrides = [f"senses.corpus=[{text}, {chat}]", f"senses.dictionary={tmp_path / 'senses'}"]
    return load_spec(tiny.spec_file, overrides)


def slow_sample(parts: list[tuple[Any, int]]) -> dict[int, set[int]]:
    """Return token -> hashes of its sample: of each text the smallest, as many as its limit.

    parts: (all rows of a text, its limit).
    """
    found: dict[int, set[int]] = defaultdict(set)
    for rows, limit in parts:
        hashes: dict[int, set[int]] = defaultdict(set)
        for row in rows:
            hashes[int(row["token"])].add(int(row["hash"]))
        for token, of_token in hashes.items():
            found[token] |= set(sorted(of_token)[:limit])
    return dict(found)


def test_the_joint_sample_equals_the_slow_loop(spec: RunSpec, tmp_path: Path) -> None:
    teacher, comm = teacher_of(spec), Communicator()
    corpora = open_corpora(spec, teacher.tokenizer)
    joined = collect_corpora(corpora, teacher, [tmp_path / "a", tmp_path / "b"], comm)
    parts = []
    for number, (text, limit) in enumerate(zip(corpora.texts, (7, 5), strict=True)):
        # Everything that the teacher reads of a text, in a collection without a limit.
        senses = text.spec.senses.model_copy(update={"vectors_per_token": 1_000_000})
        alone = text.spec.model_copy(update={"senses": senses})
        whole = collect(alone, teacher, text.blocks, tmp_path / f"whole-{number}", comm)
        parts.append((np.concatenate([whole.rows(bucket) for bucket in whole.buckets]), limit))
    expected = slow_sample(parts)
    rows = np.concatenate([joined.rows(bucket) for bucket in joined.buckets])
    found: dict[int, set[int]] = defaultdict(set)
    for row in rows:
        found[int(row["token"])].add(int(row["hash"]))
    assert dict(found) == expected
    assert len(rows) == sum(len(hashes) for hashes in expected.values())
    # Positions count through the blocks of both texts.
    second = corpora.texts[1].first_block * spec.data.block_tokens
    of_second = {int(row["hash"]) for row in parts[1][0]}
    for row in rows:
        assert (row["position"] >= second) == (int(row["hash"]) in of_second)
    assert any(rows["position"] >= second)
    assert not all(rows["position"] >= second)


def test_the_dictionary_holds_both_texts(spec: RunSpec, tmp_path: Path) -> None:
    teacher = teacher_of(spec)
    facts = build(spec, teacher, Communicator())
    assert facts is not None
    (entry,) = facts["history"]
    assert [Path(path).name for path in entry["sources"]] == ["train.jsonl", "chats.jsonl"]
    limits = [(text["collect_tokens"], text["vectors_per_token"]) for text in facts["corpora"]]
    assert limits == [(2048, 7), (4096, 5)]
    dictionary = open_dictionary(spec.senses.dictionary)
    # A vector of the sample is a part of one sense.
    per_token: dict[int, int] = defaultdict(int)
    for token, count in zip(dictionary.row_owners, dictionary.sense_counts, strict=True):
        per_token[int(token)] += int(count)
    assert max(per_token[token] for token in range(facts["vocab_size"])) <= 12
    assert not (tmp_path / "senses.work").exists()
    # The same spec again builds nothing; without the chats it is another dictionary.
    manifest = (tmp_path / "senses" / "manifest.json").stat().st_mtime_ns
    build(spec, teacher, Communicator())
    assert (tmp_path / "senses" / "manifest.json").stat().st_mtime_ns == manifest
    only_text = spec.senses.model_copy(update={"corpus": spec.senses.corpus[:1]})
    again = build(spec.model_copy(update={"senses": only_text}), teacher, Communicator())
    assert again is not None
    assert len(again["corpora"]) == 1
    assert again["corpus"] != facts["corpus"]


def test_all_texts_have_the_same_ranges_of_tokens(spec: RunSpec) -> None:
    corpora = open_corpora(spec, teacher_of(spec).tokenizer)
    first, second = layouts_of(corpora, teacher_of(spec))
    assert (first.per_token, second.per_token) == (7, 5)
    assert first.bucket_tokens == second.bucket_tokens > 0


def test_evaluation_documents_stay_out(tiny: TinyWorld) -> None:
    """Of a text that is the held-out one, nothing is left."""
    path = tiny.folder / "heldout.jsonl"
    overrides = [f'senses.corpus=[{{path="{path}", title_field="title"}}]']
    spec = load_spec(tiny.spec_file, overrides)
    with pytest.raises(InputError, match=r"\[senses\.corpus\.0\]: its 0 documents"):
        open_corpora(spec, teacher_of(spec).tokenizer)


def test_errors_name_the_section(tiny: TinyWorld, tmp_path: Path) -> None:
    good, missing = tiny.folder / "train.jsonl", tmp_path / "missing.jsonl"
    spec = load_spec(tiny.spec_file, [f'senses.corpus=[{{path="{good}"}}, {{path="{missing}"}}]'])
    with pytest.raises(InputError, match=r'\[senses\.corpus\.1\] path = ".*missing\.jsonl", but'):
        open_corpora(spec, teacher_of(spec).tokenizer)
