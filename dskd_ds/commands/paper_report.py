"""What `dskd paper RECIPE` leaves: table.md, table.json and a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from dskd_ds.study.runs import Run
from dskd_ds.study.spec import StudySpec

TABLE_FILE = "table.md"


def write_report(study: StudySpec, runs: Sequence[Run]) -> None:
    """Write the tables and the page of the finished runs, and print the tables.

    Raises InputError if no run of the reference arm has finished.
    """
    from dskd_ds.commands.compare_page import write_page
    from dskd_ds.commands.compare_text import as_json
    from dskd_ds.study.outcome import only, outcome_of
    from dskd_ds.study.paper_table import (
        baseline_groups,
        counted_tasks,
        paper_comparisons,
        tables,
    )

    folder = Path(study.folder)
    outcome = outcome_of(study, runs)
    found = tables(study, outcome.groups, runs)
    num_done = sum(len(group.runs) for group in outcome.groups)
    heading = f"# {study.name}\n\n{num_done} of {len(runs)} runs are done.\n\n"
    text = heading + "\n".join(table.markdown() for table in found)
    (folder / TABLE_FILE).write_text(text, encoding="utf-8")
    comparisons = paper_comparisons(outcome.groups, counted_tasks(study))
    content = {
        "runs_done": num_done,
        "runs_planned": len(runs),
        "seeds": {group.name: group.seeds for group in outcome.groups},
        "comparisons": [as_json(result) for result in comparisons],
    }
    (folder / "table.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    print(f"\n{text}")
    print(f"the table: {folder / TABLE_FILE}")
    groups = [*outcome.groups, *baseline_groups(study)]
    if outcome.comparisons:
        page = write_page(folder, groups, outcome.comparisons, only(study, "test"), tables=found)
        print(f"the page: {page}")
