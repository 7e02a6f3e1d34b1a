"""`dskd senses projector`: export senses with labels for TensorBoard's embedding projector.

Values are written as text, because TensorBoard mistakes a file of raw numbers for text if its
bytes happen to be valid UTF-8.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from dskd_ds.errors import InputError
from dskd_ds.files.output import writing_output
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.look.forms import rows_of, words_with_senses
from dskd_ds.senses.look.show import snippet

TENSORS_FILE, METADATA_FILE, CONFIG_FILE = "tensors.tsv", "metadata.tsv", "projector_config.pbtxt"
FILES = {TENSORS_FILE, METADATA_FILE, CONFIG_FILE}
COLUMNS = ("sense", "word", "number", "vectors", "share", "spread", "context")
"""Columns of the metadata. The projector writes the first one beside a point."""
CHUNK_ROWS = 256
"""Rows that are converted to text at a time."""
CONTEXT_CHARACTERS = 60
"""Characters of text on each side of a token."""


def export_projector(
    dictionary: SenseDictionary, tokenizer: Any, folder: Path, max_senses: int
) -> int:
    """Write the senses of whole words that have the most vectors; return how many were written.

    Words have two letters or more. Raises InputError if the dictionary has no senses of whole
    words, or if the folder contains other files or cannot be written.
    """
    words = words_with_senses(dictionary, tokenizer)
    rows = rows_of(dictionary, words)
    # A word's frequent senses may be exported without its rare ones.
    by_count = np.argsort(-dictionary.sense_counts[rows], kind="stable")
    rows = rows[by_count][:max_senses]
    if not len(rows):
        raise InputError(
            f"{dictionary.folder}: none of its tokens is a whole word,"
            " so no sense can be labelled.\n"
            "  build it from more text ([senses] collect_tokens), or name another dictionary."
        )
    lines = [COLUMNS, *_labels(dictionary, words, rows)]
    text = "".join("\t".join(line) + "\n" for line in lines)
    with writing_output(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if any(path.name not in FILES for path in folder.iterdir()):
            raise InputError(
                f"--output {folder}: the folder contains other files.\n"
                "  name a new folder; TensorBoard reads everything in it."
            )
        _write_tensors(folder / TENSORS_FILE, dictionary, rows)
        (folder / METADATA_FILE).write_text(text, encoding="utf-8")
        _write_config(folder)
    return len(rows)


def _write_tensors(path: Path, dictionary: SenseDictionary, rows: NDArray[np.int64]) -> None:
    """Write one line of tab-separated values per row."""
    with (
        path.open("w", encoding="utf-8") as file,
        tqdm(total=len(rows), desc="writing senses", unit="senses") as progress,
    ):
        for chunk in torch.from_numpy(rows).split(CHUNK_ROWS):
            values = dictionary.senses[chunk].float().numpy()
            np.savetxt(file, values, fmt="%.5g", delimiter="\t")
            progress.update(len(chunk))


def _labels(
    dictionary: SenseDictionary, words: Mapping[int, str], rows: NDArray[np.int64]
) -> list[tuple[str, ...]]:
    """Return the values of COLUMNS for each row. words: token -> word."""
    contexts = dictionary.contexts_of(rows.tolist())
    labels: list[tuple[str, ...]] = []
    for row in rows.tolist():
        owner = int(dictionary.row_owners[row])
        rows_of_owner = dictionary.owner_rows(owner)
        counts = dictionary.sense_counts[rows_of_owner]
        sense_index = row - rows_of_owner.start
        # Senses are numbered as `dskd senses show` numbers them: the most frequent is 1.
        ranks = np.argsort(np.argsort(-counts, kind="stable"))
        number = int(ranks[sense_index]) + 1
        share = counts[sense_index] / max(1, counts.sum())
        context = "-"
        if contexts[row]:
            context = snippet(contexts[row][0], CONTEXT_CHARACTERS).strip()
        label = (
            f"{words[owner]} {number}",
            words[owner],
            str(number),
            str(counts[sense_index]),
            f"{share:.3f}",
            f"{float(dictionary.sense_spread[row]):.3f}",
            context,
        )
        labels.append(label)
    return labels


def _write_config(folder: Path) -> None:
    """Write the names of the two files, as a TensorBoard ProjectorConfig message in text form.

    Its paths are relative to the folder.
    """
    fields = {"tensor_name": "senses", "tensor_path": TENSORS_FILE, "metadata_path": METADATA_FILE}
    lines = "".join(f'  {name}: "{value}"\n' for name, value in fields.items())
    (folder / CONFIG_FILE).write_text(f"embeddings {{\n{lines}}}\n", encoding="utf-8")
