"""The learning rate over a run."""

from __future__ import annotations

import math

from dskd_ds.spec import RunSpec


def lr_at(spec: RunSpec, step: int, total: int) -> float:
    """Return the rate of a step: linear warm-up, then a cosine to `min_lr_fraction` of the peak.

    step: counted from 0. total: steps of the whole run.
    """
    warmup = round(spec.optimizer.warmup_fraction * total)
    if step < warmup:
        return spec.peak_lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    floor = spec.optimizer.min_lr_fraction
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return spec.peak_lr * (floor + (1 - floor) * cosine)
