"""Opens a sense dictionary: a memory-mapped safetensors file with CSR offsets, and a manifest.

Owners are tokens (ids below `vocab_size`) and spans (ids from `vocab_size` on). The rows of
`senses` are sorted by owner, so the senses of owner o are the rows
`owner_offsets[o]:owner_offsets[o + 1]`. All processes of a node that open the file share its pages.
Beside it lie contexts.parquet (text snippets of each sense) and heldout.safetensors (some teacher
states that no sense was made from, for measurements). `write.py` writes dictionaries.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from dskd_ds.errors import InputError
from dskd_ds.files.manifest import read_manifest
from dskd_ds.lexicon.relations import Ragged
from dskd_ds.models.named import NamedModel
from dskd_ds.senses.dictionary.contexts import CONTEXTS_FILE, Context, read_contexts
from dskd_ds.senses.dictionary.facts import SENSES_FILE, Facts, with_present_names

FORMAT = 2
"""Version of the files. Dictionaries with another version are refused."""
HELDOUT_FILE = "heldout.safetensors"


@dataclass(frozen=True)
class HeldOut:
    """States that no sense was made from, to measure a dictionary and its index with.

    They are a uniform sample, sorted by hash.
    """

    tokens: Tensor
    """[Q] int64, the token that each state is attributed to."""
    hashes: Tensor
    """[Q] uint64"""
    states: Tensor
    """[Q, D] bfloat16"""


@dataclass(frozen=True)
class SenseDictionary:
    """An open dictionary."""

    folder: Path
    facts: Facts
    """The facts of the manifest."""
    senses: Tensor
    """[S, D] bfloat16, mapped from disk."""
    squared_norms: Tensor
    """[S] float32"""
    owner_offsets: NDArray[np.int64]
    """[owners + 1] first row of each owner."""
    row_owners: NDArray[np.int64]
    """[S] owner of each row."""
    sense_counts: NDArray[np.int64]
    """[S] number of vectors that each sense was made from; 0 for spans."""
    sense_spread: Tensor
    """[S] float32, mean squared distance per dimension of its vectors from a sense; 0 for spans."""
    synonyms: Ragged
    """Row t: the owners that are synonyms of token t."""
    antonyms: Ragged
    """Row t: the owners that are antonyms of token t."""
    spans: Ragged
    """Row i: the tokens of span i, whose owner id is vocab_size + i."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids; owners from here on are spans."""
        return self.facts["vocab_size"]

    @property
    def hidden_size(self) -> int:
        """Dimensions D of a sense."""
        return int(self.senses.shape[1])

    @property
    def num_token_rows(self) -> int:
        """Number of rows that belong to tokens. The rows after them belong to spans."""
        return int(self.owner_offsets[self.vocab_size])

    @property
    def layer(self) -> int:
        """The teacher's layer whose states were clustered; -1 is the input of its head."""
        return self.facts["layer"]

    @property
    def leaves_out_sinks(self) -> bool:
        """Whether no sense is made from attention sinks (sinks.py)."""
        return self.facts.get("sinks_left_out", False)

    @property
    def is_of_read_tokens(self) -> bool:
        """Whether a state belongs to the token that its position holds, not to what it predicts."""
        return self.facts.get("settings", {}).get("attribution") == "on"

    def owner_rows(self, owner: int) -> slice:
        """Return the rows of `senses` that belong to a token or span."""
        first, end = self.owner_offsets[owner : owner + 2].tolist()
        return slice(first, end)

    def owner_name(self, owner: int, tokenizer: Any) -> str:
        """Return the text of a token or span, with its leading space if it has one."""
        tokens = [owner]
        if owner >= self.vocab_size:
            tokens = self.spans.row(owner - self.vocab_size).tolist()
        name: str = tokenizer.decode(tokens)
        return name

    def contexts_of(self, rows: Iterable[int]) -> dict[int, list[Context]]:
        """Return row -> the contexts of its nearest states, nearest first; read from disk."""
        return read_contexts(self.folder / CONTEXTS_FILE, rows)

    def held_out(self) -> HeldOut:
        """Read the teacher states that no sense was made from."""
        return HeldOut(**load_file(self.folder / HELDOUT_FILE))


