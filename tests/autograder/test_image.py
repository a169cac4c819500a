"""What the container is built with installs on its Python, and a zip with other versions is not called valid."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from autograder.course import image
from autograder.course.image import PINS, PYTHONS, misfits, numpy_needs, setup_script
from autograder.homeworks.homework import ROOT

OLD = "python3.11 -m venv /opt/minipeft\n/opt/minipeft/bin/pip install --no-cache-dir {}\n"


def test_the_pins_are_the_packages_that_the_library_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert sorted(re.split(r"[<>=!~]", d)[0] for d in project["dependencies"]) == sorted(PINS)
    assert project["requires-python"] == f">={PYTHONS[0]}"


def test_a_setup_is_the_same_whatever_is_installed_here():
    assert setup_script() == setup_script()
    assert misfits(setup_script()) == []
    assert all(f"{name}=={version}" in setup_script() for name, version in PINS.items())


@pytest.mark.parametrize(
    ("version", "python"), [("1.26.4", ""), ("2.0.2", ""), ("2.2.6", "3.10"), ("2.4.6", "3.11"), ("2.5.5", "3.12")]
)
def test_what_a_numpy_needs(version, python):
    assert numpy_needs(version) == python


def test_a_numpy_for_a_newer_python_is_told_without_an_index(monkeypatch):
    monkeypatch.setattr(image, "installs", lambda pin, python: pytest.fail("an index was asked"))
    (said,) = misfits(OLD.format("numpy==2.5.5 tqdm==4.70.1"))
    assert said.startswith(
        "setup.sh installs numpy 2.5.5, which needs Python 3.12 or newer, but the container's may be 3.11"
    )


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (True, []),
        (False, ["has no wheel for Python 3.11"]),
        (None, ["(expected 4.70.1); whether Python 3.11 can install"]),
    ],
)
def test_other_versions_are_asked_for(monkeypatch, answer, said):
    monkeypatch.setattr(image, "installs", lambda pin, python: answer)
    found = misfits(OLD.format("tqdm==4.0.0"))
    assert len(found) == len(said)
    assert all(words in text for words, text in zip(said, found))


def test_no_index_is_no_answer(monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "0")
    assert image.installs("tqdm==4.70.1", "3.11") is None


@pytest.mark.slow
@pytest.mark.parametrize("python", PYTHONS)
def test_the_pins_install_on_every_python_of_the_container(python):
    """Needs the package index that the test's own packages came from."""
    assert {pin: image.installs("==".join(pin), python) for pin in PINS.items()} == dict.fromkeys(PINS.items(), True)


@pytest.fixture
def container(tmp_path):
    """Runs setup.sh with commands of our own: which Python there is, and which apt offers. Returns what was called."""
    commands = tmp_path / "bin"
    commands.mkdir()
    calls = tmp_path / "calls"

    def command(name, script):
        file = commands / name
        file.write_text(f'#!/bin/sh\necho "${{0##*/}} $*" >> {calls}\n{script}\n')
        file.chmod(0o755)

    def python(version):
        pip = f'if [ "$2" = venv ]; then mkdir -p "$3/bin"; cp {commands}/pip "$3/bin/pip"; fi'
        command(f"python{version}", pip)

    def build(there, offered):
        command("pip", "")
        (commands / "template").mkdir()
        for version in there:
            python(version)
        installing = "".join(
            f'case "$*" in *"python{v}-venv") cp {commands}/template/python{v} {commands}/;; esac\n' for v in offered
        )
        for version in offered:
            python(version)
            os.replace(commands / f"python{version}", commands / "template" / f"python{version}")
        wanted = "|".join(f"*python{v}-venv" for v in offered) or "nothing"
        command("apt-get", f'{installing}case "$*" in update|{wanted}) exit 0;; *) exit 100;; esac')
        command("rm", "")
        source = tmp_path / "source"
        source.mkdir()
        script = setup_script(str(tmp_path / "home"), str(source))
        path = f"{commands}:/usr/local/nothing"
        for name in ("mkdir", "cp", "chmod"):
            (commands / name).symlink_to(Path("/bin", name))
        done = subprocess.run(["/bin/sh", "-c", script], env={"PATH": path}, capture_output=True, text=True)
        return done, calls.read_text().splitlines() if calls.exists() else []

    return build


on_posix = pytest.mark.skipif(sys.platform == "win32", reason="the script runs in the container")


@on_posix
@pytest.mark.parametrize(
    ("there", "offered", "taken"),
    [
        (["3.12", "3.11"], [], "3.11"),
        (["3.12"], ["3.11"], "3.12"),
        ([], ["3.11", "3.12"], "3.11"),
        ([], ["3.13"], "3.13"),
    ],
)
def test_the_oldest_python_that_the_image_has_or_apt_offers_is_taken(container, there, offered, taken):
    done, calls = container(there, offered)
    assert done.returncode == 0, done.stderr
    assert any(call.startswith(f"python{taken} -m venv") for call in calls), calls
    assert any(call.startswith("apt-get") for call in calls) == (not there)
    (install,) = [call for call in calls if call.startswith("pip install")]
    assert f"numpy=={PINS['numpy']}" in install


@on_posix
def test_an_image_without_python_says_which_to_take(container):
    done, calls = container([], [])
    assert done.returncode == 1
    assert "no Python of 3.11 3.12 3.13 3.14, and apt offers none: take Ubuntu 22.04 or later" in done.stderr
    assert not [call for call in calls if call.startswith("pip")]
