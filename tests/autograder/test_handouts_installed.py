"""Every handout, installed in an empty environment as its README says, and its commands run with the right solution.

The commands of the README are taken from its text, word for word. pip fetches packages; after that, every connection
is an error.
"""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from handouts import blocks, solve

from autograder.course.handout import build
from autograder.homeworks.folder import homeworks, load_homework

pytestmark = [pytest.mark.handouts, pytest.mark.skipif(os.name != "posix", reason="runs the README's lines for Linux")]
UNSET = ("PIP_QUIET", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "MPLBACKEND")
NO_NETWORK = """
import sys

def refuse(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise RuntimeError(f"{event} {args}: only pip may use the network")

sys.addaudithook(refuse)
"""


def shell(folder, *lines):
    """Run lines in one shell in ``folder``, stopping at the first that fails; the exit status and the output."""
    environment = {k: v for k, v in os.environ.items() if k not in UNSET}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])  # its python3
    environment["PIP_NO_COMPILE"] = "1"  # faster: only what is imported is compiled, when it is
    ran = subprocess.run(
        ["bash", "-ec", "\n".join(lines)], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    return ran.returncode, ran.stdout + ran.stderr


def installed(folder, lines):
    """Run the lines that install; the packages of the environment, which had only pip before."""
    made, enter, install = lines
    code, output = shell(folder, made, enter, "pip list --format=freeze")
    assert {p.partition("==")[0] for p in output.split()} <= {"pip", "setuptools"}, output
    code, output = shell(folder, enter, install, "pip list --format=freeze")
    assert code == 0, output
    (packages,) = folder.glob(".venv/lib/python*/site-packages")
    (packages / "no_network.py").write_text(NO_NETWORK, "utf-8")
    (packages / "no_network.pth").write_text("import no_network\n", "utf-8")  # Debian has a sitecustomize of its own
    return set(re.findall(r"^([\w.-]+)==", output, re.MULTILINE))


def megabytes(folder):
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink()) / 1e6


@pytest.mark.parametrize("name", homeworks())
def test_a_handout_installs_as_its_readme_says_and_the_right_solution_passes(name, tmp_path):
    homework, folder = load_homework(name), tmp_path / name
    build(homework, folder)
    solve(homework, folder)
    readme = (folder / "README.md").read_text("utf-8")
    install, commands = blocks(readme)
    packages = installed(folder, install)
    assert {"numpy", "pytest", "matplotlib", "minipeft"} <= packages
    assert not packages & {"dask", "nbclient", "hypothesis", "pytest-xdist", "torch"}
    (size,) = re.findall(r"about (\d+) MB of disk", readme)
    assert megabytes(folder / ".venv") < 1.1 * float(size)
    says = {
        f"check {name}": f"{name}: {homework.points:g} of {homework.points:g} points",
        "check --problem": f"{name}: {homework.problems[0].points:g} of {homework.problems[0].points:g} points",
        "pytest": " passed in ",
        "try": f"the curves are in try-{name}.png",
        "submit": f"{name}.zip holds ",
    }
    assert len(commands) == len(says)
    for command, expected in zip(commands, says.values(), strict=True):
        code, output = shell(folder, install[1], command)
        assert code == 0, f"{command}\n{output}"
        assert expected in output, f"{command}\n{output}"
        assert "not written" not in output, f"{command}\n{output}"
        assert "Traceback" not in output, f"{command}\n{output}"
    assert (folder / f"try-{name}.png").read_bytes().startswith(b"\x89PNG")
    with zipfile.ZipFile(folder / f"{name}.zip") as archive:
        assert sorted(archive.namelist()) == sorted(f.stub for f in homework.files)


def test_a_handout_installs_as_a_package_too_and_connections_are_refused(tmp_path):
    folder = tmp_path / "hw6"
    homework = load_homework("hw6_lora")
    build(homework, folder)
    solve(homework, folder)
    (made, enter, _), _ = blocks((folder / "README.md").read_text("utf-8"))
    assert "matplotlib" not in installed(folder, [made, enter, "pip install ."])
    code, output = shell(
        tmp_path, f". {folder}/.venv/bin/activate", 'python -c "import minipeft as m; print(m.__file__)"'
    )
    assert code == 0, output
    assert "site-packages" in output
    code, output = shell(folder, enter, "python -m autograder check hw6_lora")
    assert (code, output.split("\n")[-2]) == (0, "hw6_lora: 40 of 40 points")
    code, output = shell(folder, enter, "python -m autograder try hw6_lora")
    assert (code, output.count("\n")) == (2, 1)
    assert output.endswith(': pip install -e ".[homework]"\n')
    code, output = shell(folder, enter, "python -c 'import socket; socket.create_connection((\"localhost\", 9))'")
    assert "only pip may use the network" in output
