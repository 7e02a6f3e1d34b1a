"""Rules that join several keys of a spec, one function per rule, and the check of all of them."""

from __future__ import annotations

from collections.abc import Iterator

from dskd_ds.spec.data import EPOCH, SourceSpec
from dskd_ds.spec.problems import Problem
from dskd_ds.spec.recipe_rules import RECIPE_RULES
from dskd_ds.spec.routing_rules import ROUTING_RULES
from dskd_ds.spec.row_rules import ROW_RULES
from dskd_ds.spec.sections import RunSections
from dskd_ds.spec.sense_rules import SENSE_RULES
from dskd_ds.spec.student_rules import STUDENT_RULES
from dskd_ds.spec.teacher_rules import TEACHER_RULES
from dskd_ds.spec.term_rules import TERM_RULES
from dskd_ds.spec.text_rules import TEXT_RULES


def check_rules(spec: RunSections) -> Iterator[Problem]:
    """Yield every problem of a spec whose fields are valid one by one."""
    # In the order of the messages.
    rules = (
        length_is_given_once,
        stream_has_no_epochs,
        batch_divides,
        *STUDENT_RULES,
        *TERM_RULES,
        *TEACHER_RULES,
        topk_temperature,
        teacher_is_used,
        divided_teacher_is_not_compiled,
        hidden_has_no_kl,
        draws_run_forward,
        *SENSE_RULES,
        deadlines_order,
        heldout_text_is_kept,
        completions_are_chats,
        epoch_files_are_named,
        on_policy_fits,
        *RECIPE_RULES,
        *ROW_RULES,
        *TEXT_RULES,
        *ROUTING_RULES,
    )
    for rule in rules:
        yield from rule(spec)


def length_is_given_once(spec: RunSections) -> Iterator[Problem]:
    """A run's length is given in steps or in epochs, not both."""
    train = spec.train
    if (train.num_steps is None) == (train.num_epochs is None):
        neither_is_given = "num_epochs is not given either"
        both_are_given = f"num_epochs = {train.num_epochs} is given too"
        yield Problem(
            key="train.num_steps",
            value=train.num_steps,
            reason=neither_is_given if train.num_steps is None else both_are_given,
            way_out="give either [train] num_steps or num_epochs",
        )


def stream_has_no_epochs(spec: RunSections) -> Iterator[Problem]:
    """The length of a stream is unknown, so a number of epochs means nothing."""
    if spec.data.stream and spec.train.num_epochs is not None:
        yield Problem(
            key="train.num_epochs",
            value=spec.train.num_epochs,
            reason="a streamed corpus has no known length",
            way_out="give [train] num_steps, or set [data] stream = false",
        )


def batch_divides(spec: RunSections) -> Iterator[Problem]:
    """The global batch splits evenly into ranks and accumulation steps."""
    share = spec.train.micro_batch_blocks * spec.topology.num_students
    total = spec.train.global_batch_blocks
    if total % share:
        # The neighbouring multiples; 0 blocks are no batch.
        lower = total // share * share
        upper = lower + share
        choices = f"{lower} or {upper}" if lower else str(upper)
        yield Problem(
            key="train.global_batch_blocks",
            value=total,
            reason=f"micro_batch_blocks x num_students = {share} does not divide it",
            way_out=f"use {choices},"
            " or change [train] micro_batch_blocks or [topology] num_students",
        )


def topk_temperature(spec: RunSections) -> Iterator[Problem]:
    """A high temperature puts most of the mass outside of the top k.

    The k tokens hold 0.30 of it at tau 2 (docs/method.md, "Top-k KL").
    """
    if spec.loss.signal == "topk" and spec.loss.temperature > 4:
        yield Problem(
            key="loss.temperature",
            value=spec.loss.temperature,
            reason="above 4 the teacher's top k hold hardly any probability",
            way_out='set [loss] signal = "exact", or a temperature of at most 4',
        )


def teacher_is_used(spec: RunSections) -> Iterator[Problem]:
    """At least one term of the loss needs the teacher."""
    loss = spec.loss
    if loss.kd_weight == 0 and loss.sense_weight == 0 and not loss.terms:
        yield Problem(
            key="loss.kd_weight",
            value=0.0,
            reason="sense_weight is 0 too, so no term of the loss uses the teacher",
            way_out="set [loss] kd_weight or sense_weight above 0, or add [[loss.terms]]",
        )


