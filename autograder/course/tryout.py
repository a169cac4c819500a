"""``try``: train a real, small model with the modules of a completed homework, next to the library's own.

    python -m autograder try homework/hw6_lora

Two processes train the same model on the same batches from the same seeds. One has the student's files in place of the
library's modules, the other has only the library. The losses of both are drawn in one figure. In a handout the library
has no solution to compare with: there only the student's model is trained, and its loss has to fall. The student's
program is not confined.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from autograder.course.submit import read_own, unwritten
from autograder.course.trials import PRETRAINED, TRIALS, Trial
from autograder.grading.answers import is_handout
from autograder.homeworks.folder import load_homework
from autograder.homeworks.homework import INSTALL, ROOT, Homework, HomeworkError
from minipeft.files.atomic import atomic_path

TOLERANCE = 0.05  # relative difference of the last losses: another order of the random numbers is no mistake
TICK = 0.02  # seconds
LAST = 5  # losses averaged at the end
ALONE = "library"
YOURS = "yours"
MODULES = {"scikit-learn": "sklearn"}  # the module of a package, if it has another name


def main(folder: Path, quick: bool = False, out: Path | None = None, say: Callable[[str], None] = print) -> int:
    """Train, draw and compare.

    Args:
        folder: the homework's folder.
        quick: train for only a few steps.
        out: the figure; by default ``try-NAME.png`` in the current folder.
        say: called with each line of the result.

    Returns:
        0 if the last losses agree within 5 % (in a handout: if the loss falls), else 1. Also 1 if a function is not
        written yet or training raises an exception.

    Raises:
        HomeworkError: no trial exists for the homework, or a package is not installed.
        IntakeError: a file is missing or cannot be parsed.
    """
    homework = load_homework(folder)
    if homework.name not in TRIALS:
        raise HomeworkError(f"no model is trained for {homework.name}; expected one of {', '.join(TRIALS)}")
    trial = TRIALS[homework.name]
    check_installed(trial)
    missing = unwritten(homework, read_own(homework, homework.folder).sources)
    if missing:
        for problem, names in missing.items():
            say(f"not written yet: {problem} {', '.join(names)}")
        first = next(iter(missing))
        say(
            "try needs all functions of the homework; "
            f"to check one problem: python -m autograder check {homework.name} --problem {first}"
        )
        return 1
    start, steps = time.perf_counter(), 8 if quick else trial.steps
    picture = out or Path(f"try-{homework.name}.png")
    try:
        with atomic_path(picture) as part:  # before training: a folder that cannot be written to is an error at once
            mine, right = train_both(homework, trial, steps, pretraining=steps if quick else 200)
            draw(trial, mine, right, part)
    except TrainingError as error:
        say(str(error))
        return 1
    code = 0
    for method, losses in mine.items():
        line, well = judged(losses, None if right is None else right[method])
        code = code if well else 1
        say(f"{method}: {line}")
    say(f"{steps} steps in {time.perf_counter() - start:.1f} s; the curves are in {picture}")
    return code


class TrainingError(Exception):
    """The student's program raised an exception, or ended its process, during training."""


def check_installed(trial: Trial) -> None:
    """Raise HomeworkError naming every package that is missing, and the one command that installs them all."""
    missing = [name for name in trial.packages if find_spec(MODULES.get(name, name)) is None]
    if missing:
        be = "is" if len(missing) == 1 else "are"
        raise HomeworkError(
            f"{' and '.join(missing)} {be} not installed for {sys.executable}. "
            f"Activate the environment of this course, or run in {ROOT}: {INSTALL}"
        )


def judged(mine: Sequence[float], right: Sequence[float] | None) -> tuple[str, bool]:
    """Return a sentence about the losses, and whether they are as they should be."""
    got = last(mine)
    if right is None:
        before = last(mine[:LAST])
        falls = got < before
        return f"loss {before:.4f} at first, {got:.4f} at the end{'' if falls else ': it does not fall'}", falls
    expected = last(right)
    same = abs(got - expected) <= TOLERANCE * abs(expected)
    differ = "" if same else f": they differ by more than {TOLERANCE:.0%}"
    return f"loss {got:.4f} with yours, {expected:.4f} with the library's{differ}", same


def last(losses: Sequence[float]) -> float:
    """Return the mean of the last few losses."""
    tail = losses[-LAST:]
    return sum(tail) / len(tail)


