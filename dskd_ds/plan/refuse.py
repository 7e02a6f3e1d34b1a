"""Refuses a run that cannot fit into memory, before a process is started. Loads no torch."""

from __future__ import annotations

import sys

from dskd_ds.costs.clusters import Cluster, open_cluster
from dskd_ds.costs.plan import RunPlan, make_plan
from dskd_ds.costs.plan_text import refusal_text
from dskd_ds.costs.run_shapes import run_shapes
from dskd_ds.errors import InputError, NoFormulaError
from dskd_ds.spec import RunSpec


def refuse_what_cannot_fit(spec: RunSpec, is_forced: bool = False) -> None:
    """Raise InputError if the run will very likely not fit into this machine's memory.

    Prints a warning to stderr if it may not fit, if is_forced overrides the refusal, or if nothing
    is checked because a model has no formula.
    """
    plan = plan_of(spec)
    if plan is not None:
        _refuse(plan, is_forced)


def refuse_on_cluster(spec: RunSpec, cluster: str, is_forced: bool = False) -> None:
    """Do the same for the memory of a cluster. Raises InputError if it is unknown, too."""
    plan = plan_of(spec, open_cluster(cluster))
    if plan is not None:
        _refuse(plan, is_forced)


def _refuse(plan: RunPlan, is_forced: bool) -> None:
    """Warn or raise InputError if the plan says that memory is too small."""
    if not plan.is_tight:
        return
    text = refusal_text(plan)
    if not plan.is_refused:
        print(f"warning: this run may not fit.\n{text}", file=sys.stderr)
    elif is_forced:
        print(f"warning: --force: started although it will not fit.\n{text}", file=sys.stderr)
    else:
        raise InputError(
            f"{plan.name}: this run does not fit into memory on {plan.place}.\n{text}\n"
            "  `dskd plan` shows all parts; --force starts it all the same."
        )


def plan_of(spec: RunSpec, cluster: Cluster | None = None) -> RunPlan | None:
    """Return the plan of a run, without a cluster on this machine; None if it has none.

    A model without a formula is named on stderr. Whatever else is wrong, other checks report it.
    """
    try:
        return make_plan(spec, run_shapes(spec), cluster)
    except NoFormulaError as error:
        reason = str(error).splitlines()[0]
        print(f"warning: the memory of this run is not checked. {reason}", file=sys.stderr)
        return None
    except InputError:
        return None
