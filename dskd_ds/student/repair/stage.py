"""The repair as a phase of a run: opens what it needs, trains the blocks, writes the student.

It uses the loop, checkpoints and feed of training under a spec of its own, in the folder `repair/`
of the run directory. So it saves, stops, skips and resumes as training does.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from dskd_ds.data.streamed import StreamedBlocks
from dskd_ds.errors import InputError
from dskd_ds.link import StudentSide
from dskd_ds.models.named import NamedModel, RunModels
from dskd_ds.observe.run_files import REPAIR_FOLDER
from dskd_ds.runtime.devices import give_back_memory, local_device
from dskd_ds.runtime.stop import StopWish
from dskd_ds.runtime.topology import Role
from dskd_ds.spec import SPEC_FILE, RunSpec, write_spec
from dskd_ds.spec.loss import LossSpec
from dskd_ds.student.checkpoint.folders import checkpoint_dir
from dskd_ds.student.checkpoint.store import Checkpoints
from dskd_ds.student.collectives import broadcast_from_rank_0, run_on_rank_0
from dskd_ds.student.deepspeed_engine import Engine
from dskd_ds.student.depth import ORIGIN_FILE, student_init
from dskd_ds.student.dropout import set_dropout
from dskd_ds.student.ds_config import deepspeed_config
from dskd_ds.student.engine import open_engine
from dskd_ds.student.loop import run_steps
from dskd_ds.student.model import load_language_model
from dskd_ds.student.on_policy import OnPolicyBlocks
from dskd_ds.student.phases import EXPORTING, LOADING, Phases
from dskd_ds.student.repair.blocks import RepairBlock, repair_blocks, teacher_layers
from dskd_ds.student.repair.model import RepairStudent
from dskd_ds.student.repair.requests import RepairRequests
from dskd_ds.student.repair.result import gather_and_write, open_repaired, repaired_folder
from dskd_ds.student.replies.feed import Feed
from dskd_ds.student.replies.further_teachers import FurtherLink
from dskd_ds.student.resume_settings import refuse_another_run
from dskd_ds.student.run_lock import RunLock
from dskd_ds.student.run_source import open_run_source
from dskd_ds.student.run_state import EngineState, Stateful
from dskd_ds.student.skips import Skips
from dskd_ds.student.training import Training

NoteEnd = Callable[[object, BaseException | None, object], None]
"""An exit callback, with an error's class, the error (None without one) and its traceback."""


@dataclass(frozen=True)
class RunParts:
    """What the repair and the training that follows it share."""

    role: Role
    link: StudentSide
    """For text that may come again: a cache may stand before the teachers."""
    uncached_link: StudentSide
    """For what no cache keeps."""
    phases: Phases
    run_lock: RunLock
    is_stop_wanted: StopWish
    note_end: NoteEnd
    """Tells the links if this run will not start again; call it before a link is closed."""
    further_links: Sequence[FurtherLink] = ()
    """To [[teachers]]; the repair asks only [teacher]."""


def initial_student(spec: RunSpec, models: RunModels, run: RunParts) -> NamedModel:
    """Return the model that distillation starts from. A collective call.

    It is the cut student, or with [repair] the repaired one; the first call trains that. Raises
    InputError if nothing was cut, or if an earlier repair had other settings, and what `run_steps`
    raises: the next launch then goes on with the repair.
    """
    init = student_init(spec, models)
    if not spec.repair.steps:
        return init
    if not broadcast_from_rank_0(repaired_folder(spec).is_dir()):
        _train(spec, models, init, run)
        give_back_memory()
        run.phases.enter(LOADING, step=0)  # the student that is distilled
    return open_repaired(spec, init)


def repair_spec(spec: RunSpec) -> RunSpec:
    """Return the spec under which the blocks are trained."""
    folder = str(Path(spec.run_dir) / REPAIR_FOLDER)
    train = {"num_steps": spec.repair.steps, "num_epochs": None, "on_policy_fraction": 0.0}
    optimizer = {"lr": spec.repair.lr, "scale_lr_by_ranks": False}
    return spec.model_copy(
        update={
            "run_dir": folder,
            # Blocks have a loss of their own. The run's may be one that only its senses make valid.
            "loss": LossSpec(sense_weight=0.0),
            "monitor": spec.monitor.model_copy(update={"heldout_every_steps": 0}),
            "checkpoint": spec.checkpoint.model_copy(update={"keep_best": False}),
            "optimizer": spec.optimizer.model_copy(update=optimizer),
            "train": spec.train.model_copy(update=train),
        }
    )


