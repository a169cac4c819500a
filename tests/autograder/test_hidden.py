"""Of hidden cases students read sentences of ours: nothing that a worker sent is in any of what they get."""

import json
import re

import numpy as np
import pytest

from autograder.course import grader
from autograder.course.classpage import page
from autograder.course.entries import Entry
from autograder.course.gradebook import table
from autograder.feedback import exchange, report
from autograder.feedback.diagnose import diagnose
from autograder.feedback.explain import explain
from autograder.feedback.reasons import hints
from autograder.feedback.results import results
from autograder.feedback.words import KNOWN_ERRORS
from autograder.grading.check import Raised, judge
from autograder.grading.grade import Graded
from autograder.grading.imports import Unloaded
from autograder.grading.packed import packed
from autograder.grading.reference import drawn
from autograder.homeworks.folder import load_homework
from autograder.homeworks.strip import stubs
from autograder.sandbox.frames import Opaque, decode, encode

LORA = load_homework("hw6_lora")
SECRET, NUMBER = "s3cret", 98765
FAILURES = [
    Raised("raised", "ValueError", SECRET, f"{SECRET}.py", NUMBER),
    Raised("raised", f"{SECRET}Error", f"{SECRET} {NUMBER}", "lora.py", NUMBER),
    Raised("raised", "NotImplementedError", SECRET, "lora.py", NUMBER),
    Raised("raised", "an exception", SECRET),
    Raised("crash", SECRET, SECRET),
    Raised("timeout", SECRET, f"more than {NUMBER} s"),
]


def lies(name, right):
    """What a worker may send for one output: a secret in every place that can hold one."""
    yield from (SECRET, [SECRET], [SECRET, NUMBER], {SECRET: SECRET}, Opaque(SECRET), NUMBER, float(NUMBER), None)
    yield from ([[SECRET], [np.ones(2), SECRET]], {name: {SECRET: [SECRET]}}, [np.full(3, NUMBER), np.ones((1, 9))])
    yield np.zeros(NUMBER)
    yield np.zeros((1,) * 6 + (2, NUMBER), np.int8)
    if isinstance(right, (list, tuple)):
        yield [*right, SECRET]
        yield [SECRET] * len(right)
        yield [np.full((2, 3), NUMBER)] * len(right)
    if isinstance(right, np.ndarray) and right.size:
        yield np.full_like(right, np.nan) if right.dtype.kind == "f" else ~right
        yield right.astype(np.float16)
        yield right.astype(np.int32)
        yield (right * NUMBER).astype(right.dtype)
        yield right + np.full_like(right, NUMBER) if right.dtype.kind in "fi" else right
        yield np.repeat(right[None], 3, axis=0)
        yield right[..., ::-1]


def wicked(problem):
    """Results of a problem in which every case fails, each output in the next way."""
    given = drawn(LORA.name, problem.id, "hidden")
    found = [(case, right, failure) for (case, right), failure in zip(given, FAILURES, strict=False)]
    for i, (case, right) in enumerate(given[len(FAILURES) :] or given):
        got = {}
        for j, name in enumerate(right):
            every = list(lies(name, right[name]))
            got[name] = every[(i * 7 + j) % len(every)]
        found.append((case, right, decode(encode({**got, SECRET: SECRET}))))
    for case, right in given[:3]:
        for n in range(25):
            every = {name: list(lies(name, x)) for name, x in right.items()}
            got = {name: values[n % len(values)] for name, values in every.items()}
            found.append((case, right, decode(encode(got))))
    return found


def leaks(text):
    return re.findall(rf"{SECRET}|{NUMBER}|line \d+|[^ ]*\.py", text, re.I)


