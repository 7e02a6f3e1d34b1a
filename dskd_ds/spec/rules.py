"""Rules that join several fields of a spec, one named function each. A problem names the key, the reason, the ways out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dskd_ds.spec.sections import RunSections


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a spec."""

    key: str
    """Dotted, as in `train.global_batch_blocks`."""
    value: Any
    reason: str
    way_out: str

    def __str__(self) -> str:
        *section, name = self.key.split(".")
        where = f"[{'.'.join(section)}] " if section else ""
        return f"{where}{name} = {show(self.value)}, but {self.reason}.\n  {self.way_out}."


class ProblemsError(ValueError):
    """A spec breaks rules; carries every one that it breaks."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def show(value: Any) -> str:
    """A value as a reader of TOML knows it."""
    if value is None:
        return "(not given)"
    if isinstance(value, bool):
        return str(value).lower()
    return (
        f'"{value}"'
        if isinstance(value, str)
        else str(list(value) if isinstance(value, tuple) else value)
    )


def check_rules(spec: RunSections) -> Iterator[Problem]:
    """Every problem of a spec whose fields are fine one by one."""
    for rule in (
        length_is_given_once,
        batch_divides,
        layers_are_named,
        topk_temperature,
        teacher_signal,
        hidden_has_no_kl,
        draws_run_forward,
        lexical_needs_lexicon,
        senses_are_countable,
        neighbours_are_fetched,
        states_travel_for_a_reason,
        deadlines_order,
        completions_are_chats,
        on_policy_fits,
    ):
        yield from rule(spec)


def length_is_given_once(spec: RunSections) -> Iterator[Problem]:
    """Steps or epochs, exactly one; a stream has no epochs."""
    train = spec.train
    if (train.num_steps is None) == (train.num_epochs is None):
        state = "neither" if train.num_steps is None else "both"
        yield Problem(
            "train.num_steps",
            train.num_steps,
            f"{state} of num_steps and num_epochs is given",
            "give one of num_steps or num_epochs",
        )
    if spec.data.stream and train.num_epochs is not None:
        yield Problem(
            "train.num_epochs",
            train.num_epochs,
            "a streamed corpus has no known length",
            "give [train] num_steps, or set [data] stream = false",
        )


def batch_divides(spec: RunSections) -> Iterator[Problem]:
    """The global batch is dealt evenly to ranks and accumulation steps."""
    share = spec.train.micro_batch_blocks * spec.topology.num_students
    total = spec.train.global_batch_blocks
    if total % share:
        lower, upper = total // share * share, (total // share + 1) * share
        near = f"{lower} or {upper}" if lower else str(upper)
        yield Problem(
            "train.global_batch_blocks",
            total,
            f"micro_batch_blocks x num_students = {share} does not divide it",
            f"use {near}, or change [train] micro_batch_blocks or [topology] num_students",
        )


def layers_are_named(spec: RunSections) -> Iterator[Problem]:
    """Each way of choosing layers needs its own field, and no other."""
    student = spec.student
    if student.model is not None and student.layers != "all":
        yield Problem(
            "student.layers",
            student.layers,
            "it has no effect on a [student] model of its own",
            "leave one of the two out",
        )
    if spec.data.stream and student.layers == "by_impact":
        yield Problem(
            "student.layers",
            "by_impact",
            "layers are measured on blocks drawn over the whole corpus, and [data] stream = true",
            "set [data] stream = false, or name the layers",
        )
    if student.layers in ("first", "by_impact") and student.num_layers is None:
        yield Problem(
            "student.num_layers",
            None,
            f'layers = "{student.layers}" needs to know how many',
            "give [student] num_layers",
        )
    if student.layers == "list" and not student.keep_layers:
        yield Problem(
            "student.keep_layers",
            (),
            'layers = "list" needs the list',
            "give [student] keep_layers",
        )
    if list(student.keep_layers) != sorted(set(student.keep_layers)):
        yield Problem(
            "student.keep_layers",
            student.keep_layers,
            "it is not in ascending order without repeats",
            f"write {sorted(set(student.keep_layers))}",
        )
    if student.keep_layers and student.layers != "list":
        yield Problem(
            "student.keep_layers",
            student.keep_layers,
            f'it has no effect with layers = "{student.layers}"',
            'set [student] layers = "list", or leave keep_layers out',
        )
    if student.num_layers is not None and student.layers not in ("first", "by_impact"):
        yield Problem(
            "student.num_layers",
            student.num_layers,
            f'it has no effect with layers = "{student.layers}"',
            'set [student] layers = "first" or "by_impact", or leave num_layers out',
        )


def topk_temperature(spec: RunSections) -> Iterator[Problem]:
    """Top-k at a high temperature leaves most of the mass in the bucket (docs/method.md, "Top-k KL": 0.30 on the k at tau 2)."""
    if spec.loss.signal == "topk" and spec.loss.temperature > 4:
        yield Problem(
            "loss.temperature",
            spec.loss.temperature,
            "so flat a teacher leaves hardly any mass on its top k",
            'set [loss] signal = "exact", or a temperature of at most 4',
        )


def teacher_signal(spec: RunSections) -> Iterator[Problem]:
    """A run that asks its teacher for nothing needs no teacher."""
    if spec.loss.kd_weight == 0 and spec.loss.sense_weight == 0:
        yield Problem(
            "loss.kd_weight",
            0.0,
            "sense_weight is 0 too, so the teacher has no part in this run",
            "set [loss] kd_weight or sense_weight above 0",
        )


def lexical_needs_lexicon(spec: RunSections) -> Iterator[Problem]:
    """Candidates from word relations need somebody who relates words."""
    if spec.uses_senses and spec.senses.candidates == "lexical" and not spec.senses.lexicons:
        yield Problem(
            "senses.candidates",
            "lexical",
            "no [[senses.lexicons]] says which words are related",
            'add a lexicon, or set [senses] candidates = "neighbours"',
        )


def hidden_has_no_kl(spec: RunSections) -> Iterator[Problem]:
    """Hidden states alone say nothing about probabilities."""
    if spec.loss.signal == "hidden" and spec.loss.kd_weight > 0:
        yield Problem(
            "loss.kd_weight",
            spec.loss.kd_weight,
            'signal = "hidden" brings nothing to compute a KL from',
            'set [loss] kd_weight = 0, or signal = "topk", "exact" or "sampled"',
        )


def draws_run_forward(spec: RunSections) -> Iterator[Problem]:
    """Draws from the teacher estimate expectations under the teacher; the others need its probability of everything."""
    if spec.loss.signal == "sampled" and spec.loss.divergence != "forward":
        yield Problem(
            "loss.divergence",
            spec.loss.divergence,
            'draws from the teacher are unbiased for "forward" only',
            'set [loss] divergence = "forward", or signal = "exact" or "topk"',
        )


def deadlines_order(spec: RunSections) -> Iterator[Problem]:
    """A peer must have the time for several heartbeats before it counts as lost."""
    link = spec.link
    if link.dead_after_seconds < 3 * link.heartbeat_seconds:
        yield Problem(
            "link.dead_after_seconds",
            link.dead_after_seconds,
            f"fewer than three heartbeats of {link.heartbeat_seconds} s fit into it",
            f"use at least {3 * link.heartbeat_seconds}, or a shorter heartbeat_seconds",
        )


def senses_are_countable(spec: RunSections) -> Iterator[Problem]:
    """The floor is not above the ceiling; the authors' scripts have one k for all tokens."""
    senses = spec.senses
    if senses.clustering == "adaptive" and senses.min_senses > senses.num_senses:
        yield Problem(
            "senses.min_senses",
            senses.min_senses,
            f"num_senses = {senses.num_senses} is the most that a token gets",
            "use at most that, or a larger [senses] num_senses",
        )
    if senses.paper_exact and senses.clustering != "fixed":
        yield Problem(
            "senses.paper_exact",
            True,
            f'clustering = "{senses.clustering}" is not the paper\'s',
            'set [senses] clustering = "fixed", or paper_exact = false',
        )


