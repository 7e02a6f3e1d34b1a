"""The tiny world's tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w

from dskd_ds.models.resolve import load_tokenizer
from tests.conftest import TinyWorld


@pytest.fixture(scope="module")
def tokenizer(tiny: TinyWorld) -> Any:
    return load_tokenizer(str(tiny.folder / "teacher"))


@pytest.fixture
def tiny_recipe(tiny: TinyWorld, tmp_path: Path) -> Path:
    """The tiny spec with a [recipe] in the paper's style."""
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(tiny.spec_tree() | {"recipe": {"style": "paper"}}))
    return path
