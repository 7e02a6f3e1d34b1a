"""Packed text that a run refuses: another text, tokenizer or setting, or too much that is lost."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dskd_ds.data import pack_job
from dskd_ds.data.known_digest import kept_file, known_sha256
from dskd_ds.data.pack_origin import CHAT, Origin, difference, origin_of, paths_of
from dskd_ds.data.packed import check_packed, open_packed
from dskd_ds.data.source import open_source
from dskd_ds.data.text_parts import text_parts
from dskd_ds.errors import InputError
from dskd_ds.files.hashes import file_sha256
from tests.conftest import TinyWorld
from tests.unit.data.packs import pack, spec_of


@pytest.mark.parametrize(
    ("keys", "difference"),
    [
        (["data.block_tokens=64"], "blocks.block_tokens was 32, now 64"),
        (["data.packing=none"], "rows was v3, now rows v1"),
        (["data.heldout=[]"], r"its source \[data.heldout.0\] is not in the spec any more"),
        (["data.train=[TEXT]"], r"its source \[data.train.1\] is not in the spec any more"),
        (["data.chat_template=CHATML"], "chat template and special tokens was"),
        (["data.heldout=[{path='TRAIN', title_field='title'}]"], r"\[data.heldout.0\] has other"),
    ],
)
def test_a_pack_with_other_settings_is_refused(
    tiny: TinyWorld,
    tokenizer: Any,
    text_folder: Path,
    packed: Path,
    keys: list[str],
    difference: str,
) -> None:
    (text_folder / "chatml.jinja").write_text(
        "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    names = {
        "CHATML": str(text_folder / "chatml.jinja"),
        "TRAIN": str(tiny.folder / "train.jsonl"),
        "TEXT": f"{{path='{text_folder}/[ab].jsonl', title_field='title'}}",
    }
    for name, path in names.items():
        keys = [key.replace(name, path) for key in keys]
    spec = spec_of(tiny, text_folder, f'data.packed="{packed}"', *keys)
    with pytest.raises(InputError, match=rf"\[data\] packed .*{difference}.*\n.*dskd data pack"):
        open_packed(text_parts(spec.data)[0], tokenizer, None)


def test_another_tokenizer_is_refused(
    tiny: TinyWorld, tokenizer: Any, text_folder: Path, packed: Path
) -> None:
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["abracadabra"])
    spec = spec_of(tiny, text_folder, f'data.packed="{packed}"')
    with pytest.raises(InputError, match="tokenizer was"):
        open_source(spec.data, other, seed=1, step_blocks=4)


def test_a_pack_with_other_special_tokens_is_refused(
    tiny: TinyWorld, tokenizer: Any, text_folder: Path, packed: Path
) -> None:
    other = copy.deepcopy(tokenizer)
    other.eos_token = other.convert_ids_to_tokens(5)  # the template writes it behind each answer
    spec = spec_of(tiny, text_folder, f'data.packed="{packed}"')
    with pytest.raises(InputError, match="special tokens was"):
        check_packed(spec.data, other, None)


def test_a_pack_that_does_not_record_its_special_tokens_is_refused(
    tiny: TinyWorld, tokenizer: Any, text_folder: Path
) -> None:
    (part,) = text_parts(spec_of(tiny, text_folder).data)
    now = origin_of(part, tokenizer, None)
    settings = {name: value for name, value in now["settings"].items() if name != CHAT}
    before = Origin(settings=settings | {"chat_template": "vocabulary"}, files=now["files"])
    assert difference(now, now, paths_of(part)) is None
    assert "an older version of dskd-ds packed it" in str(difference(before, now, paths_of(part)))


def test_a_changed_text_is_refused_and_a_copied_one_is_not(
    tiny: TinyWorld, tokenizer: Any, text_folder: Path, packed: Path, tmp_path: Path
) -> None:
    for name in ("a.jsonl", "b.jsonl", "chats.jsonl"):
        shutil.copy(text_folder / name, tmp_path / name)  # with a new time of modification
    spec = spec_of(tiny, tmp_path, f'data.packed="{packed}"')
    assert check_packed(spec.data, tokenizer, None)
    text = tmp_path / "b.jsonl"
    before = text.read_text()
    text.write_text(before.replace("bank", "tank", 1))
    with pytest.raises(InputError, match=r"b\.jsonl has another content now"):
        check_packed(spec.data, tokenizer, None)
    text.write_text(before + '{"title": "x", "text": "more"}\n')
    with pytest.raises(InputError, match=r"b.jsonl had \d+ bytes and now has \d+"):
        check_packed(spec.data, tokenizer, None)
    text.unlink()
    with pytest.raises(InputError, match=r"\[data.train.0\] has other files now"):
        check_packed(spec.data, tokenizer, None)


def test_a_copied_text_is_read_at_the_first_start_only(
    tiny: TinyWorld, tokenizer: Any, text_folder: Path, packed: Path, tmp_path: Path
) -> None:
    for name in ("a.jsonl", "b.jsonl", "chats.jsonl"):
        shutil.copy(text_folder / name, tmp_path / name)
    spec = spec_of(tiny, tmp_path, f'data.packed="{packed}"')
    assert check_packed(spec.data, tokenizer, None)
    text = tmp_path / "b.jsonl"
    content = json.loads(kept_file(text).read_text())
    assert content["sha256"] == known_sha256(text) == file_sha256(text)
    # What is kept is believed, so the file was not read.
    kept_file(text).write_text(json.dumps(content | {"sha256": "of another content"}))
    with pytest.raises(InputError, match=r"b\.jsonl has another content now"):
        check_packed(spec.data, tokenizer, None)
    text.write_text("more")
    assert known_sha256(text) == file_sha256(text)
    kept_file(text).write_text("{")
    assert known_sha256(text) == file_sha256(text)


def test_lost_conversations_stop_the_job_and_later_runs(
    tiny: TinyWorld, tokenizer: Any, text_folder: Path, packed: Path
) -> None:
    keys = ["data.max_lost_fraction=0.001"]
    with pytest.raises(InputError, match=r"\[data.train.1\]: 9 of 900 .* are malformed"):
        pack(spec_of(tiny, text_folder, *keys, f'data.packed="{text_folder / "lost"}"'), tokenizer)
    with pytest.raises(InputError, match=r"\[data.train.1\]: 9 of 900 .* are malformed"):
        check_packed(
            spec_of(tiny, text_folder, *keys, f'data.packed="{packed}"').data, tokenizer, None
        )
    allowed = spec_of(tiny, text_folder, "data.max_lost_fraction=0.02", f'data.packed="{packed}"')
    with pytest.raises(InputError, match=r"conversations are lost: .* than a block of 32"):
        check_packed(allowed.data, tokenizer, None)


def test_what_is_not_a_pack_is_left_alone(
    tiny: TinyWorld, tokenizer: Any, text_folder: Path
) -> None:
    folder = text_folder / "mine" / "text"
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("years of work")
    spec = spec_of(tiny, text_folder, f'data.packed="{folder.parent}"')
    with pytest.raises(InputError, match="exists and holds no packed text"):
        pack(spec, tokenizer)
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_two_jobs_do_not_pack_the_same_text(
    tiny: TinyWorld, tokenizer: Any, text_folder: Path
) -> None:
    spec = spec_of(tiny, text_folder, f'data.packed="{text_folder / "twice"}"')
    with (
        pack_job._only_job(text_folder / "twice" / "text", is_first=True),
        pytest.raises(InputError, match="another `dskd data pack`"),
    ):
        pack(spec, tokenizer)
