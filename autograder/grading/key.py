"""The key process: draws cases, and computes what is right for them. It never sees anything of a submission.

While a submission is run on the cases of one problem, those of the next are drawn and computed.
"""

from __future__ import annotations

import os
import tomllib
from typing import Any

import numpy as np

from autograder.grading.reference import drawn
from autograder.homeworks.case import as_data
from autograder.homeworks.folder import load_homework
from autograder.homeworks.homework import Homework
from autograder.homeworks.preload import needed_modules
from autograder.homeworks.strip import handout
from autograder.sandbox.frames import decode, encode, receive, send


def read(homework: Homework) -> dict[str, Any]:
    """Return the homework and what the processes of a submission read, texts as bytes."""
    made = handout(homework)
    parts = [
        {name: np.frombuffer(text.encode(), np.uint8) for name, text in listed.items()}
        for listed in (made.library, made.stubs, made.backward)
    ]
    raw = tomllib.loads((homework.folder / "homework.toml").read_text("utf-8"))
    return {"homework": raw, "parts": parts}


def serve(requests: int, replies: int) -> None:
    """Answer until the process that decides ends: what submissions read, the number of cases, and one case each."""

    def message() -> Any:
        data = receive(requests)
        if data is None:
            os._exit(0)
        return decode(data)

    asked = message()
    homework, seed = load_homework(asked["homework"]), asked["seed"]
    send(replies, encode(read(homework)))
    problems = [p.id for p in homework.problems]
    drawn(homework.name, problems[0], seed)
    while True:
        asked = message()
        if "needed" in asked:
            send(replies, encode({"needed": list(needed_modules())}))
            continue
        given = drawn(homework.name, asked["problem"], seed)
        if "case" not in asked:
            send(replies, encode({"cases": len(given)}))
            continue
        case, right = given[asked["case"]]
        send(replies, encode({"case": as_data(case), "right": dict(right)}))
        if asked["case"] == len(given) - 1 and asked["problem"] != problems[-1]:
            drawn(homework.name, problems[problems.index(asked["problem"]) + 1], seed)
