"""The sizes of a language model that its costs follow from, read from a Hugging Face configuration.

Works for the dense decoders that are listed here. A test compares the counts with transformers' own
models. Loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dskd_ds.costs.class_defaults import class_defaults, with_defaults
from dskd_ds.errors import NoFormulaError

GATED_MLP = frozenset(
    {
        "cohere",
        "cohere2",
        "cwm",
        "ernie4_5",
        "exaone",
        "exaone4",
        "gemma",
        "gemma2",
        "gemma3",
        "gemma3_text",
        "glm",
        "glm4",
        "granite",
        "helium",
        "internlm3",
        "llama",
        "ministral3",
        "mistral",
        "olmo",
        "olmo2",
        "olmo3",
        "phi3",
        "qwen2",
        "qwen3",
        "seed_oss",
        "smollm3",
        "stablelm",
        "vaultgemma",
    }
)
"""Model types whose MLP has three matrices."""
TWO_MATRIX_MLP = frozenset(
    {
        "apertus",
        "arcee",
        "gpt2",
        "gpt_neox",
        "jais2",
        "mpt",
        "nemotron",
        "opt",
        "phi",
        "starcoder2",
    }
)
"""Model types whose MLP has two matrices. Types in neither list have no formula."""
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
"""Entries that a mixture of experts has."""
QUERY_KEY_NORMS = frozenset(
    {"apertus", "exaone4", "gemma3", "gemma3_text", "olmo2", "olmo3", "qwen3"}
)
"""Model types that normalise queries and keys."""
NORMS_PER_LAYER = {
    "cohere": 1,
    "cohere2": 1,
    "gemma2": 4,
    "gemma3": 4,
    "gemma3_text": 4,
    "glm4": 4,
    "phi": 1,
}
"""Norms of a layer, where there are not two."""
NORMS_WITHOUT_BIAS = frozenset({"cohere", "cohere2", "exaone", "mpt"})
"""Model types whose norms have no bias, although an entry is named as that of a LayerNorm."""
NO_OUTPUT_BIAS = frozenset({"glm", "glm4", "qwen2", "seed_oss"})
"""Model types whose `attention_bias` is that of queries, keys and values only."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a dense decoder."""

    name: str
    hidden_size: int
    """D."""
    intermediate_size: int
    """Width of the MLP."""
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    """Numbers of a query, key or value of one head."""
    vocab_size: int
    """Rows of the embedding and of the head."""
    tied: bool
    """Whether the head is the embedding."""
    gated: bool
    """Whether the MLP has three matrices instead of two."""
    matmul_parameters_per_layer: int
    """Weights of a layer that multiply the states: attention and MLP, without biases and norms."""
    parameters_per_layer: int
    """All weights of a layer."""
    num_outer_parameters: int
    """The final norm, learned positions and the head's bias, where the model has them; not
    embedding and head."""
    norms_per_layer: int = 2
    norms_queries: bool = False
    """Whether queries and keys are normalised."""
    max_tokens: int | None = None
    """Longest text that the model reads; None if its configuration sets no limit."""

    @property
    def embedding_parameters(self) -> int:
        """Weights of the embedding."""
        return self.vocab_size * self.hidden_size

    @property
    def head_parameters(self) -> int:
        """Weights of a head of its own; 0 if the head is the embedding."""
        return 0 if self.tied else self.embedding_parameters

    @property
    def num_parameters(self) -> int:
        """All weights of the model; a tied head is counted once."""
        layers = self.num_layers * self.parameters_per_layer
        outside = self.embedding_parameters + self.head_parameters + self.num_outer_parameters
        return layers + outside

    @property
    def query_size(self) -> int:
        """Width of the queries of all heads."""
        return self.num_heads * self.head_size

    @property
    def kv_size(self) -> int:
        """Width of the keys, and of the values, of all heads."""
        return self.num_kv_heads * self.head_size

    def with_layers(self, num_layers: int) -> ModelShape:
        """Return the same model with another number of layers."""
        return replace(self, num_layers=num_layers)


