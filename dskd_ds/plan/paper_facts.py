"""What the paper's authors do, as far as it is known: one table, by key of the run spec.

It describes the training scripts that the authors published (state of March 2026). What nobody can
read in them or in the paper, and what this program does in another way whatever the spec, is in
plan/paper_remarks.py. plan/paper_check.py compares a spec with the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Backbone = Literal["llama3_8b", "mistral_7b"]


class Values(NamedTuple):
    """The authors' values for their two runs."""

    llama3_8b: Any
    mistral_7b: Any


def both(value: Any) -> Values:
    """Return a value that is the same in both runs."""
    return Values(value, value)


@dataclass(frozen=True)
class Fact:
    """A key of the run spec, the authors' value, and what another value changes."""

    key: str
    """Dotted key. `optimizer.peak_lr` and the keys of `DERIVED` follow from several."""
    authors: Values
    effect: str
    needs_senses: bool = False
    """Whether the key matters only with the sense term. The authors' reference run has none."""


NEGATING_AFFIXES = (
    *("un-", "dis-", "non-", "in-", "im-", "il-", "ir-", "anti-", "de-", "a-", "an-"),
    *("-less", "-free"),
)
"""The authors' negating affixes, as [senses] negating_affixes."""

MODEL_FACTS = (
    Fact(
        "teacher.model",
        Values("meta-llama/Meta-Llama-3-8B-Instruct", "mistralai/Mistral-7B-Instruct-v0.1"),
        "another teacher; none of the paper's scores can be compared",
    ),
    Fact("teacher.dtype", both("bfloat16"), "other rounding of the teacher's states and logits"),
    Fact("student.model", both(None), "the student does not start from the teacher's weights"),
    Fact("student.layers", both("first"), "other layers of the teacher are kept"),
    Fact("student.num_layers", both(16), "a student of another depth"),
    Fact("student.train_last_layers", both(2), "more or fewer weights are trained"),
    Fact("student.dtype", both("bfloat16"), "other rounding of the student's forward pass"),
    Fact(
        "student.precision",
        both("bf16"),
        "float32 master weights keep the small updates that bfloat16 weights lose",
    ),
    Fact(
        "student.attention_dropout",
        Values(0.1, 0.0),
        "dropout acts in all 16 layers, the frozen ones too",
    ),
)

TRAINING_FACTS = (
    Fact(
        "optimizer.peak_lr",
        Values(1.5e-4, 6e-5),
        "the authors multiply the learning rate by their 3 ranks; this is the product",
    ),
    Fact("optimizer.betas", both((0.9, 0.999)), "other running means in AdamW"),
    Fact("optimizer.eps", both(1e-8), "other step sizes in AdamW"),
    Fact("optimizer.weight_decay", both(1e-3), "other decay of the trained weights"),
    Fact("optimizer.warmup_fraction", both(0.1), "another warm-up"),
    Fact("optimizer.min_lr_fraction", both(0.0), "the cosine does not end at 0"),
    Fact("optimizer.max_grad_norm", both(0.0), "large gradients are clipped"),
    Fact("train.num_epochs", both(2.0), "another number of passes over the data"),
    Fact("train.global_batch_blocks", both(3), "another number of sequences per optimiser step"),
    Fact("train.skip_loss_spikes", both(0.0), "steps whose loss jumps are skipped"),
    Fact("train.on_policy_fraction", both(0.0), "part of the steps trains on the student's text"),
)

LOSS_FACTS = (
    Fact("loss.signal", both("exact"), "the KL is not that of the whole vocabulary"),
    Fact("link.hidden_format", both("bfloat16"), "the teacher's states are rounded once more"),
    Fact("loss.divergence", both("forward"), "another direction of the KL"),
    Fact("loss.ce_weight", both(1.0), "another weight of the cross-entropy"),
    Fact("loss.kd_weight", both(0.7), "another weight of the KL (times temperature squared: 2.8)"),
    Fact("loss.temperature", both(2.0), "another temperature of the KL"),
    Fact("loss.normalise", both("sequence"), "long sequences weigh more than short ones"),
    Fact("loss.sense_weight", Values(1.0, 1.5), "another weight of the sense term", True),
    Fact("loss.sense_weighting", both("uniform"), "positions weigh differently", True),
    Fact("loss.shuffled_senses", both(False), "tokens have the senses of others", True),
    Fact("loss.pull", both(1.0), "another weight of the pull", True),
    Fact("loss.push", both(1.0), "another weight of the push", True),
    Fact("loss.margin", both(1.0), "the push acts within another distance", True),
    Fact("loss.margin_unit", both("absolute"), "the push acts within another distance", True),
)

