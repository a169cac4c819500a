"""The stored answers of a handout: its library has no solution that could compute them.

A handout's homework folder has a folder ``public/`` with one frame for each problem: the outputs of the right solution
on every public case, and a checksum of the case's inputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from autograder.grading.check import Outputs
from autograder.grading.reference import drawn
from autograder.homeworks.case import PUBLIC_SEED, Case
from autograder.homeworks.draw import cases
from autograder.homeworks.homework import Homework, HomeworkError
from autograder.sandbox.frames import FrameError, decode, encode

FOLDER = "public"  # in the homework's folder


def is_handout(homework: Homework) -> bool:
    """Return whether the homework's folder has the answers of the public cases."""
    return (homework.folder / FOLDER).is_dir()


def frame(homework: Homework, problem: str) -> bytes:
    """Return the public cases of a problem with the library's answers, as the frame that `stored` reads."""
    right = [
        {
            "case": case.name,
            "inputs": fingerprint(case),
            "outputs": {k: answer[k] for k in case.checks},
            "facts": sorted(case.facts),
        }
        for case, answer in drawn(homework.name, problem, PUBLIC_SEED)
    ]
    return encode(right)


def stored(homework: Homework, problem: str) -> Sequence[tuple[Case, Outputs]]:
    """Return the public cases of a problem with the stored answers.

    Raises HomeworkError if the frame cannot be read, or was made for other inputs than are drawn here.
    """
    path = homework.folder / FOLDER / f"{problem}.frame"
    try:
        right = {one["case"]: one for one in decode(path.read_bytes())}
    except (OSError, FrameError) as error:
        raise HomeworkError(f"cannot read {path} ({error}); unpack the handout again") from None
    given = []
    for case in cases(homework.name, problem, PUBLIC_SEED):
        one = right.get(case.name)
        if one is None or one["inputs"] != fingerprint(case):
            raise HomeworkError(
                f"{path.name} was made for other inputs than are drawn here for {case.name!r}: unpack the handout "
                f"again. If that does not help, NumPy {np.__version__} draws other numbers than the staff's: tell them"
            )
        given.append((replace(case, facts=frozenset(one["facts"])), one["outputs"]))
    return given


def fingerprint(case: Case) -> str:
    """Return a checksum of a case's inputs, to tell whether the same numbers were drawn."""
    digest = hashlib.sha256(repr(sorted(case.params.items())).encode())
    for name, x in sorted(case.arrays.items()):
        digest.update(f"{name} {x.dtype.str} {x.shape}".encode() + np.ascontiguousarray(x).tobytes())
    return digest.hexdigest()
