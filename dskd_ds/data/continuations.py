"""Replaces the last answer of conversations by the teacher's own continuation.

The paper trains on prompts with a short continuation by the teacher, cut at a random point. Batches
are the same for any number of ranks, and random draws are keyed by (seed, conversation), so the
file does not depend on the number of ranks. commands/continue_conversations.py is what each rank
runs.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dskd_ds.data.chat import ChatFormat, MalformedError, Message, chat_format, read_prompt
from dskd_ds.data.continue_options import Settings
from dskd_ds.data.documents import load_source
from dskd_ds.data.packing import begin_ids
from dskd_ds.data.parts import Parts
from dskd_ds.data.tally import Tally
from dskd_ds.errors import InputError
from dskd_ds.models.generation import continue_tokens, end_ids_of, keyed_seed
from dskd_ds.models.named import NamedModel
from dskd_ds.runtime.devices import local_device, resolve_dtype
from dskd_ds.runtime.mpi import Communicator
from dskd_ds.spec import RunSpec
from dskd_ds.spec.data import SourceSpec


@dataclass(frozen=True)
class Prompt:
    """A conversation up to the point where the teacher continues it."""

    number: int
    """Number of its row, counted over all sources."""
    title: str
    messages: list[Message]
    tokens: list[int]


def read_prompts(
    spec: RunSpec, inputs: list[str], settings: Settings, chat: ChatFormat, is_printing: bool
) -> list[Prompt]:
    """Return the prompts of files of conversations, or of the spec's [data] train if none is given.

    The files may have a column `title`. Prompts that leave no room in a block are left out and
    counted; is_printing: print the counts. Raises InputError if a source has no conversations.
    """
    sources = list(spec.data.train)
    if inputs:
        sources = [SourceSpec(path=path, format="chat", title_field="title") for path in inputs]
    max_tokens = spec.data.block_tokens - settings.new_tokens
    prompts: list[Prompt] = []
    numbers = itertools.count()
    for i, source in enumerate(sources):
        key = "--input" if inputs else f"data.train.{i}"
        _check_is_chat(source, key)
        tally = Tally(f"[{key}] {source.path}")
        for row in load_source(source, key, stream=False):
            # Every row has a number: a prompt's draws do not depend on which rows are left out.
            number = next(numbers)
            try:
                messages = read_prompt(row)
                text = chat.render(messages, generation_prompt=True)
            except MalformedError as error:
                tally.add(f"left out: {error}")
                continue
            tokens = _prompt_tokens(text, chat.tokenizer)
            if len(tokens) > max_tokens:
                tally.add(
                    f"left out: the prompt and {settings.new_tokens} tokens are longer than a block"
                    f" of {spec.data.block_tokens}"
                )
                continue
            title = str(row.get(source.title_field) or "") if source.title_field else ""
            prompts.append(Prompt(number, title, messages, tokens))
        if is_printing:
            tally.print_counts()
    return prompts


def _check_is_chat(source: SourceSpec, key: str) -> None:
    """Raise InputError if a source does not hold conversations."""
    if source.format != "chat":
        raise InputError(
            f'[{key}] format = "{source.format}", but only conversations can be continued.\n'
            '  set format = "chat", or name files of conversations: --input FILE.jsonl.'
        )


def _prompt_tokens(text: str, tokenizer: Any) -> list[int]:
    """Return the tokens of a rendered prompt, with one BOS token if the tokenizer uses it."""
    begin = begin_ids(tokenizer)
    tokens: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    # Many templates write the BOS token themselves.
    return tokens if tokens[:1] == begin else [*begin, *tokens]


def batches_of(prompts: list[Prompt], size: int) -> list[list[Prompt]]:
    """Return batches of prompts of similar length, which need little padding; the longest first."""
    ordered = sorted(prompts, key=lambda prompt: (-len(prompt.tokens), prompt.number))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def continued(
    prompt: Prompt, tokens: list[int], end_ids: list[int], tokenizer: Any, whole: bool, seed: int
) -> dict[str, Any] | None:
    """Return the row of a prompt and its continuation; None if no text is left.

    The row has `title`, `prompt`, `completion` and `open_end`.
    """
    kept = tokens
    if not whole:
        # The 1 keeps this draw apart from those of the tokens, whose key ends with 0.
        share = np.random.default_rng(keyed_seed((seed, prompt.number, 1))).random()
        kept = tokens[: 1 + int(share * len(tokens))]
    ended = len(kept) == len(tokens) and kept[-1] in end_ids
    # A cut within a character leaves a replacement mark.
    text = tokenizer.decode(kept, skip_special_tokens=True).strip().rstrip("\ufffd")
    if not text:
        return None
    return {
        "title": prompt.title,
        "prompt": prompt.messages,
        "completion": [{"role": "assistant", "content": text}],
        "open_end": not ended,
    }


class Continuer:
    """A loaded teacher that continues prompts, batch by batch."""

    def __init__(self, spec: RunSpec, teacher: NamedModel, settings: Settings, tokenizer: Any):
        from transformers import AutoModelForCausalLM

        self._seed, self._settings, self._tokenizer = spec.seed, settings, tokenizer
        model: Any = AutoModelForCausalLM.from_pretrained(
            teacher.path, dtype=resolve_dtype(teacher.dtype), trust_remote_code=False
        )
        self._model = model.to(local_device()).eval()
        self._end_ids = end_ids_of(self._model, tokenizer)

    def rows(self, batch: list[Prompt]) -> list[tuple[int, dict[str, Any]]]:
        """Return (prompt's number, row) of each prompt whose continuation is not empty."""
        settings = self._settings
        continuations = continue_tokens(
            self._model,
            [prompt.tokens for prompt in batch],
            keys=[(self._seed, prompt.number, 0) for prompt in batch],
            new_tokens=settings.new_tokens,
            temperature=settings.temperature,
            end_ids=self._end_ids,
        )
        rows = []
        for prompt, tokens in zip(batch, continuations, strict=True):
            row = continued(
                prompt,
                tokens,
                end_ids=self._end_ids,
                tokenizer=self._tokenizer,
                whole=settings.whole,
                seed=self._seed,
            )
            if row is not None:
                rows.append((prompt.number, row))
        return rows


def write_continuations(
    spec: RunSpec,
    teacher: NamedModel,
    output: Path,
    inputs: list[str],
    settings: Settings,
    comm: Communicator,
) -> None:
    """Do one rank's share of the work; all ranks call it.

    It continues where an earlier call with the same settings stopped. Raises InputError if `output`
    exists, or if parts of it were written with other settings.
    """
    if output.exists():
        raise InputError(
            f"--output {output}: the file exists already.\n"
            "  delete it to write it again, or give another name."
        )
    chat = chat_format(spec.data.chat_template, teacher.tokenizer)
    prompts = read_prompts(spec, inputs, settings, chat, is_printing=comm.rank == 0)
    batches = batches_of(prompts, settings.batch)
    if not batches:
        raise InputError(
            "[data] train: there is no conversation to continue.\n"
            "  give more, or raise [data] block_tokens."
        )
    made_of = _made_of(spec, teacher, settings, chat=chat, batches=batches)
    parts = Parts(output, made_of, comm.rank)
    todo = [number for number in range(len(batches)) if number not in parts.done]
    mine = todo[comm.rank :: comm.size]
    comm.barrier()  # no rank writes before all ranks have read the existing parts
    continuer = Continuer(spec, teacher, settings, chat.tokenizer)
    title = f"continuing on {comm.size} ranks"
    with parts, tqdm(total=len(mine), desc=title, unit="batch", disable=comm.rank > 0) as bar:
        for number in mine:
            parts.write(number, continuer.rows(batches[number]))
            bar.update()
    comm.barrier()
    if comm.rank == 0:
        print(f"{output}: {parts.join()} conversations, of {len(prompts)} prompts.")


def _made_of(
    spec: RunSpec,
    teacher: NamedModel,
    settings: Settings,
    chat: ChatFormat,
    batches: list[list[Prompt]],
) -> list[Any]:
    """Return everything that the continuations depend on, as JSON.

    Parts that were made of something else are refused.
    """
    return [
        asdict(settings),
        spec.seed,
        teacher.fingerprint,
        str(resolve_dtype(teacher.dtype)),  # "auto" differs between machines
        chat.fingerprint,
        # In the order of the batches, because padding changes results through rounding.
        [[prompt.number, prompt.title, prompt.tokens] for batch in batches for prompt in batch],
    ]
