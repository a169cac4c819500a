"""A homework with a single file, as a student may hand it in under any name."""

from dataclasses import replace

from autograder.homeworks.folder import load_homework
from autograder.homeworks.homework import Homework


def single_file(name: str) -> Homework:
    """Return the homework of that name with its first file only, and the problems that are written in it."""
    homework = load_homework(name)
    first = homework.files[0]
    problems = [p for p in homework.problems if {t.module for t in p.targets} == {first.module}]
    return replace(homework, files=(first,), problems=tuple(problems))
