"""Loads a language model, and refuses files that lack some of its weights.

transformers fills the gaps with random numbers and only logs it, below the level that is shown.
"""

from __future__ import annotations

from typing import Any

from dskd_ds.errors import InputError

SHOWN_NAMES = 3
"""Missing weights that a message names."""


def load_complete(path: str, written: str, **options: Any) -> Any:
    """Return a causal language model whose weights are all from its files.

    path: a folder or a hub name. written: how the user named it, for messages. options: further
    arguments of `from_pretrained`. Raises InputError if weights are missing or of another shape.
    """
    model, problems = _load(path, options)
    if problems:
        raise InputError(
            f"{written}: its files do not hold all weights of its configuration: {_some(problems)}."
            "\n  name a complete copy of the model, and the configuration that belongs to it."
        )
    return model


def check_cut(path: str, written: str, kept: list[int]) -> None:
    """Raise InputError if a model with only some of its layers lacks weights; reads no numbers.

    path: the copy. written: how the user named the model that was cut. kept: its layers.
    """
    _, problems = _load(path, {"device_map": "meta"})
    if problems:
        raise InputError(
            f"{written}: with only the layers {kept}, the configuration of this architecture asks"
            f" for weights that these layers do not have: {_some(problems)}.\n"
            "  it decides by a layer's number how the layer is built: keep other layers"
            " ([student] layers), or use another teacher."
        )


def _load(path: str, options: dict[str, Any]) -> tuple[Any, list[str]]:
    """Return a model, and its parameters that its files lack or hold in another shape."""
    from transformers import AutoModelForCausalLM

    # Without `ignore_mismatched_sizes` transformers raises an error that names no parameter.
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        path,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **options,
    )
    model, info = loaded
    # Buffers may be absent. Tied weights are not among `missing_keys`.
    parameters = {name for name, _ in model.named_parameters()}
    missing = sorted(parameters & set(info["missing_keys"]))
    shapes = [
        f"{name} ({list(found)} instead of {list(expected)})"
        for name, found, expected in sorted(info["mismatched_keys"])
    ]
    return model, missing + shapes


def _some(names: list[str]) -> str:
    """Return the first names, and how many more there are."""
    more = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
