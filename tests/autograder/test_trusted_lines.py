"""How much code has to be right for a grade to be right: counted in a process that has decided about a problem."""

import json
import subprocess
import sys

import pytest

from autograder.homeworks.folder import load_homework
from autograder.homeworks.homework import ROOT
from autograder.homeworks.strip import replace_bodies, source_path

DECIDES = 2500  # lines of the autograder at most in the process that decides
ISOLATES = 1500  # lines at most that keep a submission's process apart, on both sides of its pipes
ISOLATION = {  # what is not in it: `session`, `worker`, `workspace` (which processes there are), `copies` and `remote`
    "the grader's side": ("parent_limits", "cgroups", "readable", "process", "frames"),
    "what a worker does to itself": ("entry", "child_limits", "namespaces", "system_calls"),
}
PROGRAM = """
import json, sys
import numpy as np
from autograder.grading.decide import Decider
from autograder.sandbox.frames import decode

asked = json.load(sys.stdin)
asked["sources"] = {module: np.frombuffer(text.encode(), np.uint8) for module, text in asked["sources"].items()}
decider = Decider()
assert decode(decider.answer({"begin": asked})) == {"failed": {}}
reply = decode(decider.answer({"problem": "8.6"}))
assert decode(decider.answer({"end": True})) == {}
decider.forget()
files = {n: m.__file__ for n, m in sys.modules.items() if n.split(".")[0] in ("autograder", "minipeft") and m.__file__}
print(json.dumps([reply["verdict"]["share"], len(reply["frame"]), files]))
"""


def lines(path):
    return len(path.read_text("utf-8").splitlines())


def test_what_isolates_a_submission_is_short():
    counted = {n: lines(ROOT / f"autograder/sandbox/{n}.py") for names in ISOLATION.values() for n in names}
    assert sum(counted.values()) <= ISOLATES, counted


@pytest.mark.skipif(sys.platform != "linux", reason="confinement needs Linux")
def test_the_process_that_decides_has_little_code_and_none_of_the_library():
    homework = load_homework("hw8_few_shot")
    (module,) = {t.module for t in homework.problem("8.6").targets}
    sources = {f.module: source_path(f.module).read_text("utf-8") for f in homework.files}
    sources[module] = replace_bodies(
        sources[module], {"welch_statistic": "return 1.0, 2.0"}
    )  # wrong, so that it is packed, too
    asked = {"homework": str(homework.folder), "seed": "s", "sources": sources, "broken": {}, "until": None}
    asked["confinement"] = {"private": [str(ROOT)]}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(asked), cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    share, packed, files = json.loads(ran.stdout)
    assert share < 1.0
    assert packed > 1000
    files["entry"] = str(ROOT / "autograder/sandbox/entry.py")  # which starts the process
    counted = {name: lines(ROOT / file) for name, file in files.items()}
    assert "autograder.grading.check" in counted
    assert not {n for n in counted if n.startswith(("minipeft", "autograder.feedback", "autograder.submission"))}
    assert not {n for n in counted if n.endswith((".reference", ".library", ".strip", ".draw", ".cases", ".drivers"))}
    assert sum(counted.values()) <= DECIDES, counted
