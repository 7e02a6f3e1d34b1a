"""On-policy batches (GKD, arXiv 2306.13649): in a share of the steps the student learns from its own continuations.

The beginnings come from the blocks that the step would have trained on; the student continues them, the teacher scores what it
wrote like any other text. A step's requests leave `prefetch_depth` steps ahead, so its text is written by the student as it was
that many steps before: slightly stale, as in asynchronous RL. A resumed run writes its first such steps with the weights it loaded.

Generation under ZeRO-3: the whole student is gathered once and lent to a plain copy of the module, which has none of DeepSpeed's
hooks. So ranks need not make the same number of forward calls, and the coordinator's record of module calls, which taking hooks
off and putting them back corrupts (DeepSpeed 8043), never sees any of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
from dskd_ds.spec.training import TrainSpec

MIN_PROMPT_TOKENS = 4
"""A shorter beginning says too little to go on from."""


def is_on_policy(fraction: float, step: int) -> bool:
    """Whether the student writes the text of a step (from 0): that share of the steps, evenly spread, the same on every rank."""
    return int((step + 1) * fraction) > int(step * fraction)


class OnPolicyBlocks:
    """A BlockSource whose blocks are the student's own continuations in a share of the steps. All ranks ask for the same steps."""

    def __init__(
        self, spec: RunSpec, tokenizer: Any, rank: int, source: BlockSource, engine: Any
    ) -> None:
        self._spec, self._rank, self._source, self._engine = spec, rank, source, engine
        self._pad_id, self._begin = end_of_text_id(tokenizer), begin_ids(tokenizer)
        self._end_ids = list(
            dict.fromkeys([self._pad_id, *end_ids_of(engine.module.language_model, tokenizer)])
        )
        self._written: dict[int, tuple[Sample, Block]] = {}
        self._reports: dict[int, tuple[int, float]] = {}

    def get(self, place: int) -> tuple[Sample, Block]:
        """See BlockSource. The first place of an on-policy step writes all of this rank's: a collective call."""
        step = place // self._spec.train.global_batch_blocks
        if not is_on_policy(self._spec.train.on_policy_fraction, step):
            return self._source.get(place)
        if place not in self._written:
            self._write(step)
        return self._written.pop(place)

    def all_reduce_report(self, step: int, num_supervised: int) -> dict[str, float]:
        """Return the metrics of a step. A collective call. num_supervised: over all ranks."""
        if not is_on_policy(self._spec.train.on_policy_fraction, step):
            return {"on_policy_share": 0.0, "generate_seconds": 0.0}
        tokens, seconds = (
            torch.tensor(value, dtype=torch.float64, device=local_device())
            for value in self._reports.pop(step)
        )
        deepspeed.comm.all_reduce(tokens)
        deepspeed.comm.all_reduce(seconds, op=deepspeed.comm.ReduceOp.MAX)
        return {
            "on_policy_share": float(tokens) / max(num_supervised, 1),
            "generate_seconds": float(seconds),
        }

    def _write(self, step: int) -> None:
        """Write this rank's blocks of a step, a micro-batch at a time."""
        started, num_tokens = time.monotonic(), 0
        # Read before the weights are gathered: a stream may end here, on every rank alike (data/batches.py).
        micro_batches = [
            [
                (place, self._source.get(place))
                for place in places(self._spec, step, micro, self._rank)
            ]
            for micro in range(self._spec.num_accumulation_steps)
        ]
        with plain_student(self._engine) as model:
            for micro_batch in micro_batches:
                wanted, given = zip(*micro_batch, strict=True)
                for place, (sample, row), own in zip(
                    wanted, given, self._continue(model, given), strict=True
                ):
                    # A block without a beginning to go on from (all of it too short) stays what it is.
                    self._written[place] = (
                        sample,
                        block_row(own, self._spec.data.block_tokens, self._pad_id) if own else row,
                    )
                    num_tokens += sum(
                        len(segment.tokens) - segment.unsupervised[0][1] for segment in own
                    )
        self._reports[step] = num_tokens, time.monotonic() - started

    def _continue(self, model: Any, given: Sequence[tuple[Sample, Block]]) -> list[list[Segment]]:
        """For each block, its beginnings with what the student writes after them."""
        train, block_tokens = self._spec.train, self._spec.data.block_tokens
        prompts = [
            prompts_of(row, train, block_tokens, self._pad_id, self._begin) for _, row in given
        ]
        keys = [
            (self._spec.seed, sample.epoch, sample.block, number)
            for (sample, _), of_block in zip(given, prompts, strict=True)
            for number in range(len(of_block))
        ]
        flat = [prompt.tokens for of_block in prompts for prompt in of_block]
        texts = iter(
            continue_tokens(
                model,
                flat,
                keys,
                train.on_policy_new_tokens,
                train.on_policy_temperature,
                self._end_ids,
            )
            if flat
            else []
        )
        return [
            [
                Segment(
                    [*prompt.tokens, *next(texts)],
                    [(0, len(prompt.tokens))],
                    prompt.digest,
                    prompt.offset,
                )
                for prompt in of_block
            ]
            for of_block in prompts
        ]