DATA_FACTS = (
    Fact("data.packing", both("none"), "several conversations share a row, or are cut"),
    Fact("data.heldout_fraction", both(0.0), "part of the training data is held out"),
    Fact("data.chat_template", both("tokenizer"), "other markers between the turns"),
    Fact("data.epoch_files", both(2), "both epochs have the same shots, continuations and cuts"),
    Fact("data.train.format", both("chat"), "the text is no conversation"),
    Fact("data.train.supervise", both("all"), "prompt tokens are no targets"),
    Fact("data.stream", both(False), "the order is not drawn anew per epoch"),
    Fact("recipe.style", both("paper"), "other prompts, labels, subsets and shots"),
    Fact(
        "recipe.sets",
        both(("csqa", "piqa", "arc", "mmlu", "squad")),
        "question sets are missing from the mixture",
    ),
    Fact("recipe.choice_share", both(0.25), "another share of the multiple-choice questions"),
    Fact("recipe.squad_share", both(0.30), "another share of SQuAD 2.0"),
    Fact("recipe.subset_seed", both(42), "another subset of the questions (42, 142, 242, 342)"),
    Fact("recipe.system_turn", both("system"), "the instruction is elsewhere or missing"),
    Fact("recipe.squad_system", Values("assistant", "extract"), "another instruction for SQuAD"),
    Fact("recipe.epochs", both(2), "shots, continuations and cuts are not drawn anew per epoch"),
    Fact("recipe.cut", both("random"), "continuations are not cut at a random token"),
    Fact("recipe.csqa.new_tokens", both(1), "longer continuations of CommonsenseQA"),
    Fact("recipe.piqa.new_tokens", Values(1, 2), "Mistral writes a blank token before a digit"),
    Fact("recipe.arc.new_tokens", both(1), "longer continuations of ARC-Challenge"),
    Fact("recipe.mmlu.new_tokens", both(1), "longer continuations of MMLU"),
    Fact("recipe.squad.new_tokens", both(10), "continuations of SQuAD of another length"),
    Fact(
        "recipe.temperature",
        Values(0.6, 0.0),
        "Llama's targets are sampled (its hub settings), Mistral's are the likeliest tokens",
    ),
    Fact("recipe.top_p", Values(0.9, 1.0), "the teacher's answers are drawn from more tokens"),
    Fact("recipe.csqa.path", both("tau/commonsense_qa"), "another source of the questions"),
    Fact("recipe.piqa.path", both("lighteval/piqa"), "another source of the questions"),
    Fact("recipe.arc.path", both("allenai/ai2_arc"), "another source of the questions"),
)

SENSE_FACTS = tuple(
    Fact(key, authors, effect, needs_senses=True)
    for key, authors, effect in (
        (
            "senses.corpus",
            both(("chat, 2000 vectors per token", "text, 1800 vectors per token")),
            "other texts (authors: Wikipedia, and the whole question sets as conversations)",
        ),
        ("senses.attribution", both("argmax"), "states belong to other tokens"),
        ("senses.hidden_layer", both(-1), "senses are states of another layer"),
        ("senses.min_confidence", both(0.0), "states of which the teacher is unsure are left out"),
        ("senses.clustering", both("fixed"), "the number of senses differs between tokens"),
        ("senses.num_senses", Values(10, 5), "another number of senses per token"),
        ("senses.spelling", both("as_written"), "words get further forms, or are left out"),
        ("senses.negation", both("replace"), "negated words stay beside their base"),
        (
            "senses.negating_affixes",
            both(NEGATING_AFFIXES),
            "other words count as negated (the authors' list takes *inform* for negated too)",
        ),
        ("senses.conflicts", both("keep"), "a word is no longer synonym and antonym at once"),
        ("senses.max_list_length", both(0), "long lists of related words are thinned"),
        (
            "senses.lexicon_kinds",
            both(("pairs", "wiktextract")),
            "other word relations (authors: Wiktionary and two files of word pairs)",
        ),
        (
            "senses.wiktextract_lists",
            both("senses"),
            "Wiktionary's lists of whole entries are read too",
        ),
        ("senses.has_morpholex", both(True), "negations are found by a rule, not by MorphoLEX"),
        ("senses.max_span_tokens", both(3), "longer or shorter related words"),
        (
            "senses.min_span_tokens",
            both(2),
            "related words of one token, which the authors lose, are used",
        ),
        (
            "senses.relations_without_senses",
            both("keep"),
            "tokens count as related only if one of their related words has a sense",
        ),
        ("senses.candidates", both("lexical"), "candidates come from the index too"),
        ("senses.kappa", both(5), "another number of nearest senses"),
        ("senses.num_related_words", both(25), "more or fewer related words are drawn"),
        ("senses.min_positions", both(25), "another number of sense positions"),
        ("senses.position_fraction", both(0.4), "another number of sense positions"),
        ("senses.position_rounding", both("down"), "one more sense position in some sequences"),
        (
            "senses.positions",
            both("independent"),
            "no position is both in the group with relations and in the one that only pulls",
        ),
        ("senses.own_in_pull", both("with_synonyms"), "tokens without synonyms are pulled too"),
        (
            "senses.own_in_push",
            both("with_antonyms"),
            "a token's own senses do not push where it has antonyms",
        ),
    )
)

FACTS = (*MODEL_FACTS, *DATA_FACTS, *TRAINING_FACTS, *LOSS_FACTS, *SENSE_FACTS)
