"""Compares a run spec with what the paper's authors do (plan/paper_facts.py)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from dskd_ds.plan.paper_facts import FACTS, Backbone, Fact
from dskd_ds.plan.paper_remarks import DELIBERATE, UNKNOWN, Remark
from dskd_ds.spec import RunSpec
from dskd_ds.spec.problems import show

MISSING = "(no [recipe])"


@dataclass(frozen=True)
class Deviation:
    """A key whose value is not the authors'."""

    key: str
    here: Any
    authors: Any
    effect: str

    def __str__(self) -> str:
        return (
            f"{self.key} = {_shown(self.here)}, the authors: {_shown(self.authors)}\n"
            f"    {self.effect}"
        )


@dataclass(frozen=True)
class PaperCheck:
    """How a spec differs from the paper."""

    backbone: Backbone
    """The run of the paper that the spec is compared with."""
    deviations: list[Deviation]
    deliberate: list[Remark]
    """What no spec can change."""
    unknown: list[Remark]
    """Choices of the spec where the authors' value is not known."""

    def as_json(self) -> dict[str, Any]:
        """Return all differences for a JSON file."""
        return asdict(self)


def backbone_of(spec: RunSpec) -> Backbone:
    """Return the paper's run that a spec is compared with, by the name of its teacher."""
    return "mistral_7b" if "mistral" in spec.teacher.model.lower() else "llama3_8b"


def check_paper(spec: RunSpec, backbone: Backbone) -> PaperCheck:
    """Compare a spec with one of the paper's two runs."""
    deviations = []
    for fact in FACTS:
        # The authors' reference run has no sense term: its dictionary does not matter.
        if fact.needs_senses and not spec.uses_senses:
            continue
        here, authors = value_of(spec, fact.key), getattr(fact.authors, backbone)
        if not _equal(fact, here, authors):
            deviations.append(Deviation(fact.key, here, authors, fact.effect))
    return PaperCheck(backbone, deviations, list(DELIBERATE), _unknown(spec))


def _unknown(spec: RunSpec) -> list[Remark]:
    """Return the choices of the spec where the authors' value is not known."""
    remarks = [
        Remark(remark.about, _shown(value_of(spec, remark.about)), remark.authors, remark.effect)
        for remark in UNKNOWN
        if spec.uses_senses or not remark.needs_senses
    ]
    if not spec.uses_senses:
        remarks.append(
            Remark(
                "optimizer.peak_lr",
                here=_shown(spec.peak_lr),
                authors="the learning rate of the reference run without senses is not known",
                effect="it decides how large the gain by senses looks",
            )
        )
    return remarks


def value_of(spec: RunSpec, key: str) -> Any:
    """Return the value of a dotted key, or of one that follows from several."""
    if key in DERIVED:
        return DERIVED[key](spec)
    value: Any = spec
    for name in key.split("."):
        if value is None:
            return MISSING
        value = getattr(value, name)
    return value


def _peak_lr(spec: RunSpec) -> float:
    return spec.peak_lr


def _new_tokens(name: str) -> Any:
    """Return a function that gives a set's number of new tokens."""

    def value(spec: RunSpec) -> Any:
        return MISSING if spec.recipe is None else spec.recipe.new_tokens_of(name)

    return value


def _of_all_sources(field: str) -> Any:
    """Return a function that gives the value that all training sources share, or all values."""

    def value(spec: RunSpec) -> Any:
        values = {getattr(source, field) for source in spec.data.train}
        return values.pop() if len(values) == 1 else tuple(sorted(values))

    return value


def _corpus(spec: RunSpec) -> tuple[str, ...]:
    """Return the kinds of text that the dictionary is made of, each with its cap."""
    senses = spec.senses
    kinds = [
        f"{text.format}, {text.vectors_per_token or senses.vectors_per_token} vectors per token"
        for text in senses.corpus
    ]
    return tuple(sorted(kinds)) or ("[data] train",)


def _corpus_paths(spec: RunSpec) -> tuple[str, ...]:
    return tuple(source.path for source in spec.senses.corpus or spec.data.train)


def _lexicon_files(spec: RunSpec) -> tuple[str, ...]:
    """Return the names of the lexicons' files, without their folders."""
    return tuple(Path(file).name for lexicon in spec.senses.lexicons for file in lexicon.files)


def _lexicon_kinds(spec: RunSpec) -> tuple[str, ...]:
    return tuple(sorted(lexicon.kind for lexicon in spec.senses.lexicons))


def _wiktextract_lists(spec: RunSpec) -> Any:
    lists = {lex.lists for lex in spec.senses.lexicons if lex.kind == "wiktextract"}
    return lists.pop() if len(lists) == 1 else tuple(sorted(lists))


def _has_morpholex(spec: RunSpec) -> bool:
    return spec.senses.morpholex is not None


def _heldout_fraction(spec: RunSpec) -> float:
    """Named sources take no part of the training data, whatever the fraction says."""
    return 0.0 if spec.data.heldout else spec.data.heldout_fraction


DERIVED = {
    "optimizer.peak_lr": _peak_lr,
    "data.heldout_fraction": _heldout_fraction,
    "data.train.format": _of_all_sources("format"),
    "data.train.supervise": _of_all_sources("supervise"),
    **{f"recipe.{name}.new_tokens": _new_tokens(name) for name in ("csqa", "piqa", "arc", "mmlu")},
    "recipe.squad.new_tokens": _new_tokens("squad"),
    "senses.corpus": _corpus,
    "senses.corpus_paths": _corpus_paths,
    "senses.lexicon_files": _lexicon_files,
    "senses.lexicon_kinds": _lexicon_kinds,
    "senses.wiktextract_lists": _wiktextract_lists,
    "senses.has_morpholex": _has_morpholex,
}
"""Keys whose value follows from several settings."""


def _equal(fact: Fact, here: Any, authors: Any) -> bool:
    if fact.key == "teacher.model":  # a folder or a file of the hub's name will do
        return Path(here).name.lower() == Path(authors).name.lower()
    if fact.key == "recipe.sets":
        return sorted(here) == sorted(authors)
    if fact.key == "senses.negating_affixes":
        return sorted(here) == sorted(authors)
    if isinstance(authors, float) and isinstance(here, int | float):
        return math.isclose(here, authors, rel_tol=1e-9)
    return bool(here == authors)


def _shown(value: Any) -> str:
    return value if value == MISSING else show(value)


BACKBONES: tuple[Backbone, ...] = get_args(Backbone)
