"""The tiny world's tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w

from dskd_ds.models.resolve import load_tokenizer
from tests.conftest import TinyWorld
from tests.unit.data.packs import pack, spec_of, write_texts


@pytest.fixture(scope="module")
def tokenizer(tiny: TinyWorld) -> Any:
    return load_tokenizer(str(tiny.folder / "teacher"))


@pytest.fixture
def tiny_recipe(tiny: TinyWorld, tmp_path: Path) -> Path:
    """The tiny spec with a [recipe] in the paper's style."""
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(tiny.spec_tree() | {"recipe": {"style": "paper"}}))
    return path


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts and conversations that fill several groups."""
    folder = tmp_path_factory.mktemp("packed")
    write_texts(folder)
    return folder


@pytest.fixture(scope="session")
def packed(tiny: TinyWorld, text_folder: Path) -> Path:
    """These texts, packed by one rank."""
    folder = text_folder / "one"
    spec = spec_of(tiny, text_folder, f'data.packed="{folder}"')
    pack(spec, load_tokenizer(str(tiny.folder / "teacher")))
    return folder
