"""Weak and strong scaling of the students, and the largest student per number of nodes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from dskd_ds.costs.constants import constant_fields
from tools.plan_validation.finding import Cell, Table
from tools.scaling.section import Section
from tools.scaling.setting import MODELS, ROW_TOKENS, Setting, models

GPUS = (8, 16, 32, 64, 128, 256, 512, 1024)
STUDENTS = ("Llama-1B", "Llama-8B", "Llama-70B")
STUDENT_CONSTANTS = (
    "matmul_hopper",
    "attention_hopper",
    "traffic_eager",
    "hidden_communication",
    "collective_efficiency",
    "hop_seconds",
    "head_passes",
    "step_seconds",
)
"""The constants that a step of students on H100 depends on."""
GLOBAL_ROWS = 1024
CLUSTERS = ("a100-40", "a100-80", "h100-80", "h200")
NODES = (1, 2, 4, 8, 16, 32, 64, 128)


def rate(setting: Setting) -> float:
    """Return tokens per second and student GPU."""
    own = setting.own()
    return own.step_tokens / own.own / setting.num_students


def band(setting: Setting) -> tuple[float, float]:
    """Return the lowest and highest rate if the constants vary independently in their ranges.

    The effects of the single constants are added as the root of the sum of their squares.
    """
    middle = rate(setting)
    below = above = 0.0
    for name in STUDENT_CONSTANTS:
        metadata = constant_fields()[name].metadata
        ends = [
            math.log(rate(setting.with_constant(name, metadata[end])) / middle)
            for end in ("low", "high")
        ]
        below += min(*ends, 0.0) ** 2
        above += max(*ends, 0.0) ** 2
    return middle * math.exp(-math.sqrt(below)), middle * math.exp(math.sqrt(above))


def weak() -> Section:
    """Weak scaling: the work per GPU stays, the number of GPUs grows."""
    base = {
        name: Setting(name, "Llama-70B", "h100-80", num_students=8, signal="topk", senses=False)
        for name in STUDENTS
    }
    rows: list[list[Cell]] = []
    for gpus in GPUS:
        row: list[Cell] = [gpus]
        for setting in base.values():
            many = replace(setting, num_students=gpus)
            if not many.student_fits():
                row += ["does not fit", ""]
                continue
            own = many.own()
            row += [f"{rate(many):,.0f}", f"{own.gather_reduce / own.own:.0%}"]
        rows.append(row)
    columns = ["GPUs"]
    for name in STUDENTS:
        columns += [f"{name}: tokens/s per GPU", "collectives"]
    table = Table(
        "Weak scaling on H100",
        "Collectives: share of a step that ZeRO-3's gathers and reductions add to the computation.",
        columns,
        rows,
    )
    first, last = (rate(replace(base["Llama-8B"], num_students=n)) for n in (8, 1024))
    low, high = band(replace(base["Llama-8B"], num_students=1024))
    return Section(
        name="weak",
        title="Weak scaling of the students",
        setting=(
            f"Each GPU trains 4 micro-batches of one row of {ROW_TOKENS:,} tokens per step, with"
            " ZeRO-3 and full activation checkpointing, without torch.compile. There are enough"
            " teachers, so no student waits."
        ),
        findings=[
            f"The 8B student keeps {last / first:.0%} of its rate per GPU from 8 to 1,024 GPUs:"
            f" {first:,.0f} to {last:,.0f} tokens/s per GPU.",
            f"The band of the assumed and fitted constants at 1,024 GPUs is {low:,.0f} to"
            f" {high:,.0f}.",
            "What is lost is the latency of ring collectives, which grows with the number of GPUs,"
            " while each GPU's share of a layer shrinks.",
        ],
        tables=[table],
        draw=lambda path: _draw_weak(path, base),
    )


def _draw_weak(path: Path, base: dict[str, Setting]) -> None:
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, setting in base.items():
        sizes = [n for n in GPUS if replace(setting, num_students=n).student_fits()]
        start = rate(replace(setting, num_students=sizes[0]))
        settings = [replace(setting, num_students=n) for n in sizes]
        (line,) = axes.plot(
            sizes, [rate(many) / start for many in settings], marker="o", label=name
        )
        bands = [band(many) for many in settings]
        lows = [low / start for low, _ in bands]
        highs = [high / start for _, high in bands]
        axes.fill_between(sizes, lows, highs, alpha=0.12, color=line.get_color())
    _gpu_axis(axes)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("tokens/s per GPU, relative to the fewest GPUs")
    axes.legend(title="student")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _gpu_axis(axes: Axes) -> None:
    """Label the x axis with numbers of GPUs."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(GPUS, [f"{n:,}" for n in GPUS])
    axes.set_xlabel("student GPUs (H100)")


