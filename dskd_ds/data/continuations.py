"""Replaces the last answer of conversations by the teacher's own continuation.

The paper trains on prompts with a short continuation by the teacher, cut at a random point. Batches
are the same for any number of ranks, and random draws are keyed by (seed, epoch, conversation), so
the files do not depend on the number of ranks. commands/continue_conversations.py is what each rank
runs.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dskd_ds.data.chat import ChatFormat, chat_format
from dskd_ds.data.continue_facts import Facts, count_rows, facts_file, print_table, read_facts
from dskd_ds.data.continue_prompts import Prompt, Prompts, batches_of, read_prompts
from dskd_ds.data.epoch_files import check_output, of_epoch
from dskd_ds.data.parts import Parts
from dskd_ds.errors import InputError
from dskd_ds.files.atomic import write_json
from dskd_ds.models.generation import continue_tokens, end_ids_of, keyed_seed
from dskd_ds.models.named import NamedModel
from dskd_ds.runtime.devices import local_device, resolve_dtype
from dskd_ds.runtime.mpi import Communicator
from dskd_ds.spec import RunSpec
from dskd_ds.spec.recipe import RecipeSpec

TOKEN_DRAWS, CUT_DRAW = 0, 1
"""Last number of a key: keeps the draws of a conversation's tokens apart from that of its cut."""


def cut_at_random(tokens: list[int], key: tuple[int, int, int]) -> list[int]:
    """Return the first 1 to len(tokens) tokens, each number as likely.

    key: (seed, epoch, conversation). With a prompt of P tokens and k new ones, training then reads
    the first P to P + k - 1 tokens, and the last one kept is only a target.
    """
    share = np.random.default_rng(keyed_seed((*key, CUT_DRAW))).random()
    return tokens[: 1 + int(share * len(tokens))]


def continued(
    prompt: Prompt, tokens: list[int], kept: list[int], chat: ChatFormat, epoch: int
) -> dict[str, Any]:
    """Return the row of a prompt and its continuation.

    tokens: the whole continuation; kept: what the row keeps of it. The row has the tokens in
    `completion_ids`, which training reads, and their text in `completion`, for people.
    `equals_answer` tells whether the whole continuation is the answer that the prompt's row gave.
    """
    whole_text = chat.tokenizer.decode(tokens, skip_special_tokens=True).strip()
    # A cut within a character leaves a replacement mark.
    text = chat.tokenizer.decode(kept, skip_special_tokens=True).strip().rstrip("\ufffd")
    return {
        "id": prompt.row_id,
        "set": prompt.set_name,
        "epoch": epoch,
        "title": prompt.title,
        "prompt": prompt.messages,
        "completion": [{"role": "assistant", "content": text}],
        "completion_ids": kept,
        "tokenizer": chat.vocabulary,
        "equals_answer": None if prompt.answer is None else whole_text == prompt.answer.strip(),
    }


class Continuer:
    """A loaded teacher that continues prompts, batch by batch."""

    def __init__(self, spec: RunSpec, teacher: NamedModel, recipe: RecipeSpec, chat: ChatFormat):
        self._seed, self._recipe, self._chat = spec.seed, recipe, chat
        self._model = teacher.load().to(local_device()).eval()
        self._end_ids = end_ids_of(self._model, chat.tokenizer)

    def rows(self, batch: list[Prompt], epoch: int) -> list[tuple[int, dict[str, Any]]]:
        """Return (prompt's number, row) of each prompt."""
        keys = [(self._seed, epoch, prompt.key) for prompt in batch]
        continuations = continue_tokens(
            self._model,
            [prompt.tokens.tolist() for prompt in batch],
            keys=[(*key, TOKEN_DRAWS) for key in keys],
            new_tokens=batch[0].new_tokens,
            temperature=self._recipe.temperature,
            end_ids=self._end_ids,
            top_p=self._recipe.top_p,
        )
        rows = []
        for prompt, key, tokens in zip(batch, keys, continuations, strict=True):
            kept = cut_at_random(tokens, key) if self._recipe.cut == "random" else tokens
            row = continued(prompt, tokens, kept, self._chat, epoch)
            rows.append((prompt.number, row))
        return rows


