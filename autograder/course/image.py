"""Write the script that installs Python and the packages in Gradescope's container, and check that they fit.

The container's Python is not the one that makes the zip. Gradescope's images are Ubuntu releases: 22.04 has Python 3.10
and offers 3.11, 24.04 has 3.12. So the script takes the oldest of `PYTHONS` that the image has or that apt offers.
`PINS` are versions with wheels for all of these. They do not depend on what is installed where the zip is made.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence

from autograder.submission.syntax import LEAST, written

PYTHONS = (written(LEAST), "3.12", "3.13", "3.14")
PINS = {
    "numpy": "2.4.6",  # the last release for Python 3.11
    "safetensors": "0.8.0",
    "tqdm": "4.70.1",
    "threadpoolctl": "3.8.0",
    "platformdirs": "4.14.8",
}
NUMPY_NEEDS = {(2, 1): "3.10", (2, 3): "3.11", (2, 5): "3.12"}  # from that release on, at least that Python
PLATFORMS = ("manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux_2_28_x86_64")
PATIENCE = 60.0  # seconds for one question to the package index
HOME = "/opt/minipeft"
SOURCE = "/autograder/source"

SETUP = """#!/bin/sh
# Run once, as root, while the image is built. Nothing is fetched afterwards.
set -eu
export DEBIAN_FRONTEND=noninteractive
python=
usable() {{ "python$1" -c 'import ensurepip, venv' 2> /dev/null; }}
for version in {pythons}; do
    if [ -z "$python" ] && usable "$version"; then python=python$version; fi
done
if [ -z "$python" ]; then
    apt-get update
    for version in {pythons}; do
        if apt-get install -y --no-install-recommends "python$version" "python$version-venv" && usable "$version"; then
            python=python$version
            break
        fi
    done
    rm -rf /var/lib/apt/lists/*
fi
if [ -z "$python" ]; then
    echo "This image has no Python of {pythons}, and apt offers none: take Ubuntu 22.04 or later as base image." >&2
    exit 1
fi
"$python" --version
"$python" -m venv {home}
{home}/bin/pip install --no-cache-dir --only-binary :all: {packages}
chmod 700 {source}
"""


def setup_script(home: str = HOME, source: str = SOURCE) -> str:
    """Return the text of setup.sh. home: the folder of the environment; source: that of the grader."""
    packages = " ".join(f"{name}=={version}" for name, version in PINS.items())
    return SETUP.format(pythons=" ".join(PYTHONS), home=home, source=source, packages=packages)


def misfits(setup: str) -> list[str]:
    """Return what a setup.sh pins that the Python of its container cannot install, a sentence each.

    `PINS` are known to fit, and so are the needs of NumPy. For another version pip asks the package index.
    """
    pinned = re.findall(r"([A-Za-z][\w.-]*)==([\w.!+]+)", setup)
    plain = re.sub(r"==[\w.!+]+", "", setup)
    pythons = list(dict.fromkeys(re.findall(r"(?<![\d.])3\.\d+(?![\d.])", plain))) or [PYTHONS[0]]
    unknown = [pin for pin in pinned if PINS.get(pin[0].lower()) != pin[1] or not set(pythons) <= set(PYTHONS)]
    return [text for name, version in unknown for text in _misfit(name, version, pythons)]


def _misfit(name: str, version: str, pythons: Sequence[str]) -> Iterator[str]:
    pin = f"setup.sh installs {name} {version}"
    again = "make the zip again with this version of the grader"
    for python in pythons:
        needs = numpy_needs(version) if name.lower() == "numpy" else ""
        if needs and _number(python) < _number(needs):
            yield f"{pin}, which needs Python {needs} or newer, but the container's may be {python}: {again}"
            return
        fits = installs(f"{name}=={version}", python)
        if fits is False:
            yield f"{pin}, which has no wheel for Python {python} on Linux, the container's: {again}"
            return
        if fits is None:
            known = f" (expected {PINS[name.lower()]})" if name.lower() in PINS else ""
            yield f"{pin}{known}; whether Python {python} can install it is not known, as pip found no package index"
            return


def numpy_needs(version: str) -> str:
    """Return the least Python of a NumPy release; "" if it is older than the table, or no release."""
    release = re.match(r"(\d+)\.(\d+)", version)
    if release is None:
        return ""
    fitting = [python for first, python in NUMPY_NEEDS.items() if first <= (int(release[1]), int(release[2]))]
    return fitting[-1] if fitting else ""


def installs(pin: str, python: str) -> bool | None:
    """Ask pip whether the index has a wheel of `pin` for a Python on Linux; None if no index answers."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--only-binary", ":all:"]
        command += ["--python-version", python, "--implementation", "cp", "--target", folder]
        command += [word for platform in PLATFORMS for word in ("--platform", platform)]
        try:
            asked = subprocess.run([*command, pin], capture_output=True, encoding="utf-8", timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            return None
    if asked.returncode == 0:
        return True
    offered = re.search(r"\(from versions: (.*?)\)", asked.stderr)
    return False if offered and offered[1] != "none" else None


def _number(python: str) -> tuple[int, ...]:
    return tuple(map(int, python.split(".")))
