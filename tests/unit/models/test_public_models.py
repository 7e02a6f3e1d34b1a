"""Public models: their sizes give the published numbers of weights, without any network."""

from __future__ import annotations

import socket
import tomllib
from pathlib import Path

import pytest

from dskd_ds.costs.shapes import model_shape
from dskd_ds.models.config_file import read_config_file
from dskd_ds.models.public_models import public_config, public_models

BILLIONS = {
    "SmolLM2-135M": 0.1345,
    "SmolLM2-360M": 0.3618,
    "SmolLM2-1.7B": 1.711,
    "Llama-1B": 1.236,
    "Llama-3B": 3.213,
    "Llama-8B": 8.030,
    "Llama-70B": 70.55,
    "Llama-405B": 405.9,
    "Llama-3.0-8B": 8.030,
    "Llama-3.0-70B": 70.55,
    "Llama-2-7B": 6.738,
    "Llama-2-13B": 13.02,
    "Llama-2-70B": 68.98,
    "Qwen-0.5B": 0.494,
    "Qwen-1.5B": 1.544,
    "Qwen-3B": 3.086,
    "Qwen-7B": 7.616,
    "Qwen-14B": 14.77,
    "Qwen-32B": 32.76,
    "Qwen-72B": 72.71,
    "Mistral-7B": 7.242,
    "Mistral-7B-v0.2": 7.242,
    "Mistral-7B-v0.3": 7.248,
    "Mistral-123B": 122.6,
}
"""Weights of each model as its page on the hub counts them."""

ROLES = ("teacher", "student")


def test_sizes_give_the_published_numbers_of_weights() -> None:
    found = {
        name: model_shape(model.config, name).num_parameters / 1e9
        for name, model in public_models().items()
        if not name.endswith("-Instruct")
    }
    assert found == pytest.approx(BILLIONS, rel=1e-3)


def test_no_hub_name_has_two_sizes() -> None:
    names = [name for model in public_models().values() for name in model.names]
    assert len(names) == len(set(names))
    assert public_config("nobody/knows") is None


def test_the_models_of_shipped_specs_need_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    files = [*Path("ds_configs/paper").glob("*.toml"), *Path("ds_configs/runs").glob("*.toml")]
    specs = [tomllib.loads(file.read_text()) for file in files]
    models = [spec[role].get("model", "") for spec in specs for role in spec if role in ROLES]
    hub_names = [model for model in models if model.count("/") == 1 and "$" not in model]
    assert len(hub_names) >= 5
    for name in hub_names:
        assert model_shape(read_config_file(name), name).num_layers >= 32
