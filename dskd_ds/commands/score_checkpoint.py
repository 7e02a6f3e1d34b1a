"""Scores one checkpoint of a run; `dskd eval --watch` starts it for each.

The scores per position or question are stored in RUN_DIR/evaluation/TASK/TAG.parquet, so that `dskd
compare RUN_DIR:TAG` reads them; their means go into scores.json in the checkpoint's folder.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dskd_ds.commands.task_options import add_task_options, task_options
from dskd_ds.files.atomic import write_json
from dskd_ds.runtime.arguments import exit_code_of, rank_parser
from dskd_ds.runtime.console import quiet_libraries, quiet_progress
from dskd_ds.spec import load_spec

if TYPE_CHECKING:
    from dskd_ds.evaluation.items import ItemScores
    from dskd_ds.models.named import NamedModel, RunModels
    from dskd_ds.spec import RunSpec

TEXT = """\
Score the student of a checkpoint, in a folder that nothing else writes:

  python -m dskd_ds.commands.score_checkpoint --spec RUN_DIR/spec.toml --tag step-00000100 \\
    --checkpoint FOLDER"""


def main() -> int:
    """Parse the arguments and score; returns the exit code."""
    quiet_libraries()
    quiet_progress()
    parser = rank_parser("dskd_ds.commands.score_checkpoint", TEXT)
    parser.add_argument("--tag", required=True, help="the checkpoint's name, e.g. step-00000100")
    parser.add_argument("--checkpoint", required=True, help="folder of the checkpoint's files")
    add_task_options(parser)
    args = parser.parse_args()
    return exit_code_of(lambda: score(args))


def score(args: argparse.Namespace) -> None:
    """Export the student, score it, and write the scores. Raises InputError."""
    from dskd_ds.models.named import NamedModel, RunModels
    from dskd_ds.student.export import export_folder

    spec = load_spec(args.spec, args.set)
    models = RunModels.of(spec)
    checkpoint = Path(args.checkpoint)
    folder = export_folder(spec, models, checkpoint, checkpoint / "student")
    student = NamedModel(str(folder), key="--checkpoint", dtype=spec.student.dtype)
    if args.tasks is None:
        items = [_heldout(spec, models, args.tag, student)]
    else:
        items = _tasks(spec, models, args, student)
    write_json(checkpoint / "scores.json", means(items))


def _heldout(spec: RunSpec, models: RunModels, tag: str, student: NamedModel) -> ItemScores:
    from dskd_ds.evaluation.heldout import TASK, score_heldout
    from dskd_ds.evaluation.items import items_path, write_items

    scores = score_heldout(spec, models, {tag: student})[tag]
    write_items(scores, items_path(spec.run_dir, TASK, tag))
    return scores


def _tasks(
    spec: RunSpec, models: RunModels, args: argparse.Namespace, student: NamedModel
) -> list[ItemScores]:
    from dskd_ds.commands.evaluate_tasks import evaluate_tasks
    from dskd_ds.evaluation.items import items_path, read_items
    from dskd_ds.evaluation.word_tasks import stored_names
    from dskd_ds.spec.recipe import RecipeSpec

    options = task_options(args)
    evaluate_tasks(
        spec.run_dir,
        {args.tag: student},
        options,
        spec.recipe or RecipeSpec(),
        prompt_model=models.teacher,
        spec=spec,
    )
    names = stored_names(options.names)
    return [read_items(items_path(spec.run_dir, task, args.tag)) for task in names]


def means(items: list[ItemScores]) -> dict[str, float]:
    """Return what is drawn of the scores: `kl`, `perplexity`, or `TASK/METRIC`.

    And `kl_quarter_1` to `_4`: by the teacher's entropy, from low to high.
    """
    from dskd_ds.evaluation.heldout import TASK
    from dskd_ds.evaluation.items import TEACHER_ENTROPY
    from dskd_ds.evaluation.result import quarter_means

    found: dict[str, float] = {}
    for scores in items:
        for metric in scores.metrics:
            name = "perplexity" if metric.is_log else metric.key
            key = name if scores.task == TASK else f"{scores.task}/{name}"
            found[key] = metric.score(float(scores.values[metric.key].mean()))
        if scores.task == TASK:
            quarters = quarter_means(scores.values["kl"], scores.values.get(TEACHER_ENTROPY))
            found |= {f"kl_quarter_{number}": mean for number, mean in enumerate(quarters, 1)}
    return found


if __name__ == "__main__":
    sys.exit(main())
