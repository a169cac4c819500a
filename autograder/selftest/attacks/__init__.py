"""Attacks on the grader: submissions that cheat, break out or break down. `run` tries them; none may succeed.

An attack is a program by the axes of the grader: the problem that it replaces (`PLACES`), the command that grades it
(`ROUTES`) and what confines it (`LAYERS`). Its submission is the library's own program with one function replaced, or
the stubs with every function replaced, or files made as a whole. `attempt` says what must hold afterwards.

A program that reaches its goal sets ``won``, and then computes the right answer: so the points tell what it reached.
Inside a body, ``given`` holds the arguments, ``arrays`` the arrays among them, and ``AT`` the names of `attempt.Scene`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MARK = "T0LDm4rk"  # in every text that a submission chooses: no student may read it
LINE = 731377  # a line number that a submission chooses
ROUTES = ("grade", "class", "gradescope", "staff")
LAYERS = ("all layers", "a user", "a container")


@dataclass(frozen=True)
class Place:
    """A problem that is attacked.

    aspect: what of the grader it goes through. beside: problems of other files that keep their points, and of its own
    file, as long as that can be imported. nonsense: what it returns in the end.
    """

    homework: str
    problem: str
    aspect: str
    others: tuple[str, ...]
    same_file: tuple[str, ...] = ()
    nonsense: str = "None"


PLACES = {
    p.problem: p
    for p in (
        Place("hw8_few_shot", "8.6", "two numbers", ("8.1",), ("8.7",), "1.0, 2.0"),
        Place("hw6_lora", "6.1", "bytes kept and allocated", ("6.3",), ("6.7",), "np.zeros((3, 4))"),
        Place("hw6_lora", "6.2", "prerequisites", ("6.3",), ("6.7",), "(np.ones(1),) * 6"),
        Place("hw2_transformer", "2.8", "prerequisites of two files", ("2.1",), (), "(np.ones(1),) * 3"),
        Place("hw1_autograd", "1.11", "the engine", ("1.8",)),
        Place("hw3_frozen_adapters", "3.10", "adapters", ("3.4",), (), "(np.ones(1),) * 6"),
        Place("hw5_intrinsic", "5.5", "a random start", ("5.8",), ("5.4",), "np.zeros(3)"),
        Place("hw7_vision", "7.4", "lists of arrays", ("7.1",), (), "np.zeros((1, 3))"),
        Place("hw4_prefix", "4.5", "bytes kept", ("4.1",), ("4.4",), "np.zeros((1, 1, 1, 1))"),
    )
}
EVERY = ("8.6", "6.1", "6.2", "2.8", "1.11", "4.5")
WHOLE = ("1.11", "2.8", "3.10", "4.5", "5.5", "6.2", "7.4", "8.6")  # one of each homework


@dataclass(frozen=True)
class Attack:
    """A hostile submission.

    Args:
        id: short and unique.
        group: one of `GROUPS`.
        says: what it does, in a few words.
        body: the function's body; what it returns is nonsense unless ``won``.
        top: the end of the module.
        more: other files, by name.
        hand_in: makes the submission in a folder from its files, for attacks on intake; returns its path.
        places: the problems that it replaces, one in each attempt.
        routes: the commands that it makes sense for.
        layers: those that can hold it.
        everywhere: the body stands in every function of the homework, and nothing else is written.
        stubs: the other functions are not written.
        spares: what must keep its points: "all" others, those of "other files", or "nothing".
        most: the share of the attacked problem's points that it may have.
        lasts: it holds the worker until the time is up.
    """

    id: str
    group: str
    says: str
    body: str = ""
    top: str = ""
    more: tuple[tuple[str, str], ...] = ()
    hand_in: Callable[[Path, dict[str, str]], Path] | None = None
    places: tuple[str, ...] = EVERY
    routes: tuple[str, ...] = ROUTES
    layers: tuple[str, ...] = LAYERS
    everywhere: bool = False
    stubs: bool = False
    spares: str = "all"
    most: float = 0.0
    lasts: bool = False


def indented(text: str) -> str:
    """Return a program four spaces deeper."""
    return "".join(f"    {line}" if line.strip() else line for line in text.splitlines(keepends=True))


def tries(*statements: str, goal: bool = True) -> str:
    """Return a program that tries every statement; goal: one that does not raise has won."""
    won = "\n    won = True" if goal else ""
    return "".join(f"try:\n{indented(s)}{won}\nexcept BaseException:\n    pass\n" for s in statements)


GROUPS = {  # what such attacks try, and what stops them
    "results": (
        "Write the results or the grader",
        "No file can be opened for writing (seccomp); results and grader belong to another user.",
    ),
    "secrets": (
        "Read the answers, the seed, or what others handed in",
        "Cases, answers and the seed are in no process with a submission, nor in a file that it can open; the library "
        "that it imports has stubs.",
    ),
    "processes": (
        "Reach other processes",
        "Another user for each worker; no signals, no ptrace, no /proc; `fcntl` knows a few commands only.",
    ),
    "kernel": (
        "Leave through the kernel",
        "A list of system calls, for native code too; no new privileges, no namespaces, no sockets, no programs.",
    ),
    "comparison": ("Patch what compares and counts", "Comparing and counting happen in the grader's process."),
    "evidence": (
        "Forge what is measured",
        "What a problem may keep, change or allocate is measured where the submission cannot write.",
    ),
    "values": (
        "Answer without computing",
        "Only plain numbers and arrays cross the pipe; inputs are drawn from a secret; what doing nothing passes too "
        "counts only as far as the rest is right.",
    ),
    "protocol": (
        "Speak the protocol",
        "One reply for each request, by its number; a reply holds the values that were asked for and nothing else.",
    ),
    "told": (
        "Be told something",
        "Of hidden cases a student reads fixed sentences only: no string, number or line that a submission chose.",
    ),
    "time": (
        "Use up the time",
        "Processor time for each call, four idle seconds, and a limit for the whole submission; SIGKILL ends it.",
    ),
    "memory": (
        "Use up memory",
        "Address space is limited; sizes, axes and depth are checked before anything is allocated; what was not asked "
        "for is dropped.",
    ),
    "ends": ("End early", "A crash costs its own case; exit statuses mean nothing."),
    "output": ("Print without end", "64 KiB are kept; 4 MiB end the worker."),
    "intake": (
        "Hand in what is no program",
        "Files are read, never followed or unpacked; whatever is wrong with one entry is that entry's row.",
    ),
    "pages": (
        "Write into what staff opens",
        "Texts are cleaned, escaped and cut; no cell of a table is a formula.",
    ),
    "copies": ("Hide a copy", "Programs are compared by their tokens, with those of programs in strings."),
    "traces": ("Leave something behind", "No file, no shared memory, no process; a fresh worker for each program."),
}
