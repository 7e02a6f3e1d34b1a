"""Sizes of public models by their hub names, so that a plan needs no network. Loads no torch."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class PublicModel:
    """Sizes that hub models share."""

    names: tuple[str, ...]
    """Their hub names."""
    config: dict[str, Any]
    """The entries of their config.json that sizes and costs follow from."""


@cache
def public_models() -> dict[str, PublicModel]:
    """Return the models of public_models.toml by their short names, such as `Llama-8B`."""
    text = (
        resources.files("dskd_ds.models").joinpath("public_models.toml").read_text(encoding="utf-8")
    )
    return {
        name: PublicModel(tuple(entry["names"]), entry["config"])
        for name, entry in tomllib.loads(text).items()
    }


def public_config(hub_name: str) -> dict[str, Any] | None:
    """Return the sizes of a hub model, or None if they are not known."""
    for model in public_models().values():
        if hub_name in model.names:
            return model.config
    return None
