"""One rank's whole run: opens what training needs, trains, saves and exports."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import deepspeed

from dskd_ds.data.source import num_steps
from dskd_ds.data.streamed import StreamedBlocks
from dskd_ds.errors import DskdError, ExitCode
from dskd_ds.link import StudentSide, open_student_side
from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.models.routed import RoutedTeacher, further_teachers, teacher_of_name
from dskd_ds.observe.memory import memory_before
from dskd_ds.runtime.collective_clock import CollectiveClock
from dskd_ds.runtime.devices import give_back_memory, local_device
from dskd_ds.runtime.stop import StopWish
from dskd_ds.runtime.supervise import FINAL_CODES
from dskd_ds.runtime.topology import Role
from dskd_ds.runtime.world import open_world
from dskd_ds.senses.choose.open import open_retriever
from dskd_ds.senses.choose.retrieve import SenseRetriever
from dskd_ds.spec import SPEC_FILE, RunSpec, write_spec
from dskd_ds.spec.teachers import MAIN_TEACHER
from dskd_ds.student.checkpoint.dictionaries import dictionary_digests
from dskd_ds.student.checkpoint.store import Checkpoints
from dskd_ds.student.checkpoint.unchanged import UnchangedWeights
from dskd_ds.student.collectives import run_on_rank_0
from dskd_ds.student.deepspeed_engine import Engine
from dskd_ds.student.engine import make_engine
from dskd_ds.student.export import gather_and_export
from dskd_ds.student.heldout_loss import HeldoutLoss
from dskd_ds.student.launch_record import LaunchRecord
from dskd_ds.student.loop import run_steps
from dskd_ds.student.model import DistillStudent
from dskd_ds.student.on_policy import OnPolicyBlocks
from dskd_ds.student.phases import EXPORTING, Phases
from dskd_ds.student.repair.stage import NoteEnd, RunParts, initial_student
from dskd_ds.student.replies.alignment import AlignmentTest
from dskd_ds.student.replies.feed import Feed
from dskd_ds.student.replies.further_teachers import FurtherLink, further_routes, routing
from dskd_ds.student.replies.requests import RequestBuilder
from dskd_ds.student.replies.signal_source import open_signal_source
from dskd_ds.student.resume_settings import refuse_another_run
from dskd_ds.student.run_lock import RunLock
from dskd_ds.student.run_source import open_run_source
from dskd_ds.student.run_state import EngineState
from dskd_ds.student.skips import Skips
from dskd_ds.student.step_health import StepHealth
from dskd_ds.student.terms.senses import open_term_retrievers
from dskd_ds.student.training import Training
from dskd_ds.student.watchdog import Watchdog


def train(spec: RunSpec, models: RunModels, role: Role) -> None:
    """Train as one rank of the students' world. Raises DskdError for what a user should read."""
    open_world()
    with ExitStack() as cleanup:
        run_lock = acquire_run_directory(spec, role, cleanup)
        phases = watch(spec, role, cleanup)
        launch_record = LaunchRecord(spec, role) if role.rank == 0 else None
        # Before anything that takes long: teachers only wait for a student that listens.
        own_teacher = teacher_of_name(spec, models, MAIN_TEACHER)
        source_of_signal = open_signal_source(
            spec, models, open_link=lambda: open_link(own_teacher, role)
        )
        link = source_of_signal.link
        cleanup.callback(link.close)
        further_links = open_further_links(spec, models, role, cleanup)
        note_end = end_noter([link, *(further.link for further in further_links)])
        cleanup.push(note_end)
        run = RunParts(
            role=role,
            link=link,
            uncached_link=source_of_signal.uncached,
            further_links=further_links,
            phases=phases,
            run_lock=run_lock,
            is_stop_wanted=StopWish(),
            note_end=note_end,
        )
        init = initial_student(spec, models, run)
        training = open_training(spec, models, init, run, cleanup)
        cleanup.push(note_end)  # closing the feed, which comes next, says goodbye to the teachers
        if launch_record:
            launch_record.note_steps(training.num_done, training.num_steps)
        run_steps(training)
        training.save()
        phases.enter(EXPORTING)
        gather_and_export(training.engine, spec, models)
    deepspeed.comm.destroy_process_group()


def open_training(
    spec: RunSpec, models: RunModels, init: NamedModel, run: RunParts, cleanup: ExitStack
) -> Training:
    """Open senses, text, engine, checkpoints and feed, and load the newest checkpoint.

    init: the model that distillation starts from. A collective call.
    """
    role = run.role
    retriever = open_retriever(spec, role, cleanup) if spec.uses_senses else None
    source = open_run_source(spec, models, role.rank)
    before = memory_before()
    engine = make_engine(spec, models, init, retriever.dictionary if retriever else None)
    blocks = OnPolicyBlocks(spec, models.teacher.tokenizer, role.rank, source, engine)
    heldout = open_heldout_loss(spec, models, role, engine)
    skips = Skips(spec.train)
    checkpoints = open_checkpoints(spec, engine, init, blocks, skips)
    if spec.loss.terms:
        _keep_term_weights(checkpoints, engine)
    if isinstance(source, StreamedBlocks):
        checkpoints.keep_state("stream", source)
        cleanup.callback(source.close)
    done = checkpoints.resume()
    give_back_memory()
    total_steps = num_steps(spec, source)
    requests = _request_builder(spec, models, engine, retriever, role, cleanup)
    self_test = open_self_test(spec, requests, engine, role)
    feed = Feed(
        spec,
        rank=role.rank,
        source=blocks,
        link=run.link,
        link_for_own_text=run.uncached_link,
        requests=requests,
        self_test=self_test,
        device=local_device(),
        steps=range(done.step, total_steps),
        further=further_routes(run.further_links, role.rank == 0, spec.train.on_policy_fraction),
        route_of=routing(spec, source),
    )
    # Registered last, so called first: the preparing thread stops before the index closes.
    cleanup.callback(feed.close)
    return Training(
        spec=spec,
        rank=role.rank,
        engine=engine,
        steps=feed,
        blocks=blocks,
        num_done=done.step,
        num_steps=total_steps,
        tokens=done.tokens,
        skips=skips,
        phases=run.phases,
        is_stop_wanted=run.is_stop_wanted,
        unchanged_weights=UnchangedWeights.of_run(spec, engine),
        health=StepHealth(CollectiveClock().install(deepspeed.comm.comm.cdb), before),
        run_lock=run.run_lock,
        checkpoints=checkpoints,
        heldout=heldout,
    )


