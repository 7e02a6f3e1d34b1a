"""Reads the prompts that the teacher is to continue, and deals them into batches."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dskd_ds.data.chat import ChatFormat
from dskd_ds.data.conversation import MalformedError, Message, given_answer, read_prompt
from dskd_ds.data.documents import load_source, named
from dskd_ds.data.packing import begin_ids, text_digest
from dskd_ds.data.tally import Tally
from dskd_ds.errors import InputError
from dskd_ds.spec import RunSpec
from dskd_ds.spec.data import SourceSpec
from dskd_ds.spec.recipe import RecipeSpec


@dataclass(frozen=True)
class Prompt:
    """A conversation up to the point where the teacher continues it."""

    number: int
    """Number of its row, counted over all sources."""
    row_id: str
    """Its column `id`; empty if it has none."""
    set_name: str
    """Its column `set`, or empty: the question set that it is from."""
    title: str
    messages: list[Message]
    answer: str | None
    """The answer that its row gives. It is only compared with the teacher's."""
    tokens: np.ndarray
    """[P] int32"""
    new_tokens: int
    """Most tokens of its continuation."""

    @property
    def key(self) -> int:
        """Key of its random draws."""
        return text_digest(self.row_id) if self.row_id else self.number

    def digest_into(self, digest: Any) -> None:
        """Add all that a continuation depends on to a hash."""
        facts = [self.number, self.row_id, self.set_name, self.title, self.new_tokens]
        digest.update(json.dumps(facts).encode())
        digest.update(self.tokens.tobytes())


@dataclass(frozen=True)
class Prompts:
    """The prompts of an epoch, and what was left out."""

    usable: list[Prompt]
    num_rows: Counter[str]
    """Question set -> number of its rows, usable or not."""
    reasons: Counter[str]
    """Reason -> number of the rows that were left out for it."""

    @property
    def num_lost(self) -> int:
        """Number of rows that were left out."""
        return self.num_rows.total() - len(self.usable)

    def fingerprint(self) -> str:
        """Return a digest of all prompts, in their order."""
        digest = hashlib.blake2b(digest_size=16)
        for prompt in self.usable:
            prompt.digest_into(digest)
        return digest.hexdigest()


def read_prompts(
    spec: RunSpec,
    inputs: list[str],
    recipe: RecipeSpec,
    chat: ChatFormat,
    epoch: int,
    max_tokens: int | None,
    is_printing: bool,
) -> Prompts:
    """Return the prompts of files of conversations, or of the spec's [data] train if none is given.

    The files may have columns `id`, `set` and `title`. Prompts that leave no room in a block (with
    packing = "none": in the `max_tokens` tokens that the teacher reads) are left out and counted.
    is_printing: print the counts.
    Raises InputError if a source has no conversations, or if more than the spec allows are lost.
    """
    prompts: list[Prompt] = []
    num_rows: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    numbers = itertools.count()
    for key, source in _sources(spec, inputs, epoch):
        tally = Tally(named(key, source.path))
        for row in load_source(source, key, stream=False):
            # Every row has a number: a prompt's draws do not depend on which rows are left out.
            number = next(numbers)
            num_rows[str(row.get("set") or "")] += 1
            try:
                prompt = _prompt(
                    row,
                    number,
                    source,
                    recipe=recipe,
                    chat=chat,
                    spec=spec,
                    max_tokens=max_tokens,
                )
                prompts.append(prompt)
            except MalformedError as error:
                tally.add(f"left out: {error}")
        if is_printing:
            tally.print_counts()
        reasons += tally.counts
    found = Prompts(prompts, num_rows, reasons)
    _check_lost(found, spec.data.max_lost_fraction)
    return found


def _sources(spec: RunSpec, inputs: list[str], epoch: int) -> Iterator[tuple[str, SourceSpec]]:
    """Yield the sources of an epoch, each with the key that names it in messages."""
    if inputs:
        for path in inputs:
            source = SourceSpec(path=path, format="chat", title_field="title")
            yield "--input", source.of_epoch(epoch)
        return
    for index, source in enumerate(spec.data.train):
        if source.format != "chat":
            raise InputError(
                f'[data.train.{index}] format = "{source.format}", but only conversations can be'
                " continued.\n"
                '  set format = "chat", or name files of conversations: --input FILE.jsonl.'
            )
        yield f"data.train.{index}", source.of_epoch(epoch)


def _prompt(
    row: dict[str, Any],
    number: int,
    source: SourceSpec,
    recipe: RecipeSpec,
    chat: ChatFormat,
    spec: RunSpec,
    max_tokens: int | None,
) -> Prompt:
    """Return the prompt of a row. Raises MalformedError if it has none, or one that is too long.

    max_tokens: the longest text that the teacher reads.
    """
    longest = spec.data.block_tokens if spec.data.packing == "blocks" else max_tokens
    messages = read_prompt(row)
    tokens = _prompt_tokens(chat.render(messages, generation_prompt=True), chat.tokenizer)
    set_name = str(row.get("set") or "")
    new_tokens = recipe.new_tokens_of(set_name)
    if longest is not None and len(tokens) + new_tokens > longest:
        what = "a block of" if spec.data.packing == "blocks" else "the teacher's limit of"
        raise MalformedError(f"the prompt and {new_tokens} tokens are longer than {what} {longest}")
    return Prompt(
        number=number,
        row_id=str(row.get("id") or ""),
        set_name=set_name,
        title=str(row.get(source.title_field) or "") if source.title_field else "",
        messages=messages,
        answer=given_answer(row),
        tokens=np.array(tokens, dtype=np.int32),
        new_tokens=new_tokens,
    )


def _prompt_tokens(text: str, tokenizer: Any) -> list[int]:
    """Return the tokens of a rendered prompt, with one BOS token if the tokenizer uses it."""
    begin = begin_ids(tokenizer)
    tokens: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    # Many templates write the BOS token themselves.
    return tokens if tokens[:1] == begin else [*begin, *tokens]


def _check_lost(prompts: Prompts, allowed: float) -> None:
    """Raise InputError if no prompt is left, or if a larger share is lost than `allowed`."""
    total = prompts.num_rows.total()
    if not prompts.usable:
        raise InputError(
            "[data] train: there is no conversation to continue.\n"
            "  give more, or raise [data] block_tokens."
        )
    if prompts.num_lost > allowed * total:
        # All ranks raise this, and only one prints the counts.
        reasons = "; ".join(f"{count} {reason}" for reason, count in prompts.reasons.most_common())
        raise InputError(
            f"{prompts.num_lost} of {total} conversations are left out, more than"
            f" [data] max_lost_fraction = {allowed} allows: {reasons}.\n"
            '  mend their reasons (too long: set [data] packing = "none"; rejected by the chat'
            " template: set [recipe] system_turn), or raise max_lost_fraction."
        )


def batches_of(prompts: Iterable[Prompt], size: int) -> list[list[Prompt]]:
    """Return batches of prompts of similar length, which need little padding; the longest first.

    All prompts of a batch have the same number of new tokens.
    """

    def order(prompt: Prompt) -> tuple[int, int, int]:
        return (-prompt.new_tokens, -len(prompt.tokens), prompt.number)

    batches: list[list[Prompt]] = []
    groups = itertools.groupby(sorted(prompts, key=order), key=lambda prompt: prompt.new_tokens)
    for _, group in groups:
        alike = list(group)
        batches += [alike[start : start + size] for start in range(0, len(alike), size)]
    return batches
