"""`RunSpec`: one frozen object that describes a whole run. Loads neither torch nor transformers."""

from __future__ import annotations

from pydantic import model_validator

from dskd_ds.spec.problems import ProblemsError
from dskd_ds.spec.rules import check_rules
from dskd_ds.spec.sections import RunSections


class RunSpec(RunSections):
    """A whole run: models, data, senses, loss, training, ranks, link, checkpoints, evaluation."""

    @model_validator(mode="after")
    def _check_rules_across_sections(self) -> RunSpec:
        problems = list(check_rules(self))
        if problems:
            raise ProblemsError(problems)
        return self
