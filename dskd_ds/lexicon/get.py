"""`dskd senses lexicon get`: brings a lexicon into a folder, reads it, and says how to use it.

The files are downloaded, or taken from local copies where no network is. The folder gets a file
`origin.json` with the page, the licence, and the SHA-256 of every file.
"""

from __future__ import annotations

import json
import shutil
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from dskd_ds.errors import InputError
from dskd_ds.files.atomic import atomic_file, atomic_folder, write_json
from dskd_ds.files.hashes import file_sha256
from dskd_ds.files.output import writing_output
from dskd_ds.lexicon.morpholex import read_morpholex
from dskd_ds.lexicon.resources import RESOURCES, Download, Resource
from dskd_ds.lexicon.sources import read_source
from dskd_ds.spec.lexicons import LexiconSpec

ORIGIN_FILE = "origin.json"
TIMEOUT_SECONDS = 60


def describe(name: str, resource: Resource) -> str:
    """Return where a lexicon comes from, its licence, and how it is read."""
    files = ", ".join(download.name for download in resource.downloads)
    return (
        f"{name}: {resource.what}\n"
        f"  page        {resource.page}\n"
        f"  licence     {resource.licence}\n"
        f"  files       {files}\n"
        f"  conversion  {resource.conversion}"
    )


def describe_all() -> str:
    """Return the description of every lexicon, and how to get one."""
    known = "\n".join(describe(name, resource) for name, resource in RESOURCES.items())
    return f"{known}\n\nget one: dskd senses lexicon get NAME [--file LOCAL_COPY] [--output FOLDER]"


def get_lexicon(name: str, files: Sequence[str], folder: Path) -> Iterator[str]:
    """Bring a lexicon into a folder, and yield the lines to print.

    files: local copies, in the order of the resource's downloads; empty to download.
    Raises InputError if the name is unknown, if a file cannot be had, or if it cannot be read.
    """
    resource = RESOURCES.get(name)
    if resource is None:
        raise InputError(
            f"dskd senses lexicon get {name}: no lexicon has this name.\n"
            f"  use one of {', '.join(RESOURCES)}."
        )
    yield describe(name, resource)
    if files and len(files) != len(resource.downloads):
        wanted = ", ".join(download.name for download in resource.downloads)
        raise InputError(
            f"--file: {len(files)} files are given, but {name} has {len(resource.downloads)}:"
            f" {wanted}.\n  give --file once for each, in this order."
        )
    with writing_output(folder):
        folder.mkdir(parents=True, exist_ok=True)
    before = _recorded_digests(folder)
    digests: dict[str, str] = {}
    for index, download in enumerate(resource.downloads):
        target = folder / download.name
        if files:
            _copy(Path(files[index]), target)
        else:
            _download(download, resource, target)
        digests[download.name] = file_sha256(target)
        yield f"  {target}: sha256 {digests[download.name]}{_compared(before, digests, download)}"
    if resource.is_archive:
        _unpack(folder / resource.downloads[0].name, folder / resource.folder, resource.folder)
    yield f"  {_read_once(resource, folder)}"
    facts = {"name": name, "page": resource.page, "licence": resource.licence, "sha256": digests}
    with writing_output(folder):
        write_json(folder / ORIGIN_FILE, facts | {"files": list(files) or "downloaded"}, indent=1)
    yield f"\nUse it in a spec:\n\n{toml_of(resource, folder)}"


def _recorded_digests(folder: Path) -> dict[str, str]:
    """Return the digests of an earlier call; empty without one."""
    try:
        origin = json.loads((folder / ORIGIN_FILE).read_text(encoding="utf-8"))
        recorded: dict[str, str] = origin["sha256"]
    except (OSError, ValueError, KeyError):
        return {}
    return recorded


def _compared(before: dict[str, str], now: dict[str, str], download: Download) -> str:
    """Return how a file's digest compares with that of the last call."""
    if download.name not in before:
        return ""
    is_same = before[download.name] == now[download.name]
    return " (as before)" if is_same else " (ANOTHER CONTENT than the last time)"


def _copy(source: Path, target: Path) -> None:
    """Copy a local file. Raises InputError if it cannot be read or written."""
    try:
        with atomic_file(target) as partial:
            shutil.copyfile(source, partial)
    except OSError as error:
        raise InputError(
            f"--file {source}: it cannot be copied to {target}: {error.strerror}.\n"
            "  name a file that exists, and an --output folder that you may write to."
        ) from None


def _download(download: Download, resource: Resource, target: Path) -> None:
    """Download a file with a progress bar. Raises InputError that names the page."""
    try:
        request = urllib.request.Request(download.url, headers={"User-Agent": "dskd-ds"})
        with (
            urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as reply,
            atomic_file(target) as partial,
            partial.open("wb") as file,
        ):
            size = int(reply.headers.get("Content-Length") or 0) or None
            with tqdm.wrapattr(file, "write", total=size, desc=download.name) as counted:
                shutil.copyfileobj(reply, counted)
    except (OSError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", error)
        raise InputError(
            f"{download.url}: the file cannot be downloaded: {reason}.\n"
            f"  download {download.name} from {resource.page} on a machine with a network, and give"
            f" it with --file (one per file: {', '.join(d.name for d in resource.downloads)})."
        ) from None


def _unpack(archive: Path, folder: Path, inside: str) -> None:
    """Unpack the folder `inside` of a `.tar.gz`. Raises InputError if the archive is damaged."""
    try:
        with tarfile.open(archive) as packed, atomic_folder(folder) as partial:
            members = [m for m in packed.getmembers() if m.name.startswith(f"{inside}/")]
            packed.extractall(partial, members, filter="data")
            for path in (partial / inside).iterdir():
                path.rename(partial / path.name)
            (partial / inside).rmdir()
    except (OSError, tarfile.TarError, EOFError) as error:
        raise InputError(
            f"{archive}: it is not an archive with a folder {inside}/: {error}.\n"
            "  download it again."
        ) from None


def _read_once(resource: Resource, folder: Path) -> str:
    """Read the lexicon, and return what it holds. Raises InputError if it cannot be read."""
    if resource.kind is None:
        words, counts = read_morpholex(folder / resource.downloads[0].name)
        num_negated = sum(entry.is_negated for entry in words.values())
        found = f"{len(words):,} words, {num_negated:,} of them negated"
    else:
        source = read_source(spec_of(resource, folder))
        counts = source.line_counts
        found = f"{len(source.table()):,} pairs"
    return f"{found}; {counts.num_malformed:,} of {counts.num_lines:,} lines are malformed"


def spec_of(resource: Resource, folder: Path) -> LexiconSpec:
    """Return the section [[senses.lexicons]] of a lexicon in a folder."""
    paths = {download.relation: str(folder / download.name) for download in resource.downloads}
    if resource.folder:
        paths["path"] = str(folder / resource.folder)
    return LexiconSpec.model_validate({"kind": resource.kind, **paths})


def toml_of(resource: Resource, folder: Path) -> str:
    """Return the lines of a spec that use a lexicon in a folder."""
    if resource.kind is None:
        return f'[senses]\nmorpholex = "{folder / resource.downloads[0].name}"\n'
    spec = spec_of(resource, folder)
    paths = {"path": spec.path, "synonyms": spec.synonyms, "antonyms": spec.antonyms}
    lines = [f'{key} = "{path}"\n' for key, path in paths.items() if path is not None]
    return f'[[senses.lexicons]]\nkind = "{resource.kind}"\n{"".join(lines)}{resource.settings}'
