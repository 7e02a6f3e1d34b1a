"""The run spec: one frozen object that names everything a run is. Importing it loads neither torch nor transformers."""

from __future__ import annotations

from pydantic import model_validator

from dskd_ds.spec.rules import ProblemsError, check_rules
from dskd_ds.spec.sections import RunSections


class RunSpec(RunSections):
    """Everything a run is: models, data, senses, loss, optimiser, topology, link, checkpoints, monitoring."""

    @model_validator(mode="after")
    def _rules_that_join_fields(self) -> RunSpec:
        problems = list(check_rules(self))
        if problems:
            raise ProblemsError(problems)
        return self