def strong() -> Section:
    """Strong scaling: the batch stays, the number of GPUs grows."""
    rows: list[list[Cell]] = []
    for gpus in GPUS:
        row: list[Cell] = [gpus, GLOBAL_ROWS // gpus]
        for name in STUDENTS:
            setting = _strong_setting(name, gpus)
            if not setting.student_fits():
                row += ["does not fit", ""]
                continue
            row += [f"{setting.own().own:.1f}", f"{_efficiency(name, gpus):.0%}"]
        rows.append(row)
    columns = ["GPUs", "rows per GPU"]
    for name in STUDENTS:
        columns += [f"{name}: seconds per step", "efficiency"]
    table = Table(
        "Strong scaling on H100",
        "Efficiency: rate per GPU relative to the fewest GPUs that hold the student.",
        columns,
        rows,
    )
    return Section(
        name="strong",
        title="Strong scaling of the students",
        setting=(
            f"The batch stays at {GLOBAL_ROWS:,} rows of {ROW_TOKENS:,} tokens"
            f" ({GLOBAL_ROWS * ROW_TOKENS / 1e6:.1f} million). More GPUs take fewer micro-batches"
            " each. All else is as above."
        ),
        findings=[
            "At 1,024 GPUs each GPU has one micro-batch, and the 8B student reaches"
            f" {_efficiency('Llama-8B', 1024):.0%} of the rate per GPU that it has on 8.",
            "ZeRO-3 gathers and reduces in every micro-batch, so fewer micro-batches per step save"
            " as many collectives. Only the fixed part of a step weighs more.",
        ],
        tables=[table],
        draw=_draw_strong,
    )


def _strong_setting(name: str, gpus: int) -> Setting:
    return Setting(
        name,
        "Llama-70B",
        "h100-80",
        num_students=gpus,
        num_micro_batches=GLOBAL_ROWS // gpus,
        senses=False,
    )


def _efficiency(name: str, gpus: int) -> float:
    fewest = next(n for n in GPUS if _strong_setting(name, n).student_fits())
    return rate(_strong_setting(name, gpus)) / rate(_strong_setting(name, fewest))


def _draw_strong(path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name in STUDENTS:
        sizes = [n for n in GPUS if _strong_setting(name, n).student_fits()]
        seconds = [_strong_setting(name, n).own().own for n in sizes]
        (line,) = axes.plot(sizes, seconds, marker="o", label=name)
        ideal = [seconds[0] * sizes[0] / n for n in sizes]
        axes.plot(sizes, ideal, linestyle=":", color=line.get_color())
    _gpu_axis(axes)
    axes.set_yscale("log")
    axes.set_ylabel("seconds per step (dotted: ideal)")
    axes.legend(title="student")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def largest() -> Section:
    """The largest student that fits, by number of nodes."""
    rows: list[list[Cell]] = []
    for cluster in CLUSTERS:
        for offload in (False, True):
            name = f"{cluster}, optimiser on the host" if offload else cluster
            rows.append([name, *[_largest(cluster, nodes, offload) for nodes in NODES]])
    table = Table(
        "Largest student",
        "By nodes of 8 GPUs. A prediction may fill 90 % of a GPU's memory.",
        ["GPUs", *[str(nodes) for nodes in NODES]],
        rows,
    )
    return Section(
        name="largest",
        title="The largest student per number of nodes",
        setting=(
            "One row of 4,096 tokens per micro-batch, full activation checkpointing, float32 master"
            " weights and moments, ZeRO-3 (ds_configs/zero3.json) or with the optimiser offloaded"
            " (ds_configs/zero3_offload.json). Memory is that of `costs/memory.py`. Sizes that were"
            f" tried: {', '.join(MODELS)}."
        ),
        findings=[
            f"One node of H100 80 GB trains {_largest('h100-80', 1, False)}; two nodes"
            f" {_largest('h100-80', 2, False)}; eight nodes {_largest('h100-80', 8, False)}.",
            f"One node of H200 trains {_largest('h200', 1, False)}.",
        ],
        tables=[table],
    )


def _largest(cluster: str, nodes: int, offload: bool) -> str:
    """Return the largest model whose student fits; `-` if none does."""
    config = "ds_configs/zero3_offload.json" if offload else "ds_configs/zero3.json"
    best = "-"
    for name in sorted(MODELS, key=lambda size: models()[size].num_parameters):
        gpus = 8 * nodes
        setting = Setting(name, name, cluster, num_students=gpus, senses=False, deepspeed=config)
        if setting.student_fits():
            best = name
    return best
