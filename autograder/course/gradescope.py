"""Build the zip for Gradescope, and grade there.

    python -m autograder gradescope hw6_lora --out autograder.zip

The zip contains ``setup.sh`` and ``run_autograder``; the same inputs give the same bytes. ``setup.sh`` runs once, when
the image is built. It installs Python and the packages (see `autograder.course.image`); later nothing is fetched.
``run_autograder`` is three lines that end in exec, because a shell reads its script while it runs.

`main` runs on Gradescope, as root. It first writes valid results. Then it starts a process that grades and confines
each worker as another user behind a seccomp filter. If that is impossible, or if the grader fails in any other way, the
student reads so and loses no attempt.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import traceback
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autograder.course.image import HOME, misfits, setup_script
from autograder.grading.policy import Policy, applied, attempts_used, read_metadata
from autograder.homeworks.folder import load_homework
from autograder.homeworks.homework import ROOT, Homework

EPOCH = (2020, 1, 1, 0, 0, 0)
SETTINGS = "settings.json"
LONGEST = 20_000  # characters of a traceback, which staff read
TIME_LIMIT = 600.0  # seconds, Gradescope's default
SPARE = 0.8  # of the time limit; Gradescope overwrites the results of whoever passes it

RUN = """#!/bin/sh
chmod 700 /autograder/source /autograder/feedback/results; chmod -f 600 /autograder/submission_metadata.json
exec {home}/bin/python -I -B /autograder/source/start.py
"""
START = '''"""Started by run_autograder: nothing of the submission is on the path."""

import sys

sys.path.insert(0, "/autograder/source")

from autograder.course.gradescope import main

sys.exit(main())
'''


def source_files(homework: Homework) -> Iterator[tuple[str, bytes]]:
    """Yield the files of the grader, the library and one homework: the name in the zip, and the bytes."""
    for part in ("autograder", "minipeft"):
        for file in sorted((ROOT / part).rglob("*.py")):
            if "__pycache__" not in file.parts:
                yield file.relative_to(ROOT).as_posix(), file.read_bytes()
    yield f"homework/{homework.name}/homework.toml", (homework.folder / "homework.toml").read_bytes()
    for f in homework.files:
        yield f"homework/{homework.name}/{f.stub}", (homework.folder / f.stub).read_bytes()


def build(homework: Homework, out: Path, seed: str, policy: str = "{}", time_limit: float = TIME_LIMIT) -> str:
    """Write the zip, and return the sha256 of its contents, which every results.json names as its grader.

    policy: the text of a policy, see `autograder.grading.policy`. time_limit: Gradescope's limit in seconds.

    Raises PolicyError if the policy cannot be read.
    """
    from minipeft.files.atomic import atomic_path  # not needed where the zip is run

    Policy.read(policy)
    files = dict(source_files(homework))
    files["start.py"] = START.encode()
    files["setup.sh"] = setup_script().encode()
    files["run_autograder"] = RUN.format(home=HOME).encode()
    files["policy.json"] = policy.encode()
    files["seed"] = seed.encode()
    total = hashlib.sha256()
    for name, data in sorted(files.items()):
        total.update(name.encode() + b"\0" + hashlib.sha256(data).digest())
    settings = {"homework": homework.name, "time_limit": time_limit, "grader_sha256": total.hexdigest()}
    files[SETTINGS] = json.dumps(settings, sort_keys=True).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system = 3  # Unix: the mode is read
            mode = 0o755 if name in ("setup.sh", "run_autograder") else 0o600 if name == "seed" else 0o644
            entry.external_attr = (0o100000 | mode) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    with atomic_path(out) as part:
        part.write_bytes(packed.getvalue())
    return total.hexdigest()


def complaints(path: Path) -> list[str]:
    """Return what is wrong with an autograder.zip, by Gradescope's rules and ours. Raises OSError if there is none."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        return [f"it is no zip: {error}"]
    wrong = []
    with archive:
        entries = archive.infolist()
        names = [e.filename for e in entries]
        for name in ("setup.sh", "run_autograder"):
            if name not in names:
                elsewhere = [n for n in names if n.endswith(f"/{name}")]
                hint = f"; it lies at {elsewhere[0]}: zip the files and not their folder" if elsewhere else ""
                wrong.append(f"{name} is not at the root{hint}")
                continue
            entry, data = archive.getinfo(name), archive.read(name)
            if not (entry.external_attr >> 16) & 0o100:
                wrong.append(f"{name} is not executable")
            if not data.startswith(b"#!"):
                wrong.append(f"{name} does not begin with #!")
            if b"\r" in data:
                wrong.append(f"{name} has line ends of Windows")
            if name == "setup.sh":
                wrong += misfits(data.decode("utf-8", "replace"))
        for entry in entries:
            kind = (entry.external_attr >> 16) & 0o170000
            parts = entry.filename.split("/")
            if entry.filename.startswith("/") or ".." in parts or "\\" in entry.filename:
                wrong.append(f"{entry.filename!r} leads out of the folder")
            if kind not in (0, 0o100000, 0o040000):
                wrong.append(f"{entry.filename!r} is a link or a device")
            if "__MACOSX" in parts or parts[-1] == ".DS_Store":
                wrong.append(f"{entry.filename!r} was left there by macOS")
        if len(set(names)) != len(names):
            wrong.append("a name comes twice")
        if names != sorted(names) or {e.date_time for e in entries} != {EPOCH}:
            wrong.append("the order or the dates differ from what `gradescope` writes: the bytes tell no version")
        homeworks = sorted({n.split("/")[1] for n in names if n.startswith("homework/") and n.count("/") > 1})
        if SETTINGS in names:
            own = json.loads(archive.read(SETTINGS)).get("homework")
            wrong += [f"it holds {name}, which is another assignment" for name in homeworks if name != own]
    return wrong