@pytest.mark.parametrize("problem", LORA.problems, ids=lambda p: p.id)
def test_a_sentence_about_a_hidden_case_is_one_of_ours(problem):
    found = 0
    for result in wicked(problem):
        verdict = judge(problem, [result])
        sent = exchange.unpacked(decode(packed(LORA.name, verdict))["explain"])
        answer = decode(exchange.answer(diagnose(LORA, sent, known=False)))
        verdicts = Graded(LORA, {problem.id: verdict}, words={problem.id: exchange.read(answer, LORA.name, verdict)})
        told = results(verdicts)["tests"][LORA.problems.index(problem)]["output"].partition("\n\n")[2]
        found += bool(told)
        assert not leaks(told), told
        assert not re.search(r"\d{2}", re.sub(r"float\d+", "", told)), told
    assert found > 20


@pytest.fixture(scope="module")
def done():
    """A submission that lies in every problem, explained as it is when it is graded."""
    verdicts = {}
    for problem in (LORA.problem(name) for name in ("6.1", "6.4", "6.10")):
        given = wicked(problem)
        names = [case.name for case, _, _ in given]
        given = [r for i, r in enumerate(given) if names[i] not in names[:i]]
        verdicts[problem.id] = judge(problem, given)
    unloaded = [Unloaded("lora.py", failure) for failure in FAILURES]
    more = {p.id: [SECRET] for p in LORA.problems}
    return Graded(LORA, verdicts, unloaded=unloaded, words=explain(LORA, verdicts), more=more, log=SECRET)


def test_no_report_of_a_hidden_case_holds_what_a_worker_sent(done, tmp_path, monkeypatch):
    assert all(len(found) > 3 for found in done.words.values())
    assert not any(d.trouble for found in done.words.values() for d in found)
    (tmp_path / "ann").mkdir()
    for stub, text in stubs(LORA).items():
        (tmp_path / "ann" / stub).write_text(text)
    monkeypatch.setattr(grader, "grade", lambda *args, **kwargs: done)
    entry = Entry("ann", tmp_path / "ann", ())
    made = grader.grade_one(entry, grader.Rules("hw6_lora", "hidden", trust=True))
    assert made["failure"] == ""
    whole = {
        "results.json": json.dumps(results(done)),
        "text": report.text(done, True),
        "markdown": re.sub(r"\\(.)", r"\1", report.markdown(done, True)),
        "page": re.sub(r"<style>.*?</style>", "", report.html(done, True), flags=re.S),
        "the student's files of a class": json.dumps([made["results"], made["record"]]) + made["report"],
        "the class": page(LORA, [made["record"]]) + table(LORA, [made["record"]]),
    }
    for where, text in whole.items():
        text = text.replace("lora.py cannot be imported", "").replace("lora.py", "")
        assert not re.findall(rf"{SECRET}|{NUMBER}|line \d+", text, re.I), where
    assert SECRET in made["staff"]
    assert len(made["staff"]) < 400_000
    assert len(json.dumps(made["record"])) < 40_000


def test_a_process_that_explains_can_only_choose_among_our_sentences():
    problem = LORA.problems[0]
    case, right = drawn(LORA.name, problem.id, "hidden")[0]
    verdict = judge(problem, [(case, right, Raised("raised", "ValueError"))])
    one = {
        "hint": "",
        "entries": "",
        "picture": None,
        "trouble": "",
        "causes": [["x", ["LACKS_TERM"], ["z", SECRET], ""]],
    }
    replies = [
        {**one, "causes": [["x", [SECRET], ["z"], ""]]},
        {**one, "hint": f"{SECRET}."},
        {**one, "picture": [np.zeros((500, 500)), ""]},
        {**one, "picture": SECRET},
        SECRET,
        None,
    ]
    for reply in replies:
        with pytest.raises(ValueError, match="expected a diagnosis for each failure"):
            exchange.read({"found": [reply] * len(verdict.failures)}, LORA.name, verdict)
    found = exchange.read({"found": [one] * len(verdict.failures)}, LORA.name, verdict)
    assert {d.hidden(KNOWN_ERRORS) for d in found} == {
        f"{f.output} cannot be computed: the call raises." for f in verdict.failures
    }
    assert all(SECRET not in hint for hint in hints(LORA.name))
