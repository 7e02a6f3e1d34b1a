"""Draws dskd_ds/docs/layers.svg from the layers that pyproject.toml gives to import-linter.

    python tools/draw_layers.py

`tests/unit/test_docs.py` fails if the picture is older than the layers.
"""

from __future__ import annotations

import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "dskd_ds/docs/layers.svg"

PURPOSES = {
    "commands": "the `dskd` command, a file per command",
    "bench": "ratios with targets",
    "quickstart": "real input for the first run",
    "train": "the entry of every rank",
    "plan": "checks before a run",
    "student": "engine, feed, loop, checkpoints",
    "teacher": "answers requests",
    "costs": "memory and time of a run, without torch",
    "objective": "chunked and fused losses",
    "senses": "build, open, search, choose",
    "signals": "what the teacher sends",
    "data": "text, blocks, batches",
    "lexicon": "word relations",
    "link": "messages",
    "losses": "pure functions",
    "observe": "metrics",
    "models": "find, read, cut and freeze models",
    "runtime": "launchers, roles, devices, MPI",
    "files": "manifests, hashes",
    "spec": "the run spec, without torch",
    "errors": "errors and exit codes",
}
"""What a box says below a package's name. A package that is not listed gets its name only."""

WIDTH, MARGIN, LABEL_WIDTH = 960, 20, 50
ROW_HEIGHT, BOX_HEIGHT, GAP, TOP = 68, 52, 10, 78
CHARACTER_WIDTH = 6.6
"""Average width of a character at 12 px, rounded up. A text wider than its box is refused."""

STYLE = """
  text { font-family: 'DejaVu Sans', Verdana, Helvetica, Arial, sans-serif; fill: #1f2933; }
  .title { font-size: 17px; font-weight: bold; }
  .note, .purpose { font-size: 12px; fill: #52606d; }
  .name { font-size: 14px; font-weight: bold; }
  .box { fill: #e8f0fb; stroke: #3b6ea8; stroke-width: 1.2; }
  .arrow { stroke: #52606d; stroke-width: 1.6; fill: none; }
"""


def layers() -> list[list[str]]:
    """Return the layers from top to bottom, each with its packages in alphabetical order."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    [contract] = [contract for contract in contracts if contract["type"] == "layers"]
    return [
        # Import-linter separates the packages of a layer by `|` or `:`.
        sorted(name.strip() for name in layer.replace(":", "|").split("|"))
        for layer in contract["layers"]
    ]


def picture(rows: list[list[str]]) -> str:
    """Return the picture of these layers as SVG text."""
    height = TOP + len(rows) * ROW_HEIGHT + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
        f' viewBox="0 0 {WIDTH} {height}" role="img" aria-label="The layers of dskd_ds">',
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{height}" rx="10" fill="#fbfcfe" stroke="#cbd2d9"/>',
        f'<text class="title" x="{MARGIN}" y="34">The layers of dskd_ds</text>',
        f'<text class="note" x="{MARGIN}" y="56">A package imports only from the layers below it.'
        " Packages of one layer do not import each other.</text>",
        arrow(bottom=height - MARGIN - 16),
    ]
    for number, names in enumerate(rows):
        parts += row(names, TOP + number * ROW_HEIGHT)
    return "\n".join([*parts, "</svg>"]) + "\n"


def arrow(bottom: int) -> str:
    """Return the arrow beside the layers: the direction of imports."""
    x = MARGIN + 12
    return (
        f'<path class="arrow" d="M {x} {TOP} V {bottom} m -5 -8 l 5 8 l 5 -8"/>\n'
        f'<text class="note" transform="translate({x + 18} {(TOP + bottom) // 2}) rotate(-90)"'
        ' text-anchor="middle">imports</text>'
    )


def row(names: list[str], y: int) -> list[str]:
    """Return the boxes of one layer."""
    left = MARGIN + LABEL_WIDTH
    width = (WIDTH - MARGIN - left - GAP * (len(names) - 1)) / len(names)
    parts = []
    for number, name in enumerate(names):
        x = left + number * (width + GAP)
        purpose = PURPOSES.get(name, "").replace("`", "")
        assert len(purpose) * CHARACTER_WIDTH < width - 12, f"too long for its box: {purpose}"
        middle = x + width / 2
        # Without a purpose below it, the name is in the middle of the box.
        name_y = y + (21 if purpose else 31)
        parts += [
            f'<rect class="box" x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BOX_HEIGHT}"'
            ' rx="6"/>',
            f'<text class="name" x="{middle:.1f}" y="{name_y}" text-anchor="middle">'
            f"{escape(name)}</text>",
            f'<text class="purpose" x="{middle:.1f}" y="{y + 40}" text-anchor="middle">'
            f"{escape(purpose)}</text>",
        ]
    return parts


if __name__ == "__main__":
    PICTURE.write_text(picture(layers()), encoding="utf-8")
