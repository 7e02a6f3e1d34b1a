"""Finds the checkpoint with the lowest loss on held-out text, by the facts of the manifests."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dskd_ds.errors import InputError
from dskd_ds.files.manifest import MANIFEST_FILE, parse_manifest

LOSS, TEXT = "heldout_loss", "heldout_text"
"""Keys of a manifest's facts."""


@dataclass(frozen=True)
class HeldoutScore:
    """What a student's weights reach on the held-out text of a run."""

    loss: float
    """Mean cross-entropy, in nats; it may be infinite or NaN."""
    text: str
    """Digest of the measured tokens and targets. Losses on other texts cannot be compared."""

    def as_facts(self) -> dict[str, object]:
        """Return the facts for a manifest. JSON has no number for a loss that is not finite."""
        return {LOSS: self.loss if math.isfinite(self.loss) else None, TEXT: self.text}


@dataclass(frozen=True)
class BestCheckpoint:
    """The checkpoint with the lowest held-out loss."""

    tag: str
    """The name of its folder."""
    step: int
    loss: float
    """Mean cross-entropy on the held-out text, in nats."""


def best_checkpoint(folder: Path) -> BestCheckpoint | None:
    """Return the best of the complete checkpoints in `folder`; None if none was measured.

    Only those are compared that were measured on the same text as the newest measured one. Of
    equal losses the later step counts. The files are not compared with the manifests.
    """
    measured: list[tuple[str, BestCheckpoint]] = []
    for path in sorted(folder.glob(f"step-*/{MANIFEST_FILE}")):
        try:
            facts, _ = parse_manifest(path.parent)
        except (InputError, OSError):
            continue  # damaged, or deleted meanwhile
        found = _measured(path.parent.name, facts)
        if found:
            measured.append((str(facts[TEXT]), found))
    if not measured:
        return None
    newest_text = measured[-1][0]
    comparable = [found for text, found in measured if text == newest_text]
    return min(comparable, key=_loss_then_newest)


def _measured(tag: str, facts: dict[str, Any]) -> BestCheckpoint | None:
    """Return what a manifest says about a checkpoint; None if its loss was not measured."""
    loss, step = facts.get(LOSS), facts.get("step")
    if not isinstance(loss, int | float) or not isinstance(step, int) or TEXT not in facts:
        return None
    return BestCheckpoint(tag=tag, step=step, loss=float(loss))


def _loss_then_newest(found: BestCheckpoint) -> tuple[float, int]:
    return found.loss, -found.step
