"""[recipe]: how `dskd data paper` and `dskd data continue` make the conversations of a run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dskd_ds.spec.base import Fraction, NonNegativeFloat, NonNegativeInt, Part, PositiveInt

SetName = Literal["csqa", "piqa", "arc", "mmlu", "squad"]
"""Names of the question sets: CommonsenseQA, PIQA, ARC-Challenge, MMLU, SQuAD 2.0."""
ALL_SETS: tuple[SetName, ...] = ("csqa", "piqa", "arc", "mmlu", "squad")


class QuestionSetSpec(Part):
    """Where one question set comes from, and how long its continuations are."""

    path: str | None = None
    """File (`.jsonl`, `.json`, `.parquet`), glob or hub name of this question set. Without it: the
    hub name that `dskd data paper --help` lists, with its `subset` and `split`."""
    subset: str | None = None
    """Configuration of the hub dataset in `path`, if it has several."""
    split: str = "train"
    """Split of the hub dataset in `path`. Two are joined with `+`, as in "dev+validation"."""
    new_tokens: PositiveInt | None = None
    """Most tokens that the teacher continues a conversation of this set with; without it, [recipe]
    new_tokens. Paper: 10 for SQuAD 2.0, else 1; with Mistral 2 for PIQA."""


class RecipeSpec(Part):
    """How the conversations of a run are made from question sets, and continued by the teacher."""

    style: Literal["lettered", "paper"] = "lettered"
    """Wording of the prompts, and how questions and shots are drawn. `lettered`: answers such as
    "B. river", no system turn, the shot of SQuAD 2.0 is any question. `paper`: as the authors do:
    the label alone, a system turn per set, a shot of the same context, subsets by NumPy."""
    sets: Annotated[tuple[SetName, ...], Field(min_length=1)] = ALL_SETS
    """Question sets that are used."""
    choice_share: Fraction = 0.25
    """Share of the questions of CommonsenseQA, PIQA, ARC-Challenge and MMLU that is taken (paper:
    0.25). With style = "paper" it is a share of their total, split in proportion."""
    squad_share: Fraction = 0.30
    """Share of the questions of SQuAD 2.0 that is taken (paper: 0.30)."""
    squad_unit: Literal["question", "context", "article"] = "question"
    """What `squad_share` draws, for style = "paper": single questions, or all questions of a
    context or of an article (column `title`). The authors' way is not known."""
    squad_shots_from: Literal["all", "drawn"] = "drawn"
    """Where the shot of a SQuAD 2.0 question comes from, for style = "paper": from `all` questions
    of its context, or only from the `drawn` ones (the authors read a file of the drawn ones)."""
    subset_seed: NonNegativeInt = 42
    """Seed of NumPy's generator that draws the subset of CommonsenseQA, for style = "paper". Each
    further set adds 100 (paper: 42, 142, 242, 342)."""
    system_turn: Literal["system", "first_user", "none"] = "system"
    """Where the instruction stands, for style = "paper". `system`: in a turn of the role system.
    `first_user`: in front of the first user's text, for chat templates that reject a system turn.
    `none`: nowhere."""
    squad_system: Literal["assistant", "extract"] = "assistant"
    """Instruction for SQuAD 2.0, for style = "paper". `assistant`: a helpful assistant that answers
    from the context (the authors' for Llama). `extract`: copy the span and write nothing else
    (theirs for Mistral)."""
    epochs: PositiveInt = 1
    """Number of epochs for which shots, continuations and cuts are drawn anew. Above 1, the names
    of the files contain `{epoch}`, as in [data] epoch_files."""
    new_tokens: PositiveInt = 64
    """Most tokens of a continuation, for sets without a number of their own."""
    temperature: NonNegativeFloat = 0.0
    """Temperature at which the teacher's continuations are drawn; 0 takes the likeliest token each
    time. The authors leave it to the hub's settings: 0.6 for Llama-3-8B-Instruct, 0 for Mistral."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Continuations are drawn from the likeliest tokens that together have this probability; 1
    draws from all (Llama-3-8B-Instruct's hub settings: 0.9)."""
    cut: Literal["random", "none"] = "random"
    """Where a continuation ends. `random`: after a number of tokens drawn uniformly from 1 to its
    length (paper). `none`: nothing is cut off."""
    batch_conversations: PositiveInt = 16
    """Conversations that are continued together. It changes continuations through rounding."""
    csqa: QuestionSetSpec = QuestionSetSpec()
    """CommonsenseQA: its source and the length of its continuations."""
    piqa: QuestionSetSpec = QuestionSetSpec()
    """PIQA: its source and the length of its continuations."""
    arc: QuestionSetSpec = QuestionSetSpec()
    """ARC-Challenge: its source and the length of its continuations."""
    mmlu: QuestionSetSpec = QuestionSetSpec()
    """MMLU: its source and the length of its continuations. Which file the authors train on is not
    known."""
    squad: QuestionSetSpec = QuestionSetSpec()
    """SQuAD 2.0: its source and the length of its continuations."""

    def set_spec(self, name: str) -> QuestionSetSpec:
        """Return the settings of a question set by its name."""
        chosen: QuestionSetSpec = getattr(self, name)
        return chosen

    def new_tokens_of(self, name: str) -> int:
        """Return the most tokens of a continuation for a set; `name` may be any text."""
        if name not in ALL_SETS:
            return self.new_tokens
        return self.set_spec(name).new_tokens or self.new_tokens
