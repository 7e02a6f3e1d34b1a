"""The plan of a run as text, and as data for a JSON file. Loads no torch."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from dskd_ds.costs.fit import REFUSED_SHARE, Need
from dskd_ds.costs.plan import HOUR, RunPlan, Speed
from dskd_ds.costs.ways_out import WayOut

GB = 1e9
WIDTH = 34


def plan_text(plan: RunPlan) -> str:
    """Return the plan as a table of several parts."""
    teacher, student = plan.shapes.teacher, plan.shapes.student
    lines = [
        f"plan of {plan.name} on {plan.place}",
        _row("teacher", f"{teacher.num_parameters / GB:.2f} billion parameters"),
        *(
            _row("further teacher", f"{shape.num_parameters / GB:.2f} billion parameters")
            for shape in plan.shapes.further_teachers
        ),
        _row(
            "student",
            f"{student.num_parameters / GB:.2f} billion parameters, {student.num_layers} layers",
        ),
    ]
    for need in plan.needs:
        lines += ["", *_need_lines(need)]
    if plan.ways_out:
        lines += ["", "ways out, the cheapest first", *map(_way_line, plan.ways_out)]
    elif plan.is_tight:
        lines += ["", "no single change makes it fit: use a smaller student or more memory"]
    lines += ["", "teacher's signal", *_signal_lines(plan)]
    if plan.speed:
        lines += ["", "time", *_speed_lines(plan.speed)]
    return "\n".join([*lines, "", "assumed", *(f"  {sentence}" for sentence in plan.assumed)])


def refusal_text(plan: RunPlan) -> str:
    """Return why a run is refused, or may fail, with numbers and ways out."""
    lines = []
    for need in plan.needs:
        if need.is_tight:
            short = (need.needed - need.capacity) / GB
            lines.append(
                f"memory: {need.what} needs {need.needed / GB:.1f} GB, and has"
                f" {need.capacity / GB:.1f} GB: {short:.1f} GB too little."
            )
            largest = sorted(need.memory.parts.items(), key=_size_of_part, reverse=True)[:3]
            parts = ", ".join(f"{kind} {size / GB:.1f}" for kind, size in largest)
            lines.append(f"  most of it, per rank in GB: {parts}.")
    ways = [_way_line(way) for way in plan.ways_out]
    if ways:
        lines += ["  it would fit with:", *(f"  {way}" for way in ways)]
    else:
        lines.append("  use a smaller student, more ranks, or a machine with more memory.")
    return "\n".join(lines)


def plan_json(plan: RunPlan) -> dict[str, Any]:
    """Return the whole plan as data."""
    content = asdict(plan)
    for entry, need in zip(content["needs"], plan.needs, strict=True):
        entry["needed"] = need.needed
        entry["is_refused"], entry["is_tight"] = need.is_refused, need.is_tight
    if plan.speed:
        speed = plan.speed
        content["speed"] |= {"hours": speed.hours, "gpu_hours": speed.gpu_hours}
        content["speed"]["step"] |= {
            "own": speed.step.own,
            "total": speed.step.total,
            "tokens_per_second": speed.step.tokens_per_second,
        }
        if speed.teacher:
            content["speed"]["teacher"]["forward"] = speed.teacher.forward
    content["signal"]["total"] = plan.signal.total
    return content | {"is_refused": plan.is_refused, "is_tight": plan.is_tight}


def _need_lines(need: Need) -> list[str]:
    """Return the memory of a rank or a node by kind, and whether it fits."""
    share = need.needed / need.capacity if need.capacity else 0.0
    if need.is_refused:
        verdict = f"DOES NOT FIT: {(need.needed - need.capacity) / GB:.1f} GB too little"
    elif need.is_tight:
        verdict = f"may not fit: the prediction's error is about {1 - REFUSED_SHARE:.0%}"
    else:
        verdict = "fits"
    title = f"memory of {need.what}: {need.needed / GB:.2f} of {need.capacity / GB:.1f} GB"
    lines = [f"{title} ({share:.0%}), {verdict}"]
    if need.count > 1:
        lines.append(f"  {need.count} students, each (most in the phase: {need.memory.phase})")
    else:
        lines.append(f"  most in the phase: {need.memory.phase}")
    lines += [_row(kind, f"{size / GB:10.3f} GB") for kind, size in need.memory.parts.items()]
    if need.added:
        lines.append(_row("all else (teachers, index, processes)", f"{need.added / GB:10.3f} GB"))
    return lines


def _way_line(way: WayOut) -> str:
    return f"  {way.change}: {way.needed / GB:.1f} GB per student ({way.cost})"


def _signal_lines(plan: RunPlan) -> list[str]:
    """Return the bytes per token on the link, by what they are."""
    signal = plan.signal
    parts = {
        "top k": signal.top_k,
        "draws": signal.draws,
        "hidden states": signal.hidden,
        "numbers of senses": signal.senses,
        "states below the head": signal.layers,
        "senses below the head": signal.candidates,
        "requests": signal.request,
    }
    lines = [_row(kind, f"{size:10,.0f} bytes per token") for kind, size in parts.items() if size]
    lines.append(_row("together", f"{signal.total:10,.0f} bytes per token"))
    if plan.speed and plan.speed.teacher:
        into, out = plan.speed.link_bytes_per_second, plan.speed.teacher_bytes_per_second
        lines.append(_row("into each student", f"{into / 1e6:10,.1f} MB/s"))
        lines.append(_row("out of each teacher", f"{out / 1e6:10,.1f} MB/s"))
    return lines


def _speed_lines(speed: Speed) -> list[str]:
    """Return the parts of a step, the ratio of teachers, and the length of the run."""
    step = speed.step
    parts = {
        "layers": step.compute,
        "objective": step.head,
        "gather and reduce": step.gather_reduce,
        "update": step.update,
        "waiting for teachers": step.teacher_wait,
        "waiting for senses": step.sense_wait,
    }
    lines = [_row(kind, f"{seconds * 1000:10,.1f} ms per step") for kind, seconds in parts.items()]
    total = f"{step.total * 1000:10,.1f} ms, {step.tokens_per_second:,.0f} tokens/s"
    lines.append(_row("one step", total))
    if speed.teacher:
        needed = f"{speed.teachers_needed:10.2f} (planned: {speed.num_teachers})"
        answer = f"{speed.teacher.forward * 1000:10,.1f} ms per request"
        lines.append(_row("a teacher's answer", answer))
        lines.append(_row("teachers so that nobody waits", needed))
    lines.append(
        _row(
            "a checkpoint",
            f"{speed.checkpoint_bytes / GB:10.2f} GB, training stops for"
            f" {speed.save_stop_seconds:.1f} s",
        )
    )
    if speed.dictionary_seconds:
        hours = speed.dictionary_seconds / HOUR
        lines.append(_row("reading for the dictionary", f"{hours:10.2f} hours on the teachers"))
    if speed.hours is not None and speed.gpu_hours is not None:
        lines.append(
            _row(
                f"all {speed.num_steps:,} steps",
                f"{speed.hours:10.2f} hours, {speed.gpu_hours:,.1f} rank-hours on"
                f" {speed.num_ranks} ranks",
            )
        )
    return lines


def _row(name: str, value: str) -> str:
    return f"  {name:<{WIDTH}}{value}"


def _size_of_part(part: tuple[str, float]) -> float:
    return part[1]