def _request_builder(
    spec: RunSpec,
    models: RunModels,
    engine: Engine,
    retriever: SenseRetriever | None,
    role: Role,
    cleanup: ExitStack,
) -> RequestBuilder:
    """Return what writes the requests to [teacher]; opens the senses of losses below the head."""
    terms = distill_student(engine).term_losses.terms
    return RequestBuilder(
        spec,
        retriever,
        models.shared_vocab_size,
        models.teacher.hidden_size,
        terms=terms,
        term_retrievers=open_term_retrievers(spec, models, terms, role, cleanup),
    )


def acquire_run_directory(spec: RunSpec, role: Role, cleanup: ExitStack) -> RunLock:
    """Lock the run directory, then write the resolved spec into it. A collective call.

    Raises InputError on rank 0 and OtherRankError on the others if another launch has the lock, or
    if the directory holds checkpoints of another run.
    """
    run_lock = RunLock(Path(spec.run_dir))
    run_on_rank_0(run_lock.acquire)
    if role.rank == 0:
        cleanup.callback(run_lock.release)
    run_on_rank_0(refuse_another_run, spec)
    run_on_rank_0(write_spec, spec, Path(spec.run_dir) / SPEC_FILE)
    return run_lock


def watch(spec: RunSpec, role: Role, cleanup: ExitStack) -> Phases:
    """Start the watchdog of this rank, and return the phases that it watches."""
    phases = Phases()
    watchdog = Watchdog(spec, role.rank, phases)
    watchdog.start()
    cleanup.callback(watchdog.stop)
    return phases


def open_checkpoints(
    spec: RunSpec, engine: Engine, init: NamedModel, blocks: OnPolicyBlocks, skips: Skips
) -> Checkpoints:
    """Return the run's checkpoints, with everything that must come back on resume."""
    return Checkpoints(
        engine,
        spec,
        init_fingerprint=init.fingerprint,
        states={"engine": EngineState(engine), "on_policy": blocks, "skips": skips},
        dictionaries=dictionary_digests(spec),
    )


def _keep_term_weights(checkpoints: Checkpoints, engine: Engine) -> None:
    """Save the weights of losses below the head too; a rollback takes them back.

    They follow the gradients of the model's weights, which explode before a rollback.
    """
    weights = distill_student(engine).term_losses.weights
    checkpoints.keep_state("term_weights", weights, goes_with_weights=True)


def open_heldout_loss(
    spec: RunSpec, models: RunModels, role: Role, engine: Engine
) -> HeldoutLoss | None:
    """Return what measures the loss on held-out text; None if the spec does not ask for it."""
    if not spec.measures_heldout_loss:
        return None
    return HeldoutLoss(spec, models.teacher.tokenizer, role.rank, engine)


def open_link(teacher: RoutedTeacher, role: Role) -> StudentSide:
    """Listen for processes that serve a teacher."""
    return open_student_side(
        run_dir=teacher.link_root,
        rank=role.rank,
        spec=teacher.spec.link,
        vocab_size=teacher.models.shared_vocab_size,
        hidden_size=teacher.models.teacher.hidden_size,
        num_students=teacher.spec.topology.num_students,
        spans_nodes=role.launch.spans_nodes,
        teacher_name=teacher.name if teacher.spec.teachers else "",
    )


def open_further_links(
    spec: RunSpec, models: RunModels, role: Role, cleanup: ExitStack
) -> list[FurtherLink]:
    """Listen for [[teachers]], each on a link of its own."""
    links: list[FurtherLink] = []
    for teacher in further_teachers(spec, models):
        link = open_link(teacher, role)
        cleanup.callback(link.close)
        links.append(FurtherLink(teacher, link))
    return links


def end_noter(links: Sequence[StudentSide]) -> NoteEnd:
    """Return an exit callback after which the goodbyes say whether this student comes back.

    It does after a stop signal and after a crash, because then the run is started again.
    """

    def note_end(_class: object, error: BaseException | None, _traceback: object) -> None:
        exit_code = ExitCode.DONE if error is None else ExitCode.FAILED
        if isinstance(error, DskdError):
            exit_code = error.exit_code
        if exit_code in FINAL_CODES:
            for link in links:
                link.expect_no_restart()

    return note_end


def distill_student(engine: Engine) -> DistillStudent:
    """Return the engine's module."""
    student = engine.module
    assert isinstance(student, DistillStudent)
    return student


def open_self_test(
    spec: RunSpec, requests: RequestBuilder, engine: Engine, role: Role
) -> AlignmentTest:
    """Return what tests the first reply."""
    return AlignmentTest(
        requests,
        teacher_head=distill_student(engine).objective.frozen_head(),
        on_policy_fraction=spec.train.on_policy_fraction,
        is_printing=role.rank == 0,
    )
