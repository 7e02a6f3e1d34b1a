"""TensorBoard's charts: which key of metrics.jsonl is drawn where."""

from __future__ import annotations

import re

CHARTS: dict[str, str] = {
    "loss": "loss/total",
    "loss_ce": "loss/cross-entropy (nats)",
    "loss_kd": "loss/KL to the teacher (nats)",
    "loss_sense": "loss/sense term",
    "heldout_loss": "loss/cross-entropy on held-out text (nats)",
    "grad_norm": "optimiser/gradient norm",
    "lr": "optimiser/learning rate",
    "unchanged_weights": "optimiser/share of updates lost in bfloat16",
    "teacher_mass": "teacher signal/teacher's probability on its top k",
    "teacher_mass_at_1": "teacher signal/teacher's probability on its top k at temperature 1",
    "student_mass": "teacher signal/student's probability on the teacher's top k",
    "student_mass_at_1": (
        "teacher signal/student's probability on the teacher's top k at temperature 1"
    ),
    "topk_overlap": "teacher signal/overlap of the two top-k sets",
    "sense_positions": "senses/positions a step",
    "sense_pull_distance": "senses/squared distance to S+ per dimension",
    "sense_push_active": "senses/share of S- within the margin",
    "sense_with_synonyms": "sense coverage/share of positions with synonyms",
    "sense_with_antonyms": "sense coverage/share of positions with antonyms",
    "sense_with_neighbours": "sense coverage/share of positions with neighbours from the index",
    "sense_with_nothing": "sense coverage/share of positions with no sense at all",
    "step_seconds": "speed/seconds a step",
    "teacher_wait_seconds": "speed/seconds waited for the teacher",
    "sense_wait_seconds": "speed/seconds waited for senses",
    "tokens_per_second": "speed/tokens per second",
    "link_bytes": "speed/bytes over the link",
    "link_bytes_per_token": "speed/bytes over the link per token",
    "cache_hit_rate": "speed/share of the teacher's signal that the cache had",
    "skipped": "health/skipped steps",
    "skipped_for_loss": "health/steps skipped because a loss was not finite",
    "skipped_for_spike": "health/steps skipped because the loss was a spike",
    "skipped_for_gradient": "health/steps skipped because the gradients were not finite",
    "skipped_for_overflow": "health/steps skipped because gradients overflowed in float16",
    "rollbacks": "health/rollbacks to an earlier checkpoint",
    "teacher_wait_share": "health/students wait for the teacher (share of a step)",
    "teacher_idle_share": "health/teachers wait for requests (share of the time)",
    "teacher_busy_share": "health/teachers compute (share of the time)",
    "teacher_queue": "health/longest queue of a teacher (requests)",
    "teachers": "health/teachers that serve",
    "teacher_refusals": "health/requests that teachers refused",
    "slowest_rank": "health/slowest student",
    "slowest_factor": "health/slowest student's computation time over the others'",
    "rss_bytes": "health/largest memory of a student (bytes)",
    "device_bytes": "health/largest GPU memory of a student (bytes)",
    "engine_bytes": "health/largest memory that student, optimiser and steps took (bytes)",
    "heldout_seconds": "health/seconds to measure the loss on held-out text",
    "save_seconds": "health/seconds that the last save took",
    "save_age_seconds": "health/seconds since the last save",
    "attempt": "health/attempt",
    "on_policy_share": "on-policy/share of the targets that the student wrote",
    "generate_seconds": "on-policy/seconds to write a step's text",
}
"""TensorBoard's tag of each key of metrics.jsonl."""

TERM_LOSS = "loss_layer_"
"""What the keys of losses below the head begin with; layer and kind follow."""
TERM_WEIGHT = "weight_layer_"
"""What the keys of their weights begin with."""
TERM_SHARE = "grad_share_layer_"
"""What the keys of their gradient's norm, over that of all other losses, begin with."""
TERM_COSINE = "grad_cosine_layer_"
"""What the keys of the cosine between their gradient and that of all other losses begin with."""
TERM_PEAKED = "peaked_share_layer_"
"""What the keys of the share of positions with one sense above 0.9 begin with (`posterior`)."""
TERM_CHARTS = {
    TERM_LOSS: "loss/layer {layer}, {kind}",
    TERM_WEIGHT: "losses below the head/weight, layer {layer}, {kind}",
    TERM_SHARE: "losses below the head/gradient over that of the others, layer {layer}, {kind}",
    TERM_PEAKED: "losses below the head/positions with a peaked posterior, layer {layer}, {kind}",
    TERM_COSINE: "losses below the head/cosine with the others' gradient, layer {layer}, {kind}",
}
"""Beginning of a key -> its tag."""
LAYER_LOSS = "repair_loss_layer_"
"""What the keys of a repair's losses begin with; the layer's number follows."""

COMBINED_CHARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "Losses": {"terms of the loss": ("loss", "loss_ce", "loss_kd", "loss_sense")},
    "Teacher signal": {
        "probability on the teacher's top k, and overlap": (
            "teacher_mass",
            "teacher_mass_at_1",
            "student_mass",
            "student_mass_at_1",
            "topk_overlap",
        )
    },
    "Senses": {
        "pull and push": ("sense_pull_distance", "sense_push_active"),
        "share of positions with": (
            "sense_with_synonyms",
            "sense_with_antonyms",
            "sense_with_neighbours",
            "sense_with_nothing",
        ),
    },
    "Where a step's time goes": {
        "seconds": ("step_seconds", "teacher_wait_seconds", "sense_wait_seconds")
    },
    "Health": {
        "who waits for whom (share of the time)": (
            "teacher_wait_share",
            "teacher_idle_share",
            "teacher_busy_share",
        ),
        "slowest student's computation time over the others'": ("slowest_factor",),
        "memory (bytes)": ("rss_bytes", "device_bytes", "engine_bytes"),
        "saves (seconds)": ("save_seconds", "save_age_seconds"),
    },
}
"""Layout of TensorBoard's custom scalars: tab -> chart -> keys whose curves share the chart."""


def tag_of(key: str) -> str | None:
    """Return TensorBoard's tag of a key of metrics.jsonl; None for one that has no chart."""
    if key.startswith(LAYER_LOSS):
        return f"repair/loss of layer {key.removeprefix(LAYER_LOSS)}"
    for beginning, tag in TERM_CHARTS.items():
        if key.startswith(beginning):
            layer, kind = key.removeprefix(beginning).split("_")
            return tag.format(layer=layer, kind=kind)
    return CHARTS.get(key)


def combined_charts() -> dict[str, dict[str, list[object]]]:
    """Return the layout of the charts that several curves share, as TensorBoard wants it."""
    return {
        tab: {chart: ["Multiline", _tag_patterns(keys)] for chart, keys in charts.items()}
        for tab, charts in COMBINED_CHARTS.items()
    }


def _tag_patterns(keys: tuple[str, ...]) -> list[str]:
    """Return the tags of some keys as TensorBoard's layout wants them: as regular expressions."""
    return [f"^{re.escape(CHARTS[key])}$" for key in keys]
