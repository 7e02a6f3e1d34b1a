"""The tiny world's tokenizer."""

from __future__ import annotations

from typing import Any

import pytest

from dskd_ds.models.resolve import load_tokenizer
from tests.conftest import TinyWorld


@pytest.fixture(scope="module")
def tokenizer(tiny: TinyWorld) -> Any:
    return load_tokenizer(str(tiny.folder / "teacher"))
