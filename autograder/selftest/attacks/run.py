"""Trying every attack, in several configurations: ``python -m autograder selftest --attacks``.

"all layers" and "no Landlock" are this machine; "a container" is a process with what Docker leaves to root
(`attacks.container`), without Landlock too, for the kernel below a container may have none. Without Landlock the grader
runs from a copy that is closed to other users.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

assert sys.platform == "linux"

from autograder.feedback import report
from autograder.feedback.results import complaints, results
from autograder.grading.grade import grade
from autograder.homeworks.homework import ROOT, load_homework
from autograder.homeworks.strip import replace_bodies, source_path
from autograder.sandbox.parent_limits import GRADESCOPE, LEAST_MEMORY, UIDS, Confinement, is_root, processes_of
from autograder.selftest.attacks import ATTACKS, DEFENCES, ELSEWHERE, Attack
from autograder.selftest.attacks.container import MEMORY, cell, contain
from autograder.submission.intake import IntakeError, take

HOMEWORK, PART, FILE = "hw8_few_shot", "8.6", "welch.py"
MODULE, TARGET = "minipeft.lab.framework.welch", "welch_statistic"
OTHERS = ("8.1", "8.3")  # graded beside it: problems of another file
SAME_FILE = ("8.7",)
BOUND = 120.0  # seconds for one submission
NONSENSE = "\nreturn 1.0, 2.0"
CONTAINER = "a container"
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "all layers": {},
    "no Landlock": {"landlock": False},
    CONTAINER: {"must": GRADESCOPE, "landlock": False, "memory": max(LEAST_MEMORY, MEMORY // 2)},
}
WATCHED = ("/tmp", "/dev/shm")


@dataclass
class Outcome:
    """What became of an attack: what went wrong ([] for nothing), and the seconds that it took."""

    attack: str
    kind: str
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


def submission(attack: Attack, folder: Path, places: Mapping[str, Any]) -> Path:
    """The attack as a submission in ``folder``."""
    homework = load_homework(HOMEWORK)
    folder.mkdir()
    for f in homework.files:
        text = source_path(f.module).read_text("utf-8")
        if f.module == MODULE:
            if attack.body:
                text = replace_bodies(text, {TARGET: attack.body.format(**places) + NONSENSE})
            text += "\n\n" + attack.top.format(**places) if attack.top else ""
        (folder / f.stub).write_text(text, "utf-8")
    for name, text in attack.more:
        (folder / name).write_text(text, "utf-8")
    return folder


def attempt(attack: Attack, settings: Mapping[str, Any]) -> Outcome:
    """One attack in this process's configuration."""
    outcome = Outcome(attack.id, attack.kind)
    secret = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="minipeft-attack-") as name:
        place = Path(name)
        place.chmod(0o755)
        (place / "secret").write_text(secret, "utf-8")
        (place / "secret").chmod(0o600)
        (place / "results.json").write_text("{}", "utf-8")
        (place / "results.json").chmod(0o600)
        (place / "open").mkdir()
        (place / "open").chmod(0o777)
        paths = {"results": "results.json", "secret": "secret", "open": "open"}
        places: dict[str, Any] = {n: str(place / p) for n, p in paths.items()}
        places |= {"pid": os.getpid(), "source": str(ROOT / "autograder"), "answer": str(source_path(MODULE))}
        confinement = Confinement(**settings)
        before = _left(UIDS)
        begun = time.monotonic()
        try:
            _grade(attack, submission(attack, place / "handed", places), secret, confinement, outcome)
        except Exception as error:  # the grader itself failed: that is what an attack wants
            outcome.wrong.append(f"the grader raised {type(error).__name__}: {error}")
        outcome.seconds = round(time.monotonic() - begun, 2)
        if outcome.seconds > BOUND:
            outcome.wrong.append(f"it took {outcome.seconds} s")
        if (place / "results.json").read_text("utf-8") != "{}":
            outcome.wrong.append("the results file was written")
        if list((place / "open").iterdir()):
            outcome.wrong.append(f"files are left: {sorted(p.name for p in (place / 'open').iterdir())[:3]}")
        if (place / "secret").read_text("utf-8") != secret:
            outcome.wrong.append("the secret file was written")
        if new := _left(confinement.used) - before:
            outcome.wrong.append(f"files are left: {sorted(new)[:3]}")
        if alive := [pid for uid in confinement.used for pid, _ in processes_of(uid)]:
            outcome.wrong.append(f"processes are left: {alive[:3]}")
    return outcome


