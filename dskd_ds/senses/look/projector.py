"""`dskd senses projector`: senses with labels, for TensorBoard's embedding projector.

Values are written as text: TensorBoard takes a file of raw numbers for text when its bytes happen to be valid UTF-8.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from dskd_ds.errors import InputError
from dskd_ds.senses.dictionary.dictionary import SenseDictionary
from dskd_ds.senses.look.forms import rows_of, words_with_senses
from dskd_ds.senses.look.show import snippet

TENSORS_FILE, METADATA_FILE, CONFIG_FILE = "tensors.tsv", "metadata.tsv", "projector_config.pbtxt"
COLUMNS = ("sense", "word", "number", "vectors", "share", "spread", "context")
"""The first is what the projector writes beside a point."""
ROWS_AT_ONCE = 256
CONTEXT_CHARACTERS = 60


def export_projector(
    dictionary: SenseDictionary, tokenizer: Any, folder: Path, max_senses: int
) -> int:
    """Write the `max_senses` senses of words (whole, of two letters or more) that have the most vectors. Returns how many.

    Raises InputError if the dictionary has none, or if the folder holds something else.
    """
    words = words_with_senses(dictionary, tokenizer)
    rows = rows_of(dictionary, words)
    rows = rows[np.argsort(-dictionary.sense_counts[rows], kind="stable")][:max_senses]
    if not len(rows):
        raise InputError(
            f"{dictionary.folder}: none of its tokens is a whole word, so there is nothing to label."
        )
    if folder.exists() and any(
        path.name not in {TENSORS_FILE, METADATA_FILE, CONFIG_FILE} for path in folder.iterdir()
    ):
        raise InputError(
            f"--output {folder}: this folder holds other files.\n  name a new folder; TensorBoard reads all that is in it."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / TENSORS_FILE).open("w") as file,
        tqdm(total=len(rows), desc="writing senses", unit="senses") as bar,
    ):
        for part in torch.from_numpy(rows).split(ROWS_AT_ONCE):
            np.savetxt(file, dictionary.senses[part].float().numpy(), fmt="%.5g", delimiter="\t")
            bar.update(len(part))
    (folder / METADATA_FILE).write_text(
        "".join("\t".join(line) + "\n" for line in [COLUMNS, *_labels(dictionary, words, rows)]),
        encoding="utf-8",
    )
    _write_config(folder)
    return len(rows)


def _labels(
    dictionary: SenseDictionary, words: dict[int, str], rows: np.ndarray[Any, np.dtype[np.int64]]
) -> list[tuple[str, ...]]:
    """One line of COLUMNS for each row."""
    contexts = dictionary.contexts_of(rows.tolist())
    labels: list[tuple[str, ...]] = []
    for row in rows.tolist():
        owner = int(dictionary.row_owners[row])
        own = dictionary.sense_counts[
            dictionary.owner_offsets[owner] : dictionary.owner_offsets[owner + 1]
        ]
        place = row - int(dictionary.owner_offsets[owner])
        number = (
            int(np.argsort(np.argsort(-own, kind="stable"))[place]) + 1
        )  # as `show` counts: the most frequent first
        context = snippet(contexts[row][0], CONTEXT_CHARACTERS).strip() if contexts[row] else "-"
        labels.append(
            (
                f"{words[owner]} {number}",
                words[owner],
                str(number),
                str(own[place]),
                f"{own[place] / max(1, own.sum()):.3f}",
                f"{float(dictionary.sense_spread[row]):.3f}",
                context,
            )
        )
    return labels


def _write_config(folder: Path) -> None:
    """Names the two files, as TensorBoard's ProjectorConfig message has it in text form; paths are relative to the folder."""
    fields = {"tensor_name": "senses", "tensor_path": TENSORS_FILE, "metadata_path": METADATA_FILE}
    (folder / CONFIG_FILE).write_text(
        "embeddings {\n"
        + "".join(f'  {name}: "{value}"\n' for name, value in fields.items())
        + "}\n"
    )