def divided_teacher_is_not_compiled(spec: RunSections) -> Iterator[Problem]:
    """The collectives inside of a divided layer are not compiled."""
    if spec.teacher.compile and spec.topology.ranks_per_teacher > 1:
        yield Problem(
            key="teacher.compile",
            value=True,
            reason=f"[topology] ranks_per_teacher = {spec.topology.ranks_per_teacher}, and layers"
            " that are divided over ranks are not compiled",
            way_out="set [teacher] compile = false, or ranks_per_teacher = 1",
        )


def hidden_has_no_kl(spec: RunSections) -> Iterator[Problem]:
    """The `hidden` signal carries no probabilities, and a KL needs them."""
    if spec.loss.signal == "hidden" and spec.loss.kd_weight > 0:
        yield Problem(
            key="loss.kd_weight",
            value=spec.loss.kd_weight,
            reason='a KL cannot be computed from signal = "hidden"',
            way_out='set [loss] kd_weight = 0, or signal = "topk", "exact" or "sampled"',
        )


def draws_run_forward(spec: RunSections) -> Iterator[Problem]:
    """Draws from the teacher estimate only expectations under the teacher.

    The reverse KL and Jensen-Shannon need the teacher's probability of every token.
    """
    if spec.loss.signal == "sampled" and spec.loss.divergence != "forward":
        yield Problem(
            key="loss.divergence",
            value=spec.loss.divergence,
            reason='draws from the teacher are unbiased for "forward" only',
            way_out='set [loss] divergence = "forward", or signal = "exact" or "topk"',
        )


def deadlines_order(spec: RunSections) -> Iterator[Problem]:
    """A peer can miss a heartbeat or two before it counts as lost."""
    link = spec.link
    shortest = 3 * link.heartbeat_seconds
    if link.dead_after_seconds < shortest:
        yield Problem(
            key="link.dead_after_seconds",
            value=link.dead_after_seconds,
            reason=f"that is less than three heartbeats of {link.heartbeat_seconds} s",
            way_out=f"use at least {shortest}, or a shorter heartbeat_seconds",
        )


def heldout_text_is_kept(spec: RunSections) -> Iterator[Problem]:
    """A loss on held-out text needs such text."""
    has_heldout_text = spec.data.heldout or spec.data.heldout_fraction > 0
    if has_heldout_text or not spec.measures_heldout_loss:
        return
    every_steps = spec.monitor.heldout_every_steps
    yield Problem(
        key="monitor.heldout_every_steps" if every_steps else "checkpoint.keep_best",
        value=every_steps or True,
        reason="[data] names no heldout text, and heldout_fraction = 0 keeps none",
        way_out="name texts in [[data.heldout]], set [data] heldout_fraction above 0, or turn this"
        " key off",
    )


def completions_are_chats(spec: RunSections) -> Iterator[Problem]:
    """Only a conversation has completions; plain text has no speakers."""
    yield from _completions_of("data.train", spec.data.train)
    yield from _completions_of("data.heldout", spec.data.heldout)


def epoch_files_are_named(spec: RunSections) -> Iterator[Problem]:
    """Several files need a name with a number, and an end at which the next one begins."""
    data = spec.data
    if data.epoch_files == 1:
        return
    if not any(EPOCH in source.path for source in data.train):
        yield Problem(
            key="data.epoch_files",
            value=data.epoch_files,
            reason=f"no path in [[data.train]] contains {EPOCH}",
            way_out=f"put {EPOCH} where the names of the files have their number, or remove"
            " epoch_files",
        )
    if data.stream:
        yield Problem(
            key="data.epoch_files",
            value=data.epoch_files,
            reason="a stream has no epochs",
            way_out="set [data] stream = false, or remove epoch_files",
        )


def _completions_of(key: str, sources: tuple[SourceSpec, ...]) -> Iterator[Problem]:
    for index, source in enumerate(sources):
        if source.supervise == "completions" and source.format != "chat":
            yield Problem(
                key=f"{key}.{index}.supervise",
                value="completions",
                reason=f'format = "{source.format}" has no completions',
                way_out='set format = "chat", or supervise = "all"',
            )


def on_policy_fits(spec: RunSections) -> Iterator[Problem]:
    """A prompt and the student's continuation fit into one block."""
    train, block = spec.train, spec.data.block_tokens
    wanted = train.on_policy_prompt_tokens + train.on_policy_new_tokens
    if train.on_policy_fraction > 0 and wanted > block:
        yield Problem(
            key="train.on_policy_new_tokens",
            value=train.on_policy_new_tokens,
            reason=f"with on_policy_prompt_tokens that is {wanted} tokens, and a block has {block}",
            way_out="lower on_policy_prompt_tokens or on_policy_new_tokens,"
            " or raise [data] block_tokens",
        )