def _grade(attack: Attack, folder: Path, secret: str, confinement: Confinement, outcome: Outcome) -> None:
    homework = load_homework(HOMEWORK)
    try:
        handed = take(folder, homework)
    except IntakeError as error:
        outcome.wrong.append(f"refused at intake: {error}")
        return
    chosen = [PART, *SAME_FILE, *OTHERS]
    done = grade(homework, handed, secret, problems=chosen, confinement=confinement, deadline=BOUND - 10.0)
    made = results(done, hidden=True)
    outcome.wrong += [c.text for c in complaints(made) if c.error]
    if (share := done.verdicts[PART].share) != 0.0:
        outcome.wrong.append(f"the attacked part got {share:.2f} of its points")
    whole = [p for p in (*OTHERS, *(() if attack.whole_file else SAME_FILE)) if done.verdicts[p].share != 1.0]
    if whole:
        outcome.wrong.append(f"other parts lost points: {whole}")
    seen = json.dumps(made) + report.html(done, True) + report.markdown(done, True)
    marks = {"the secret": secret, "a script": "<script", "an escape": "\x1b", "a direction mark": "\u202e"}
    outcome.wrong += [f"students see {what}" for what, text in marks.items() if text in seen]
    if attack.id.startswith("leak") and "SECRET" in seen:
        outcome.wrong.append("students see what was printed")


def _left(uids: Collection[int]) -> set[str]:
    """What these users have in folders that anyone writes, and of the kernel's shared memory, queues and semaphores."""
    kernel = set()
    for kind in ("shm", "msg", "sem"):
        with contextlib.suppress(OSError):
            head, *rows = Path("/proc/sysvipc", kind).read_text("utf-8").splitlines()
            places = [head.split().index(column) for column in ("uid", "cuid")]
            kernel |= {f"{kind} {r.split()[1]}" for r in rows if {int(r.split()[i]) for i in places} & set(uids)}
    return kernel | {
        f"{folder}/{name}"
        for folder in WATCHED
        if os.path.isdir(folder)
        for name in os.listdir(folder)
        if not name.startswith(("minipeft-attack-", "minipeft-grading-")) and _owner(f"{folder}/{name}") in uids
    }


def _owner(path: str) -> int | None:
    try:
        return os.lstat(path).st_uid
    except OSError:
        return None


@contextlib.contextmanager
def closed_copy() -> Iterator[Path]:
    """The grader in a folder that no other user can read, as a submission's without Landlock must be."""
    with tempfile.TemporaryDirectory(prefix="minipeft-attack-") as name:
        for part in ("autograder", "minipeft", "homework"):
            shutil.copytree(ROOT / part, Path(name, part), ignore=shutil.ignore_patterns("__pycache__"))
        yield Path(name)


def elsewhere(attack: Attack, configuration: str, source: Path) -> Outcome:
    """The attack in another process, of the grader at ``source``; for a container, with what a container has."""
    command = [sys.executable, "-B", "-m", "autograder.selftest.attacks.run", attack.id, configuration]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    with cell() if configuration == CONTAINER else contextlib.nullcontext() as places:
        less = None if places is None else lambda: contain(places)
        ran = subprocess.run(
            command, capture_output=True, encoding="utf-8", check=False, cwd=source, env=environment, preexec_fn=less
        )
    if ran.returncode:
        return Outcome(attack.id, attack.kind, [f"the grader ended with {ran.returncode}: {ran.stderr[-300:]}"])
    return Outcome(**json.loads(ran.stdout.splitlines()[-1]))


def possible() -> list[str]:
    """The configurations that this user can have."""
    return [*CONFIGURATIONS] if is_root() else ["all layers"]


def run(
    names: Iterable[str] = (), configurations: Iterable[str] = (), told: Callable[[str], None] = lambda line: None
) -> dict[str, list[Outcome]]:
    """The outcomes by configuration; all attacks and all configurations that this user can have, by default.

    told: called with a line after each.
    """
    chosen = [a for a in ATTACKS if not list(names) or a.id in names]
    found: dict[str, list[Outcome]] = {}
    with closed_copy() as source:
        for name in list(configurations) or possible():
            rows = found.setdefault(name, [])
            for a in chosen:
                here = CONFIGURATIONS[name].get("landlock", True)
                rows.append(attempt(a, CONFIGURATIONS[name]) if here else elsewhere(a, name, source))
                told(f"{name}: {a.id}: {rows[-1].seconds:.1f} s: {'; '.join(rows[-1].wrong) or 'held'}")
    return found