def open_dictionary(folder: str | Path, verify: bool = True) -> SenseDictionary:
    """Map a dictionary into memory.

    verify: compare the digests of its files first, which is enough once per node.
    Raises InputError if it is missing, truncated, altered or has another format, or if a sense has
    NaN or infinity.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            f'[senses] dictionary = "{folder}", but there is no such folder.\n'
            "  build it: dskd senses build SPEC.toml"
        )
    facts = cast(Facts, read_manifest(folder, verify))
    if facts.get("format") != FORMAT:
        raise InputError(
            f"{folder}: its format is {facts.get('format')}, but this version reads {FORMAT}.\n"
            "  build it again: dskd senses build SPEC.toml"
        )
    if "settings" in facts:
        facts = facts | {"settings": with_present_names(facts["settings"])}
    tensors = _map_tensors(folder)
    _refuse_not_finite(folder, tensors["squared_norms"])
    arrays = {name: t.numpy() for name, t in tensors.items() if t.dtype == torch.int64}
    offsets = arrays["owner_offsets"]
    return SenseDictionary(
        folder=folder,
        facts=facts,
        senses=tensors["senses"],
        squared_norms=tensors["squared_norms"],
        owner_offsets=offsets,
        # Not stored: it follows from the offsets. The other arrays are views of the mapped file.
        row_owners=np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)),
        sense_counts=arrays["sense_counts"],
        sense_spread=tensors["sense_spread"],
        synonyms=Ragged(arrays["synonym_offsets"], arrays["synonym_values"]),
        antonyms=Ragged(arrays["antonym_offsets"], arrays["antonym_values"]),
        spans=Ragged(arrays["span_offsets"], arrays["span_tokens"]),
    )


def _map_tensors(folder: Path) -> dict[str, Tensor]:
    """Return views of all tensors in the folder's senses file.

    Raises InputError if it is not a safetensors file.
    """
    path = folder / SENSES_FILE
    try:
        # safe_open maps the file: its tensors are views of pages that all processes share.
        with safe_open(path, framework="pt") as file:
            # `file` is not a dict, so it cannot be iterated without `keys`.
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(
            f"{path}: this is not a safetensors file ({error}).\n"
            f"  delete {folder} and build it again."
        ) from None


def _refuse_not_finite(folder: Path, squared_norms: Tensor) -> None:
    """Raise InputError if a sense has NaN or infinity; its norm then has too.

    A loss would become NaN at the first position with such a sense, perhaps after days. The norms
    are a few bytes per sense, so all processes of a node can check them.
    """
    rows = (~squared_norms.isfinite()).nonzero()
    if len(rows):
        raise InputError(
            f"{folder}: {len(rows)} of its {len(squared_norms)} senses are not finite, the first in"
            f" row {int(rows[0])}.\n"
            "  check that the teacher's hidden states are finite ([teacher] dtype), then build it"
            " again: dskd senses build SPEC.toml"
        )


def check_belongs(dictionary: SenseDictionary, teacher: str, tokenizer: str) -> None:
    """Check that a dictionary was built with this teacher and this tokenizer (fingerprints).

    Raises InputError if it was not.
    """
    for what, expected in (("teacher", teacher), ("tokenizer", tokenizer)):
        found = dictionary.facts.get(what)
        if found != expected:
            raise InputError(
                f"{dictionary.folder}: it was built with the {what} {found},"
                f" but this run's is {expected}.\n"
                "  build one for this teacher (dskd senses build SPEC.toml),"
                " or name another [senses] dictionary."
            )


def open_own(folder: str | Path, teacher: NamedModel, verify: bool = True) -> SenseDictionary:
    """Open a dictionary of this teacher.

    verify: see open_dictionary.
    Raises InputError if it cannot be opened, or belongs to another teacher.
    """
    teacher.locate()
    dictionary = open_dictionary(folder, verify)
    check_belongs(dictionary, teacher.fingerprint, teacher.tokenizer_fingerprint)
    return dictionary