def model_shape(config: Mapping[str, Any], name: str = "model") -> ModelShape:
    """Return the sizes in a Hugging Face configuration (the content of a config.json).

    name: of the model, for messages. A multimodal model's `text_config` is used. Entries that are
    missing have the defaults of the model's class, as when transformers makes the model.
    Raises NoFormulaError if a size is null, or if the model is of another type than those listed
    here, or a mixture of experts.
    """
    given = config.get("text_config", config)
    kind = str(given.get("model_type", config.get("model_type", "")))
    text = with_defaults(given, kind)
    if any(text.get(key) for key in EXPERTS):
        raise NoFormulaError(
            f"{name}: this model is a mixture of experts, whose costs have no formula here.\n"
            "  use a dense model."
        )
    if kind not in GATED_MLP | TWO_MATRIX_MLP:
        raise NoFormulaError(
            f'{name}: its type (model_type = "{kind}") has no formula of costs here.\n'
            "  plan with a model of another type (Llama, Qwen, Mistral, Gemma ...); `dskd train`"
            " runs it without this check."
        )
    hidden = _size(text, name, "hidden_size")
    heads = _size(text, name, "num_attention_heads")
    kv_heads = int(text.get("num_key_value_heads") or _grouped_heads(text) or heads)
    head_size = int(text.get("head_dim") or hidden // heads)
    width = _mlp_width(text, hidden)
    is_gated = kind in GATED_MLP
    query, kv = heads * head_size, kv_heads * head_size
    matmul = hidden * (2 * query + 2 * kv) + (3 if is_gated else 2) * hidden * width
    norm = _norm_parameters(text, kind, hidden)
    small = NORMS_PER_LAYER.get(kind, 2) * norm + _biases(text, kind, hidden, query, kv, width)
    if kind in QUERY_KEY_NORMS:
        small += query + kv if kind.startswith("olmo") else 2 * head_size
    max_tokens = text.get("max_position_embeddings")
    outer = norm + _positions(kind, int(max_tokens or 0)) * hidden
    if kind == "phi":  # its head has a bias
        outer += _size(text, name, "vocab_size")
    return ModelShape(
        name=name,
        hidden_size=hidden,
        intermediate_size=width,
        num_layers=_size(text, name, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_size=head_size,
        vocab_size=_size(text, name, "vocab_size"),
        tied=_is_tied(config, given, kind),
        gated=is_gated,
        matmul_parameters_per_layer=matmul,
        parameters_per_layer=matmul + small,
        num_outer_parameters=outer,
        norms_per_layer=NORMS_PER_LAYER.get(kind, 2),
        norms_queries=kind in QUERY_KEY_NORMS,
        max_tokens=int(max_tokens) if max_tokens else None,
    )


def _size(text: Mapping[str, Any], name: str, key: str) -> int:
    """Return an entry. Raises NoFormulaError if it is not given."""
    if text.get(key):
        return int(text[key])
    raise NoFormulaError(
        f"{name}: its configuration has no {key}.\n"
        "  use a decoder whose configuration lists its sizes (Llama, Qwen, Mistral, Gemma ... do)."
    )


def _grouped_heads(text: Mapping[str, Any]) -> int | None:
    """Return MPT's number of key and value heads, if it is given."""
    attention = text.get("attn_config")
    return attention.get("kv_n_heads") if isinstance(attention, Mapping) else None


def _mlp_width(text: Mapping[str, Any], hidden: int) -> int:
    """Return the width of the MLP; GPT-2 and MPT give a multiple of D, or nothing."""
    width = text.get("intermediate_size")
    return int(width) if width else int(text.get("expansion_ratio", 4) * hidden)


def _norm_parameters(text: Mapping[str, Any], kind: str, hidden: int) -> int:
    """Return the weights of one norm. LayerNorm has a bias in most models; RMSNorm has none."""
    if kind == "olmo":  # its norms have no weights
        return 0
    entries = ("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon")
    has_bias = kind in ("nemotron", "opt") or any(entry in text for entry in entries)
    return 2 * hidden if has_bias and kind not in NORMS_WITHOUT_BIAS else hidden


def _positions(kind: str, max_tokens: int) -> int:
    """Return the number of learned positions. OPT's begin at 2."""
    return {"gpt2": max_tokens, "opt": max_tokens + 2}.get(kind, 0)


def _biases(
    text: Mapping[str, Any], kind: str, hidden: int, query: int, kv: int, width: int
) -> int:
    """Return the biases of a layer's attention and MLP."""
    if kind in ("gpt2", "gpt_neox", "phi", "opt"):
        return query + 2 * kv + hidden + width + hidden
    biases = 2 if kind == "apertus" else 0  # numbers of its activation function
    if kind == "qwen2" or text.get("attention_bias") or text.get("use_qkv_bias"):
        biases += query + 2 * kv
    if text.get("attention_bias") and kind not in NO_OUTPUT_BIAS:
        biases += hidden
    if text.get("mlp_bias"):
        biases += (2 if kind in GATED_MLP else 1) * width + hidden
    if kind == "starcoder2" and text.get("use_bias"):
        biases += query + 2 * kv + hidden + width + hidden
    return biases


def _is_tied(config: Mapping[str, Any], text: Mapping[str, Any], kind: str) -> bool:
    """Return whether the head is the embedding. Without an entry the model's class decides."""
    for source in (text, config):
        if source.get("tie_word_embeddings") is not None:
            return bool(source["tie_word_embeddings"])
    return bool(class_defaults(kind).get("tie_word_embeddings"))