def train_both(
    homework: Homework, trial: Trial, steps: int, pretraining: int
) -> tuple[dict[str, list[float]], dict[str, list[float]] | None]:
    """Train with the student's files and, unless this is a handout, with the library alone.

    Args:
        homework: the homework, with the student's files in its folder.
        trial: what is trained.
        steps: the number of training steps.
        pretraining: the number of steps of the base model, for a trial that adapts one.

    Returns:
        The losses by method: the student's, and the library's or None.

    Raises:
        TrainingError: the student's program failed.
    """
    others = [] if is_handout(homework) else [ALONE]
    with tempfile.TemporaryDirectory(prefix="minipeft-try-") as name:
        place = Path(name)
        if trial.train in PRETRAINED:
            run(homework, place, others or [YOURS], pretraining, pretrain=True)
        losses = run(homework, place, [YOURS, *others], steps)
    return losses[YOURS], losses.get(ALONE)


def run(
    homework: Homework, place: Path, whose: Sequence[str], steps: int, pretrain: bool = False
) -> dict[str, dict[str, list[float]]]:
    """Train in one process each, at the same time, and return the losses by method of each.

    Args:
        homework: the homework, with the student's files in its folder.
        place: a temporary folder, with the base model if there is one.
        whose: `YOURS`, `ALONE`, or both.
        steps: the number of training steps.
        pretrain: train the base model.

    Raises:
        TrainingError: the student's program failed.
        RuntimeError: the library itself failed.
    """
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name in whose:
            request = {
                "homework": homework.name,
                "files": {f.module: str(homework.folder / f.stub) for f in homework.files} if name == YOURS else {},
                "base": str(place / "base"),
                "steps": steps,
                "pretrain": pretrain,
                "out": str(place / f"{name}.json"),
            }
            asked = place / f"{name}-request.json"
            asked.write_text(json.dumps(request), "utf-8")
            running[name] = subprocess.Popen(
                [sys.executable, "-m", "autograder.course.trials", str(asked)], env=environment()
            )
        while any(process.poll() is None for process in running.values()):
            time.sleep(TICK)  # Ctrl-C ends this on every system; on Windows it does not end wait()
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    return {name: losses(homework, name, place / f"{name}.json", p.returncode) for name, p in running.items()}


def environment() -> dict[str, str]:
    """Return the environment of a process that trains: one thread, "?" for characters that cannot be printed."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    encoding = os.environ.get("PYTHONIOENCODING", "").partition(":")[0]
    return {**os.environ, **threads, "PYTHONPATH": path, "PYTHONIOENCODING": f"{encoding}:replace"}


def losses(homework: Homework, name: str, answer: Path, code: int) -> dict[str, list[float]]:
    """Read what a process wrote; TrainingError, or RuntimeError for the library's own process, if it failed."""
    if code != 0 or not answer.is_file():
        raised = {"type": "", "message": f"the process ended with code {code}", "module": "", "line": 0}
    else:
        told = json.loads(answer.read_text("utf-8"))
        if "raised" not in told:
            found: dict[str, list[float]] = told["losses"]
            return found
        raised = told["raised"]
    text = in_words(homework, raised)
    raise TrainingError(text) if name == YOURS else RuntimeError(f"the library itself failed: {text}")


def in_words(homework: Homework, raised: Mapping[str, Any]) -> str:
    """Return one sentence about an exception during training."""
    if not raised["type"]:
        return f"training failed: {raised['message']}"
    stub = next((f.stub for f in homework.files if f.module == raised["module"]), "")
    where = f" in {stub}, line {raised['line']}" if stub else ""
    return f"training raised {raised['type']}{where}: {raised['message']}"


def draw(
    trial: Trial, mine: Mapping[str, Sequence[float]], right: Mapping[str, Sequence[float]] | None, picture: Path
) -> None:
    """Draw the losses of each method as PNG: the library's as a broad grey line, the student's as a thin one on top."""
    plots = import_module("minipeft.lab.framework.plots")
    with plots.sheet(1, len(mine), (4.2 * len(mine), 3.2), sharey=True) as (figure, axes):
        for ax, (method, own) in zip(axes[0], mine.items(), strict=True):
            if right is not None:
                ax.plot(right[method], color="0.75", lw=5, label="the library's")
            ax.plot(own, color="C3", lw=1.2, label="yours")
            ax.set_title(method, fontsize=9)
            ax.set_xlabel("step")
        axes[0][0].set_ylabel("loss (nats)")
        axes[0][-1].legend(frameon=False)
        figure.suptitle(trial.story, fontsize=10)
        figure.tight_layout()
        figure.savefig(picture, format="png", dpi=150)