def neighbours_are_fetched(spec: RunSections) -> Iterator[Problem]:
    """The nearest senses are picked among those that the index gives."""
    senses = spec.senses
    if senses.candidates != "lexical" and senses.num_neighbours > senses.index_search_effort:
        yield Problem(
            "senses.num_neighbours",
            senses.num_neighbours,
            f"the index is asked for index_search_effort = {senses.index_search_effort} candidates only",
            "use at most that, or a larger [senses] index_search_effort",
        )


def states_travel_for_a_reason(spec: RunSections) -> Iterator[Problem]:
    """A student that gets the hidden states picks candidates itself."""
    if (
        spec.uses_senses
        and spec.senses.retrieve_on == "teacher"
        and spec.loss.signal in ("exact", "hidden")
    ):
        yield Problem(
            "senses.retrieve_on",
            "teacher",
            f'[loss] signal = "{spec.loss.signal}" sends the student the hidden states anyway',
            'set [loss] signal = "topk" or "sampled", or retrieve_on = "student"',
        )


def completions_are_chats(spec: RunSections) -> Iterator[Problem]:
    """Only a conversation tells who says what."""
    for part in ("train", "heldout"):
        for number, source in enumerate(getattr(spec.data, part)):
            if source.supervise == "completions" and source.format != "chat":
                yield Problem(
                    f"data.{part}.{number}.supervise",
                    "completions",
                    f'its format is "{source.format}", where all is one text',
                    'set format = "chat", or supervise = "all"',
                )


def on_policy_fits(spec: RunSections) -> Iterator[Problem]:
    """A beginning and what the student writes after it share a block."""
    train, block = spec.train, spec.data.block_tokens
    wanted = train.on_policy_prompt_tokens + train.on_policy_new_tokens
    if train.on_policy_fraction > 0 and wanted > block:
        yield Problem(
            "train.on_policy_new_tokens",
            train.on_policy_new_tokens,
            f"with on_policy_prompt_tokens that is {wanted} tokens, and a block has {block}",
            "lower on_policy_prompt_tokens or on_policy_new_tokens, or raise [data] block_tokens",
        )
