"""Handouts for the tests: the right solution put into one, and the commands that its README gives."""

import re
from pathlib import Path

from autograder.homeworks.homework import Homework
from autograder.homeworks.strip import source_path


def solve(homework: Homework, folder: Path) -> None:
    """Fill the stubs of the handout in ``folder`` with the library's own modules."""
    for f in homework.files:
        text = source_path(f.module).read_text("utf-8")
        (folder / "homework" / homework.name / f.stub).write_text(text, "utf-8")


def blocks(readme: str, language: str = "sh") -> list[list[str]]:
    """Return the lines of each code block of a Markdown text in that language."""
    return [found.split("\n") for found in re.findall(rf"```{language}\n(.*?)\n```", readme, re.DOTALL)]