def main(root: str = "/autograder") -> int:
    """Grade the submission that Gradescope has put there. Whatever happens, results.json is valid.

    Returns 0, or 1 if the grader failed, which costs the student no attempt.
    """
    from autograder.feedback.results import failed_results, write

    target = Path(root) / "results" / "results.json"
    write(target, failed_results())  # until there are others, for nobody knows how this process ends
    try:
        return _run(Path(root), target)
    except Exception:
        traceback.print_exc()
        write(target, failed_results())
        return 1


def _run(place: Path, target: Path) -> int:
    from autograder.course.entries import Entry
    from autograder.course.gradebook import FAILED, GRADED
    from autograder.course.grader import Rules
    from autograder.course.supervisor import Graders
    from autograder.feedback.results import clean, refused, write

    source = place / "source"
    settings = json.loads((source / SETTINGS).read_text("utf-8"))
    homework = load_homework(source / "homework" / settings["homework"])
    policy = Policy.read((source / "policy.json").read_text("utf-8"))
    metadata = read_metadata(place / "submission_metadata.json")
    if policy.attempts is not None and attempts_used(metadata) >= policy.attempts:
        write(target, refused(homework, f"All {policy.attempts} attempts are used up; this one was not graded."))
        return 0

    def keep(done: dict[str, Any]) -> None:
        made = done["results"]
        made = {**made, "extra_data": {**made["extra_data"], "grader_sha256": settings["grader_sha256"]}}
        write(target, applied(policy, metadata, made) if done["record"]["status"] == GRADED else made)

    seed = (source / "seed").read_text("utf-8").strip()
    rules = Rules(str(homework.folder), seed, deadline=SPARE * settings["time_limit"], gradescope=True)
    with Graders() as graders:
        done = graders.grade(Entry("submission", place / "submission", ()), rules, keep)
    keep(done)
    if done["record"]["status"] == FAILED:
        print(f"the grader failed:\n{clean(done['failure'], LONGEST)}", file=sys.stderr)
        return 1
    print(f"confined: {', '.join(f'{k} {v}' for k, v in done['record']['layers'].items())}")
    return 0
