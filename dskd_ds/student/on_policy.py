"""On-policy batches: in a share of the steps the student trains on text that it wrote itself.

Source: GKD, arXiv 2306.13649. The prompts come from the blocks that the step would have trained
on. The student continues them, and the teacher scores the result like any other text. A step's
requests are sent `prefetch_depth` steps ahead, so the student writes the text with weights that
are this many steps old, as in asynchronous RL. A checkpoint contains the text of steps that are not
done, so a resumed run trains on the same text.

Under ZeRO-3 the whole student is gathered once per on-policy step and lent to a plain copy of the
module, which has none of DeepSpeed's hooks (docs/deepspeed.md, "Roles and worlds"). So ranks may
make different numbers of forward calls, and DeepSpeed's record of module calls stays correct.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import deepspeed
import torch

from dskd_ds.data.batches import BlockSource, Sample, places
from dskd_ds.data.block import Block
from dskd_ds.data.blocks import end_of_text_id
from dskd_ds.data.packing import Segment, begin_ids, block_row
from dskd_ds.models.generation import continue_tokens, end_ids_of
from dskd_ds.runtime.devices import local_device
from dskd_ds.spec import RunSpec
from dskd_ds.student.collectives import raise_on_every_rank
from dskd_ds.student.deepspeed_engine import Engine
from dskd_ds.student.prompts import prompts_of
from dskd_ds.student.run_state import State


def is_on_policy(fraction: float, step: int) -> bool:
    """Return whether the student writes the text of a step (steps count from 0).

    The share `fraction` of the steps is spread evenly, and is the same on every rank.
    """
    return int((step + 1) * fraction) > int(step * fraction)


@dataclass(frozen=True)
class WrittenBlock:
    """A block of an on-policy step."""

    sample: Sample
    block: Block
    num_tokens: int
    """Number of tokens that the student wrote."""


class OnPolicyBlocks:
    """A BlockSource that replaces the blocks of some steps by the student's own continuations.

    All ranks must ask for blocks of the same steps in the same order.
    """

    def __init__(
        self, spec: RunSpec, tokenizer: Any, rank: int, source: BlockSource, engine: Engine
    ) -> None:
        self._spec = spec
        self._rank = rank
        self._source = source
        self._engine = engine
        self._pad_id = end_of_text_id(tokenizer)
        self._begin = begin_ids(tokenizer)
        end_ids = [self._pad_id, *end_ids_of(engine.module.language_model, tokenizer)]
        self._end_ids = list(dict.fromkeys(end_ids))
        # Both have a key per on-policy step that is written and not done.
        self._written: dict[int, dict[int, WrittenBlock]] = {}
        self._seconds: dict[int, float] = {}

    def get(self, block_index: int) -> tuple[Sample, Block]:
        """Return a block, as `BlockSource.get` does.

        The first block of an on-policy step makes the student write all blocks of this rank in
        that step, which is a collective call.
        """
        step = block_index // self._spec.train.global_batch_blocks
        if not is_on_policy(self._spec.train.on_policy_fraction, step):
            return self._source.get(block_index)
        if step not in self._written:
            self._write_step(step)
        written = self._written[step][block_index]
        return written.sample, written.block

    def all_reduce_report(self, step: int, num_supervised: int) -> dict[str, float]:
        """Return the metrics of a step that is done, and forget its text. A collective call.

        num_supervised: over all ranks.
        """
        if not is_on_policy(self._spec.train.on_policy_fraction, step):
            return {"on_policy_share": 0.0, "generate_seconds": 0.0}
        written = self._written.pop(step).values()
        num_tokens = sum(block.num_tokens for block in written)
        device = local_device()
        tokens = torch.tensor(num_tokens, dtype=torch.float64, device=device)
        # A resumed run did not write the text of its first on-policy steps.
        seconds = torch.tensor(self._seconds.pop(step, 0.0), dtype=torch.float64, device=device)
        deepspeed.comm.all_reduce(tokens)
        deepspeed.comm.all_reduce(seconds, op=deepspeed.comm.ReduceOp.MAX)
        return {
            "on_policy_share": float(tokens) / max(num_supervised, 1),
            "generate_seconds": float(seconds),
        }

    def state_dict(self) -> State:
        """Return the text of steps that are not done; see Stateful."""
        return {
            str(step): {str(index): asdict(written) for index, written in blocks.items()}
            for step, blocks in self._written.items()
        }

    def load_state_dict(self, states: Sequence[State]) -> None:
        """Take this rank's share of the text of all ranks; see Stateful.

        Nothing is taken of a step that one rank had not written: all ranks write it again.
        """
        self._written.clear()
        for step in sorted({int(key) for state in states for key in state}):
            stored: dict[str, Any] = {}
            for state in states:
                stored |= state.get(str(step), {})
            if len(stored) == self._spec.train.global_batch_blocks:
                micros = range(self._spec.num_accumulation_steps)
                own = [places(self._spec, step, micro, self._rank) for micro in micros]
                self._written[step] = {
                    index: _written_from(stored[str(index)]) for part in own for index in part
                }

    def _write_step(self, step: int) -> None:
        """Write this rank's blocks of a step, one micro-batch at a time. A collective call.

        If a rank meets an error, all of them raise: that rank its error, the others OtherRankError.
        """
        started = time.monotonic()
        error: Exception | None = None
        written: dict[int, WrittenBlock] = {}
        micro_batches: list[dict[int, tuple[Sample, Block]]] = []
        # The source is read before the weights are gathered, because a stream may end here, or a
        # disk fail on one node. The others would wait for this rank in the gather.
        try:
            for micro in range(self._spec.num_accumulation_steps):
                micro_batches.append(self._read_micro_batch(step, micro))
        except Exception as met:
            error = met
        raise_on_every_rank(error)
        with gathered_student(self._engine) as model:
            try:
                for micro_batch in micro_batches:
                    written |= self._write_micro_batch(model, micro_batch)
            except Exception as met:
                error = met
        raise_on_every_rank(error)
        self._written[step] = written
        self._seconds[step] = time.monotonic() - started

    def _read_micro_batch(self, step: int, micro: int) -> dict[int, tuple[Sample, Block]]:
        """Return this rank's source blocks of a micro-batch by their block index."""
        block_indices = places(self._spec, step, micro, self._rank)
        return {index: self._source.get(index) for index in block_indices}

    def _write_micro_batch(
        self, model: Any, given: dict[int, tuple[Sample, Block]]
    ) -> dict[int, WrittenBlock]:
        """Return what the student writes for some blocks, by their block index."""
        written: dict[int, WrittenBlock] = {}
        continued = self._continue(model, list(given.values()))
        for (index, (sample, block)), segments in zip(given.items(), continued, strict=True):
            if segments:  # a block without a usable prompt stays as it is
                block = block_row(segments, self._spec.data.block_tokens, self._pad_id)
            num_tokens = sum(_num_written(segment) for segment in segments)
            written[index] = WrittenBlock(sample, block, num_tokens)
        return written

    def _continue(self, model: Any, given: Sequence[tuple[Sample, Block]]) -> list[list[Segment]]:
        """Return, for each block, its prompts with what the student writes after them."""
        train = self._spec.train
        block_tokens = self._spec.data.block_tokens
        prompts = [
            prompts_of(block, train, block_tokens, self._pad_id, self._begin) for _, block in given
        ]
        prompt_tokens: list[list[int]] = []
        keys: list[tuple[int, int, int, int]] = []
        # The key decides a prompt's draws, so what is written does not depend on the ranks.
        for (sample, _), block_prompts in zip(given, prompts, strict=True):
            for number, prompt in enumerate(block_prompts):
                prompt_tokens.append(prompt.tokens)
                keys.append((self._spec.seed, sample.epoch, sample.block, number))
        if not prompt_tokens:
            return [[] for _ in given]
        texts = continue_tokens(
            model,
            prompts=prompt_tokens,
            keys=keys,
            new_tokens=train.on_policy_new_tokens,
            temperature=train.on_policy_temperature,
            end_ids=self._end_ids,
        )
        remaining = iter(texts)
        return [
            [_continued(prompt, next(remaining)) for prompt in block_prompts]
            for block_prompts in prompts
        ]