def table(found: Mapping[str, Sequence[Outcome]]) -> str:
    """Attack × configuration, as text: "held", or what went wrong."""
    names = list(found)
    lines = [f"{'attack':20} {'kind':34} " + "  ".join(f"{n:>14}" for n in names)]
    for rows in zip(*found.values(), strict=True):
        cells = "  ".join(f"{('held' if not o.wrong else 'FAILED') + f' {o.seconds:6.1f} s':>14}" for o in rows)
        lines.append(f"{rows[0].attack:20} {rows[0].kind:34} {cells}")
        lines += [f"    {n}: {text}" for n, o in zip(names, rows, strict=True) for text in o.wrong]
    held = sum(not o.wrong for rows in found.values() for o in rows)
    total = sum(len(rows) for rows in found.values())
    return "\n".join([*lines, f"{held} of {total} attempts held"])


def markdown(found: Mapping[str, Sequence[Outcome]]) -> str:
    """The table as a page: attack, what stops it, what became of it in each configuration."""
    names = list(found)
    held = sum(not o.wrong for rows in found.values() for o in rows)
    total = sum(len(rows) for rows in found.values())
    longest = max((o.seconds for rows in found.values() for o in rows), default=0.0)
    lines = [
        "# Attacks on the grader",
        "",
        "Written by `python -m autograder selftest --attacks --markdown docs/attacks.md`, as root. Each attack is the",
        f"library's own program for `{HOMEWORK}` with one function replaced. It is *held* when the attacked part",
        f"has no points, the problems {', '.join(OTHERS)} of other files (and {', '.join(SAME_FILE)} of its own file,",
        "where that can be imported) have all of theirs, results.json is valid, students see neither the secret nor",
        f"markup, it took at most {BOUND:g} s, and no process, no file and no shared memory of the worker's user is",
        "left. Beside it are the seconds for grading the submission.",
        "",
        "*all layers*: another user, limits, seccomp, Landlock. *no Landlock*: the first three; the grader and the",
        "library then lie in a folder of mode 0700, without which nothing is graded. *a container*: the same in a",
        "process with the capabilities and the denied system calls of Docker's defaults, half a core and 768 MB, which",
        "is what Gradescope gives.",
        "",
        f"{held} of {total} attempts held; the longest took {longest:.0f} s.",
        "",
        f"| class | attack | what stops it | {' | '.join(names)} |",
        f"|---|---|---|{'---:|' * len(names)}",
    ]
    for rows in zip(*found.values(), strict=True):
        number, _, title = rows[0].kind.partition(" ")
        cells = " | ".join(f"{'FAILED: ' + '; '.join(o.wrong) if o.wrong else 'held'}, {o.seconds:.1f}" for o in rows)
        lines.append(f"| {number} {title} | {rows[0].attack} | {DEFENCES[number]} | {cells} |")
    lines += ["", "Classes that are no program of a student's, and where they are tried:", ""]
    lines += [f"- {number}: {text}" for number, text in ELSEWHERE.items()]
    return "\n".join(lines) + "\n"


def main(
    names: Sequence[str] = (),
    configurations: Sequence[str] = (),
    out: Path | None = None,
    page: Path | None = None,
) -> int:
    """Run, print the table, write it as JSON and as Markdown; 1 where an attack succeeded."""
    from minipeft.cli.arguments import write_text  # not needed where an attack is run

    found = run(names, configurations, lambda line: print(line, file=sys.stderr, flush=True))
    print(table(found))
    if out is not None:
        entries = {n: [vars(o) for o in rows] for n, rows in found.items()}
        write_text(out / "attacks.json", json.dumps(entries, indent=1))
    if page is not None:
        write_text(page, markdown(found))
    return int(any(o.wrong for rows in found.values() for o in rows))


if __name__ == "__main__":
    tried = next(a for a in ATTACKS if a.id == sys.argv[1])
    print(json.dumps(vars(attempt(tried, CONFIGURATIONS[sys.argv[2]]))))