def prompts_of(
    row: Block, train: TrainSpec, block_tokens: int, end_id: int, begin: list[int]
) -> list[Segment]:
    """The beginnings that a block offers, as many as fit a block together with what will follow them.

    Of a text: every `on_policy_prompt_tokens` tokens, with room for as many new ones between. Of a conversation of whose tokens only
    completions are targets: what stands before its last completion; of a longer prompt the end. begin: the BOS token that each starts
    with, in place of its first, where the tokenizer sets one (data/packing.py).
    """
    starts = row["segment_starts"]
    ends = [*starts[1:], block_tokens]
    prompts: list[Segment] = []
    room = block_tokens
    for start, end, digest, offset in zip(
        starts, ends, row["doc_digests"], row["doc_offsets"], strict=True
    ):
        quiet = [last for first, last in row["unsupervised"] if start <= first and last <= end]
        if quiet:
            spans = [
                (max(start, last - train.on_policy_prompt_tokens), last)
                for last in quiet
                if last < end
            ][-1:]
        else:
            stride = train.on_policy_prompt_tokens + train.on_policy_new_tokens
            spans = [
                (first, min(first + train.on_policy_prompt_tokens, end))
                for first in range(start, end, stride)
            ]
        for first, last in spans:
            tokens = row["input_ids"][first:last]
            if tokens[-1] == end_id:  # nothing follows the end of a text
                tokens = tokens[:-1]
            tokens = [*begin, *tokens[len(begin) :]]
            if (
                len(tokens) >= min(MIN_PROMPT_TOKENS, train.on_policy_prompt_tokens)
                and len(tokens) + train.on_policy_new_tokens <= room
            ):
                room -= len(tokens) + train.on_policy_new_tokens
                prompts.append(Segment(tokens, [], digest, offset + first - start))
    return prompts


@contextmanager
def plain_student(engine: Any) -> Iterator[Any]:
    """The student whole and without hooks, in evaluation mode; a collective call. It is valid within the context only.

    Its parameters are the gathered ones themselves: nothing is copied, and nothing may be changed.
    """
    from transformers import AutoModelForCausalLM

    trained = engine.module.language_model
    with torch.device("meta"):
        plain: Any = AutoModelForCausalLM.from_config(trained.config)
    with deepspeed.zero.GatheredParameters(list(trained.parameters())):
        weights = {name: parameter.detach() for name, parameter in trained.named_parameters()}
        plain.load_state_dict(weights, strict=False, assign=True)  # a tied head is not among them
        plain.tie_weights()
        for name, buffer in trained.named_buffers():
            module, _, leaf = name.rpartition(".")
            setattr(plain.get_submodule(module), leaf, buffer)
        missing = [
            name
            for name, tensor in (*plain.named_parameters(), *plain.named_buffers())
            if tensor.is_meta
        ]
        assert not missing, f"the copy lacks {missing[:5]}"
        yield plain.eval()
        del plain, weights