def blocks_to_repair(spec: RunSpec, models: RunModels, init: NamedModel) -> list[RepairBlock]:
    """Return the layers of the cut student that are repaired.

    Raises InputError if the student has all layers of its teacher.
    """
    kept = json.loads((Path(init.path) / ORIGIN_FILE).read_text(encoding="utf-8"))["kept_layers"]
    blocks = repair_blocks(kept, models.teacher.num_layers, spec.repair.side)
    if not blocks:
        raise InputError(
            f"[repair] steps = {spec.repair.steps}, but the student keeps all"
            f" {models.teacher.num_layers} layers of its teacher.\n"
            "  set [repair] steps = 0, or keep fewer layers ([student] layers)."
        )
    return blocks


def _train(spec: RunSpec, models: RunModels, init: NamedModel, run: RunParts) -> None:
    """Train the blocks and write the repaired student. A collective call."""
    repaired = repair_spec(spec)
    run_on_rank_0(refuse_another_run, repaired)
    run_on_rank_0(_note_spec, repaired)
    blocks = blocks_to_repair(spec, models, init)
    engine = _open_engine(repaired, init, blocks)
    with ExitStack() as cleanup:
        training = _open_training(spec, repaired, models, init, run, engine, blocks, cleanup)
        assert isinstance(training.steps, Feed)
        try:
            run_steps(training)
        except BaseException as error:
            run.note_end(type(error), error, None)
            training.steps.close()  # the link too: its thread may wait for a reply
            raise
        training.steps.finish()  # the training that follows needs the link
    run.phases.enter(EXPORTING)
    gather_and_write(engine, spec, init)
    engine.destroy()
    del engine, training
    gc.collect()
    run_on_rank_0(shutil.rmtree, checkpoint_dir(repaired), True)


def _note_spec(spec: RunSpec) -> None:
    """Write the spec of the repair into its folder; a resumed repair is compared with it."""
    Path(spec.run_dir).mkdir(parents=True, exist_ok=True)
    write_spec(spec, Path(spec.run_dir) / SPEC_FILE)


def _open_engine(spec: RunSpec, init: NamedModel, blocks: list[RepairBlock]) -> Engine:
    """Load the blocks of the cut student into a DeepSpeed engine."""
    config = deepspeed_config(spec)
    model = load_language_model(init, config)
    set_dropout(model, 0.0)
    # Unlike in training, layers are not ZeRO-3's leaf modules (docs/deepspeed.md, "Frozen layers").
    return open_engine(RepairStudent(model, blocks, spec.repair.distance), config)


def _open_training(
    spec: RunSpec,
    repaired: RunSpec,
    models: RunModels,
    init: NamedModel,
    run: RunParts,
    engine: Engine,
    blocks: list[RepairBlock],
    cleanup: ExitStack,
) -> Training:
    """Open data, checkpoints and feed, and return the repair's training."""
    source = open_run_source(repaired, models, run.role.rank)
    skips = Skips(repaired.train)
    states: dict[str, Stateful] = {"engine": EngineState(engine), "skips": skips}
    checkpoints = Checkpoints(engine, repaired, init.fingerprint, states)
    if isinstance(source, StreamedBlocks):
        checkpoints.keep_state("stream", source)
        cleanup.callback(source.close)
    done = checkpoints.resume()
    requests = RepairRequests(
        teacher_layers(blocks),
        repaired.link.hidden_format,
        models.shared_vocab_size,
        models.teacher.hidden_size,
    )
    feed = Feed(
        repaired,
        rank=run.role.rank,
        source=source,
        link=run.uncached_link,
        requests=requests,
        self_test=None,
        device=local_device(),
        steps=range(done.step, repaired.repair.steps),
    )
    return Training(
        spec=repaired,
        rank=run.role.rank,
        engine=engine,
        steps=feed,
        blocks=OnPolicyBlocks(repaired, models.teacher.tokenizer, run.role.rank, source, engine),
        num_done=done.step,
        num_steps=repaired.repair.steps,
        tokens=done.tokens,
        skips=skips,
        phases=run.phases,
        is_stop_wanted=run.is_stop_wanted,
        run_lock=run.run_lock,
        checkpoints=checkpoints,
        whole_run_dir=Path(spec.run_dir),
        title="repair",
    )
