"""The pages that people read: what they name exists, what they tell one to type is understood."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest

from autograder import cli as autograder
from minipeft.cli.run import build_parser
from minipeft.lab import experiments as lab

ROOT = Path(__file__).parent.parent
TEXTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "autograder/README.md", *ROOT.glob("homework/*/README.md")]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
named = pytest.mark.parametrize("path", TEXTS, ids=lambda p: p.relative_to(ROOT).as_posix())


def prose(path: Path) -> str:
    """A page, or the text cells of a notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    return "\n\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")


def links(text: str) -> list[str]:
    without_code = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [t for t in re.findall(r"\]\(([^)\s]+)\)", without_code) if not re.match(r"[a-z]+:", t)]


def places(path: Path) -> set[str]:
    """The anchors that a page's headings have."""
    found = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in found}


def dead(text: str, path: Path) -> list[str]:
    found = []
    for target in links(text):
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in places(file)):
            found.append(target)
    return found


@pytest.mark.parametrize("path", [*TEXTS, *NOTEBOOKS], ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(path):
    assert dead(prose(path), path) == []


def test_a_dead_link_is_found():
    assert dead("[a](nothing.md) [b](README.md#nowhere) [c](README.md#measured)", ROOT / "x.md") == [
        "nothing.md",
        "README.md#nowhere",
    ]


def commands(text: str) -> list[list[str]]:
    """What the shell lines of a page call of ours: the words after `minipeft` or `python -m autograder`."""
    found = []
    for block in re.findall(r"^```sh\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            for part in re.split(r"&&|;(?! print)", line.split("  #")[0]):
                words = shlex.split(part, comments=True)
                if words[:1] == ["minipeft"] or words[:3] == ["python", "-m", "autograder"]:
                    found.append(words)
    return found


def understood(words: list[str]) -> None:
    if words[0] == "minipeft":
        build_parser().parse_args(words[1:])
    else:
        autograder.build_parser().parse_args(words[3:])


@named
def test_every_command_that_a_page_tells_is_understood(path):
    for words in commands(path.read_text(encoding="utf-8")):
        understood(words)


def test_the_front_page_tells_commands_and_a_wrong_one_is_found():
    assert len(commands((ROOT / "README.md").read_text(encoding="utf-8"))) > 15
    with pytest.raises(SystemExit):
        understood(["minipeft", "compare", "--taks", "digits"])


def test_every_kind_of_command_has_help(capsys):
    every = {
        tuple(words[: 2 if words[0] == "minipeft" else 4])
        for path in TEXTS
        for words in commands(path.read_text(encoding="utf-8"))
    }
    assert len(every) > 10
    for words in sorted(every):
        with pytest.raises(SystemExit) as caught:
            understood([*words, "--help"])
        assert caught.value.code == 0
        assert "usage" in capsys.readouterr().out


def test_the_map_names_every_notebook_homework_and_experiment():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.split("## From the lecture to the code")[1].split("\n## ")[0]
    for path in [*NOTEBOOKS, *ROOT.glob("homework/*/README.md")]:
        assert f"]({path.relative_to(ROOT).as_posix()})" in table
    experiments = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split(" | ")[-1])}
    assert experiments == set(lab.NAMES)


@named
def test_files_named_in_code_exist(path):
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:minipeft|docs|tests|autograder|notebooks)/[\w./]+\.(?:py|md|ipynb))`", text):
        assert "NN" in name or (ROOT / name).exists(), name  # NN stands for any number


def load(path: str):
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_of_the_house_is_that_of_the_imports():
    drawn = load("docs/figures/floors.py")
    assert (ROOT / "docs/figures/floors.svg").read_text(encoding="utf-8") == drawn.svg()
    shown = {room for _, rooms in drawn.FLOORS for room in rooms}
    there = {p.stem for p in (ROOT / "minipeft").iterdir() if p.stem[0] not in "_." and p.suffix != ".typed"}
    assert shown - {"__main__"} == there


def test_links_to_files_become_links_to_pages():
    site = load("docs/build.py").Site()
    assert site.linked("[a](minipeft/peft/lora.py#x)", "README.md") == "[a](api/minipeft.peft.lora.md#x)"
    assert site.linked("[`b`](../README.md)", "docs/staff.md") == "[`b`](index.md)"
    assert site.linked("[c](../homework/hw6_lora/README.md)", "notebooks/08_lora.ipynb") == (
        "[c](../homework/hw6_lora.html)"
    )
    assert site.linked("[licence](LICENSE)", "README.md") == "licence"
    assert site.linked("```\n[a](b)\n```", "README.md") == "```\n[a](b)\n```"