def _written_from(stored: dict[str, Any]) -> WrittenBlock:
    """Return the block that `asdict` was called on."""
    block: Block = stored["block"]
    return WrittenBlock(Sample(**stored["sample"]), block, stored["num_tokens"])


def _continued(prompt: Segment, written: list[int]) -> Segment:
    """Return a prompt with its continuation, of which only the continuation is supervised."""
    tokens = [*prompt.tokens, *written]
    return Segment(tokens, [(0, len(prompt.tokens))], prompt.digest, prompt.offset)


def _num_written(segment: Segment) -> int:
    """Return how many tokens of a segment from `_continued` the student wrote."""
    prompt_end = segment.unsupervised[0][1]
    return len(segment.tokens) - prompt_end


@contextmanager
def gathered_student(engine: Engine) -> Iterator[Any]:
    """Gather the student's weights and yield it without hooks, in evaluation mode.

    A collective call. The model is valid within the context only. Its parameters are the gathered
    ones, not copies, so they must not be changed.
    """
    from transformers import AutoModelForCausalLM

    trained = engine.module.language_model
    with torch.device("meta"):
        plain: Any = AutoModelForCausalLM.from_config(trained.config)
    with deepspeed.zero.GatheredParameters(list(trained.parameters())):
        _share_tensors(trained, plain)
        yield plain.eval()
        del plain


def _share_tensors(trained: Any, plain: Any) -> None:
    """Make the parameters and buffers of one model those of another of the same architecture."""
    weights = {name: parameter.detach() for name, parameter in trained.named_parameters()}
    # Not strict: `named_parameters` leaves out a head that is tied to the embedding.
    plain.load_state_dict(weights, strict=False, assign=True)
    plain.tie_weights()
    for name, buffer in trained.named_buffers():
        module_name, _, leaf = name.rpartition(".")
        setattr(plain.get_submodule(module_name), leaf, buffer)
    tensors = (*plain.named_parameters(), *plain.named_buffers())
    missing = [name for name, tensor in tensors if tensor.is_meta]
    assert not missing, f"the copy lacks {missing[:5]}"