class Job:
    """One rank's share of the continuations of a spec, over all epochs."""

    def __init__(
        self, spec: RunSpec, teacher: NamedModel, recipe: RecipeSpec, comm: Communicator
    ) -> None:
        self._spec, self._teacher, self._recipe, self._comm = spec, teacher, recipe, comm
        self._chat = chat_format(spec.data.chat_template, teacher.tokenizer)
        self._continuer: Continuer | None = None

    def write_epoch(self, output: Path, inputs: list[str], epoch: int) -> None:
        """Do this rank's share of an epoch; all ranks call it.

        Raises InputError if `output` exists and was made otherwise, or if it is the only epoch's.
        """
        exists = output.exists()
        if exists and self._recipe.epochs == 1:
            raise InputError(
                f"--output {output}: the file exists already.\n"
                "  delete it to write it again, or give another name."
            )
        is_first = self._comm.rank == 0
        prompts = read_prompts(
            self._spec,
            inputs,
            self._recipe,
            chat=self._chat,
            epoch=epoch,
            max_tokens=self._teacher.max_tokens,
            is_printing=is_first,
        )
        digest = self._digest(prompts, epoch)
        if exists:
            _check_made_of(output, digest)
            if is_first:
                print(f"{output}: complete already, kept as it is.")
            return
        num_rows = self._write(output, prompts, digest, epoch)
        if is_first:
            facts = Facts(digest, epoch, self._spec.seed, sets=count_rows(output, prompts))
            write_json(facts_file(output), facts.as_json(), indent=2)
            print(f"{output}: {num_rows} conversations, of {prompts.num_rows.total()}.")
            print_table(facts)

    def _write(self, output: Path, prompts: Prompts, digest: str, epoch: int) -> int:
        """Write this rank's batches and join all parts; returns the number of rows on rank 0."""
        comm = self._comm
        batches = batches_of(prompts.usable, self._recipe.batch_conversations)
        parts = Parts(output, digest, comm.rank)
        todo = [number for number in range(len(batches)) if number not in parts.done]
        mine = todo[comm.rank :: comm.size]
        comm.barrier()  # no rank writes before all ranks have read the existing parts
        if self._continuer is None:
            self._continuer = Continuer(self._spec, self._teacher, self._recipe, self._chat)
        title = f"epoch {epoch}: continuing on {comm.size} ranks"
        with parts, tqdm(total=len(mine), desc=title, unit="batch", disable=comm.rank > 0) as bar:
            for number in mine:
                parts.write(number, self._continuer.rows(batches[number], epoch))
                bar.update()
        comm.barrier()
        if comm.rank > 0:
            return 0
        # Before the output exists, so that a job that is killed here can go on with the next epoch.
        write_json(facts_file(output), {"made_of": digest}, sync=True)
        return parts.join()

    def _digest(self, prompts: Prompts, epoch: int) -> str:
        """Return a digest of everything that the continuations of an epoch depend on.

        Parts and files that were made of something else are refused.
        """
        recipe = self._recipe
        made_of = [
            [recipe.temperature, recipe.top_p, recipe.cut, recipe.batch_conversations],
            [self._spec.seed, epoch],
            self._teacher.fingerprint,
            str(resolve_dtype(self._teacher.dtype)),  # "auto" differs between machines
            self._chat.fingerprint,
            prompts.fingerprint(),
        ]
        return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()


def _check_made_of(output: Path, digest: str) -> None:
    """Raise InputError if an epoch's complete file was made of something else."""
    if read_facts(output).get("made_of") != digest:
        raise InputError(
            f"{output}: this was written with other settings, another teacher, tokenizer or"
            " conversations, or by an older version of dskd-ds.\n"
            "  delete it to write it again, or give another --output."
        )


def write_continuations(
    spec: RunSpec,
    teacher: NamedModel,
    output: str,
    inputs: list[str],
    recipe: RecipeSpec,
    comm: Communicator,
) -> None:
    """Do one rank's share of the work of all epochs; all ranks call it.

    It continues where an earlier call with the same settings stopped. Raises InputError if the
    output exists, or if parts of it were written with other settings.
    """
    check_output(output, recipe.epochs)
    job = Job(spec, teacher, recipe, comm)
    for epoch in range(recipe.epochs):
        job.write_epoch(Path(of_epoch(output, epoch)), inputs, epoch)
