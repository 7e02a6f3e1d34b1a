"""Checks what code, specs and pages say about files and headings; nothing names a file outside."""

from __future__ import annotations

import fnmatch
import re
import runpy
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

DOCS = Path("dskd_ds/docs")
PAGES = [Path("README.md"), Path("CHANGELOG.md"), Path("ds_configs/README.md"), *DOCS.glob("*.md")]
TEXT_SUFFIXES = {".py", ".md", ".toml", ".json", ".svg", ".html", ".yaml", ".sh", ""}

HEADING = r'"[^"`]+"'
CITATION = re.compile(rf"docs/(\w+)\.md(?:, ({HEADING}(?:(?:,| and|, and) {HEADING})*))?")
QUOTED_NEARBY = re.compile(r'docs/\w+\.md[^\w"`]{0,3}"')
"""A citation of a heading, whatever its form."""

OUTSIDE = re.compile(
    r"\b(?:METHOD|DESIGN|PAPER|DEEPSPEED|STYLE|EVIDENCE|PEERS|DATA|VALIDATION)\.md\b|\bshared/"
)
ISSUE = re.compile(r"\bissue \d+|(?<![\w&/#])#\d{1,4}\b(?![-.]\d)", re.IGNORECASE)


@cache
def tracked() -> list[Path]:
    """The text files of the repository that git knows, without this one."""
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True)
    paths = [Path(line) for line in listed.stdout.splitlines()]
    return [
        path
        for path in paths
        if path.suffix in TEXT_SUFFIXES
        and path.is_file()
        and path != Path("tests/unit/test_docs.py")
    ]


def one_line(path: Path) -> str:
    """The file's text on one line, without comment marks and JSON's escapes."""
    text = path.read_text()
    if path.suffix == ".json":
        text = text.replace('\\"', '"')
    return re.sub(r"\s*\n\s*(?:#+ )?", " ", text)


def headings(page: Path) -> set[str]:
    """The headings of a page, without code blocks."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    return set(re.findall(r"^#+ (.+)$", text, re.MULTILINE))


def wrong_citations(text: str) -> Iterator[str]:
    """Yield citations of unknown pages or headings, and those in another form."""
    for match in CITATION.finditer(text):
        page = DOCS / f"{match[1]}.md"
        if not page.is_file():
            yield f"{match[0]}: there is no {page}"
            continue
        cited = re.findall(HEADING, match[2] or "")
        unknown = {heading.strip('"') for heading in cited} - headings(page)
        yield from (f'{match[0]}: {page} has no heading "{heading}"' for heading in unknown)
    for match in QUOTED_NEARBY.finditer(text):
        if not re.match(rf"docs/\w+\.md, {HEADING}", text[match.start() :]):
            yield f'{text[match.start() : match.end() + 30]}: write docs/<page>.md, "Heading"'


def test_citations_name_pages_and_headings_that_exist() -> None:
    wrong = [f"{path}: {what}" for path in tracked() for what in wrong_citations(one_line(path))]
    assert not wrong, "\n".join(wrong)
    assert sum(len(CITATION.findall(one_line(path))) for path in tracked()) > 20


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('see docs/method.md, "Scale".', 0),
        ('docs/method.md, "The losses" and "Algebra"', 0),
        ("docs/deepspeed.md", 0),
        ('docs/method.md, "Scales"', 1),
        ('docs/method.md, "Scale" and "Tails"', 1),
        ('docs/method.md ("Scale")', 1),
        ("docs/methods.md", 1),
    ],
)
def test_a_wrong_citation_is_found(text: str, wrong: int) -> None:
    assert len(list(wrong_citations(text))) == wrong


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    relative = [target.split("#")[0] for target in targets if "://" not in target]
    missing = [target for target in relative if target and not (page.parent / target).exists()]
    assert not missing


def repository_paths(page: Path) -> list[str]:
    """What stands in backticks on a page and looks like a path of the repository.

    The pages in dskd_ds/docs name modules by their path below dskd_ds too.
    """
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    quoted = re.findall(r"`([\w.*-]+(?:/[\w.*-]+)*/?)`", text)
    folders = {path.parts[0] for path in tracked() if len(path.parts) > 1}
    if page.parent == DOCS:
        folders |= {path.name for path in Path("dskd_ds").iterdir() if path.is_dir()}
    inside = [path for path in quoted if "/" in path and path.split("/")[0] in folders]
    return inside + [path for path in quoted if "/" not in path and path.endswith(".py")]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_paths_in_backticks_exist(page: Path) -> None:
    missing = [
        path
        for path in repository_paths(page)
        if not any(any(root.glob(path)) for root in (Path(), Path("dskd_ds"), page.parent))
    ]
    assert not missing


def test_functions_that_pages_name_are_in_the_files_that_they_name() -> None:
    wrong = []
    for page in PAGES:
        for name, path in re.findall(r"`(\w+)` in\s+`(?:dskd_ds/)?([\w/]+\.py)`", page.read_text()):
            file = Path("dskd_ds") / path
            if not re.search(rf"\b{name}\b", file.read_text()):
                wrong.append(f"{page}: {file} has no {name}")
    assert not wrong, "\n".join(wrong)


def test_nothing_names_a_file_outside_or_an_issue() -> None:
    wrong = []
    for path in tracked():
        text = path.read_text()
        found = OUTSIDE.findall(text)
        if path.suffix not in (".svg", ".html"):  # colours there look like numbers of issues
            found += ISSUE.findall(text)
        wrong += [f"{path}: {what}" for what in found]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("text", ["see issue 11", "fixed by #11", "Closes #7."])
def test_an_issue_is_found(text: str) -> None:
    assert ISSUE.search(text)


def test_the_picture_of_the_layers_is_current() -> None:
    script = runpy.run_path("tools/draw_layers.py")
    drawn = script["picture"](script["layers"]())
    assert (DOCS / "layers.svg").read_text() == drawn, "run python tools/draw_layers.py"


def test_the_pages_travel_in_the_wheel() -> None:
    settings = tomllib.loads(Path("pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["dskd_ds"]
    for path in DOCS.iterdir():
        name = str(path.relative_to("dskd_ds"))
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), name
