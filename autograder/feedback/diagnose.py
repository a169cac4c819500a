"""Why is an output wrong? The cause, where it can be recognized, in at most two sentences.

A public case is told everything: the cause with sizes and parameters, the worst entry, both values. A hidden case is
told the category alone: nothing of it depends on what was drawn. The hint of a known mistake is a fixed sentence, so
it is told of both; an exception of a hidden case by its type and the line, for its message may hold inputs.

No explanation changes a score. If making one raises, `attempt` logs the traceback for the staff, and the student reads
that there is none.
"""

from __future__ import annotations

import builtins
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import PurePath
from typing import Any, TypeVar

import numpy as np

from autograder.feedback.causes import Cause, Wrong, causes, not_finite, wrong_entries, wrong_shape
from autograder.grading.check import Failure, Outputs, Raised, Result, Verdict, identical
from autograder.grading.library import Library, Patched
from autograder.grading.reference import library_with, run_case
from autograder.homeworks.case import Case
from autograder.homeworks.homework import Homework
from autograder.homeworks.mutant import Mutant, mutants, mutated

CASES = 8  # so many are tried with the known mistakes: the failing ones first, and of them the smallest
NOT_WRITTEN = "NotImplementedError"
KNOWN_ERRORS = {name for name in dir(builtins) if name.endswith(("Error", "Exit", "Interrupt", "Exception", "Warning"))}
KNOWN_ERRORS |= {"LinAlgError", "AxisError", "TooLarge"}
NO_EXPLANATION = "There is no explanation: making one failed. The points do not depend on it."
LOG = logging.getLogger("autograder")
T = TypeVar("T")


def attempt(what: str, work: Callable[[], T], otherwise: T) -> tuple[T, str]:
    """Return what `work` returns and "", or `otherwise` and what was raised, which is logged with its traceback.

    For explanations only: a submission may return anything, and its points must not depend on the words.
    """
    try:
        with np.errstate(all="ignore"):
            return work(), ""
    except Exception as error:
        LOG.exception("%s: no explanation", what)
        return otherwise, f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class Diagnosis:
    """A failure explained.

    cause: its category, "" where none was recognized. text: what is said of a public case; hidden: of a hidden one.
    details: "worst" (the index of the worst entry), "expected", "got" (the values there), "wrong" and "of" (how many
    entries are), for arrays of one shape; public cases alone. wrong: which they are. trouble: what the diagnosis itself
    raised, for staff.
    """

    failure: Failure
    cause: str
    text: str
    hidden: str
    details: Mapping[str, Any] = field(default_factory=dict)
    trouble: str = ""
    wrong: np.ndarray | None = None

    @property
    def entries(self) -> str:
        """The details in words, for a public case; "" where there are none."""
        d, e, g = self.details, self.failure.expected, self.failure.got
        if self.failure.kind == "shape" and isinstance(e, np.ndarray) and isinstance(g, np.ndarray):
            return f"got shape {g.shape}, expected {e.shape}"
        if not d or not d["wrong"]:
            return ""
        if d["of"] == 1:
            return f"got {number(d['got'])}, expected {number(d['expected'])}"
        at = ", ".join(map(str, d["worst"]))
        worst = f"at [{at}]: got {number(d['got'])}, expected {number(d['expected'])}"
        return f"{d['wrong']} of {d['of']} entries are wrong, the worst {worst}"


@dataclass
class Reason:
    """One thing that is wrong, said once. aspects and places: where; places are those of public cases, with what came.

    shown: the first of them whose entries can be drawn.
    """

    text: str
    aspects: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    shown: Diagnosis | None = None


def reasons(homework: Homework, verdict: Verdict, hidden: bool) -> list[Reason]:
    """Why a problem lost points: its diagnoses, those that differ in drawn numbers alone taken together."""
    found: dict[str, Reason] = {}
    for d in diagnose(homework, verdict):
        reason = found.setdefault(d.hidden, Reason(d.hidden if hidden else d.text))
        if d.failure.aspect not in reason.aspects:
            reason.aspects.append(d.failure.aspect)
        if not hidden:
            place = f"{d.failure.case}: {d.failure.output}"
            reason.places.append(f"{place}: {d.entries}" if d.entries else place)
            reason.shown = reason.shown or (d if d.details else None)
    return list(found.values())


def number(x: Any) -> str:
    """A number as people read it."""
    return f"{x:.6g}" if isinstance(x, float) else str(x)


def diagnose(homework: Homework, verdict: Verdict, known: bool = True) -> list[Diagnosis]:
    """A diagnosis for each failure of a verdict. known False: without comparing with the mutants' outputs."""
    what = f"{homework.name} {verdict.problem}"
    hints: dict[tuple[str, str], str] = {}
    no_hints = ""
    if known:
        hints, no_hints = attempt(what, partial(known_mistakes, homework, verdict), hints)
    results = {case.name: (case, right, got) for case, right, got in verdict.results}
    found = []
    for f in verdict.failures:
        case, right, got = results[f.case]
        nothing: Seen = [], {}, None
        work = partial(seen_in, f, case, right, got)
        (seen, entries, bad), trouble = attempt(f"{what}, {f.case}: {f.output}", work, nothing)
        hint = hints.get((f.case, f.key), "")
        if hint:
            seen = [*seen[:1], Cause(seen[0].kind if seen else "known mistake", sentence(hint))]
        text = " ".join(dict.fromkeys(c.text for c in seen)) or sentence(f"{f.output}: {f.reason}")
        hidden = " ".join(dict.fromkeys(c.hidden for c in seen)) or f"{f.output} {PLAINLY[f.kind]}."
        if trouble and not hint:
            text, hidden = f"{text} {NO_EXPLANATION}", f"{hidden} {NO_EXPLANATION}"
        found.append(Diagnosis(f, seen[0].kind if seen else "", text, hidden, entries, trouble or no_hints, bad))
    return found


Seen = tuple[list[Cause], dict[str, Any], np.ndarray | None]


def seen_in(f: Failure, case: Case, right: Outputs, got: Outputs | Raised) -> Seen:
    """Return the causes of a failure, its details, and where it is wrong."""
    return explained(f, case, right, got), *details(f, case)


PLAINLY = {
    "raised": "cannot be computed: the call raises",
    "timeout": "is not there in time",
    "crash": "cannot be computed: the call ends the process",
    "missing": "is missing",
    "type": "is something else than an array or a number",
    "shape": "has a wrong shape",
    "dtype": "has a wrong type of numbers",
    "finite": "is not finite",
    "value": "has wrong values",
}


def sentence(text: str) -> str:
    """With a mark at its end."""
    return text if text.endswith((".", "?", "!")) else f"{text}."


@np.errstate(all="ignore")
def explained(f: Failure, case: Case, right: Outputs, got: Outputs | Raised) -> list[Cause]:
    """What can be said of a failure without the known mistakes: at most two causes."""
    if isinstance(got, Raised):
        return [raised(got)]
    e, g = f.expected, f.got
    if f.kind == "missing":
        return []
    if e is None or g is None:
        return none_or_array(f)
    if isinstance(e, (list, tuple)) and isinstance(g, (list, tuple)):
        return lists(f, case, right)
    if isinstance(e, float) and f.kind == "value":
        e, g = np.asarray(e), np.asarray(float(np.asarray(g).reshape(())))
    if not isinstance(e, np.ndarray) or not isinstance(g, np.ndarray):
        return []
    tol = max(case.tol, 1e-4 if min(e.dtype.itemsize, g.dtype.itemsize) < 8 and e.dtype.kind == "f" else 1e-6)
    w = Wrong(f.output, e, g, case, right, 0.0 if f.key in case.exact else case.tol, tol)
    if f.kind == "shape":
        return wrong_shape(w)
    if f.kind == "dtype":
        return [dtype(f)]
    if f.kind == "finite":
        return not_finite(w)
    return causes(w)


def raised(got: Raised) -> Cause:
    """What an exception tells: its type and line, in public its message too."""
    where = f" in line {got.line}" if got.line else ""
    if got.error == NOT_WRITTEN:
        text = "This is not written yet."
        return Cause("not written", f"{text[:-1]} ({got.message}).", text)
    if got.kind == "timeout":
        text = "It takes more processor time than it may: a loop over entries, or differences in place of a formula?"
        return Cause("timeout", text)
    if got.kind == "crash":
        text = "The process ended in the middle of the call."
        return Cause("crash", text)
    file = f" of {PurePath(got.file).name}" if got.file and got.line else ""
    message = f": {got.message}" if got.message else ""
    name = got.error if got.error in KNOWN_ERRORS else "an exception of its own"  # a name of its own may say anything
    return Cause("raised", sentence(f"{got.error}{where}{file}{message}"), f"It raises {name}{where}{file}.")


def none_or_array(f: Failure) -> list[Cause]:
    """None where an array belongs, or the other way round."""
    gradient = f.key.startswith("d")
    if f.got is None:
        text = f"{f.output} is None, though {'a gradient is wanted' if gradient else 'a result is expected'}."
        return [Cause("none", text)]
    text = f"{f.output} must be None{': no gradient is wanted for this input' if gradient else ''}, and something came."
    return [Cause("not none", text)]


def dtype(f: Failure) -> Cause:
    """Another type of numbers."""
    e, g = f.expected.dtype, f.got.dtype
    if e.kind == "f" and g.kind == "f":
        text = f"{f.output} is {g} where {e} must stay: a NumPy scalar, such as np.sqrt(n), promotes what it touches."
        return Cause("promoted", text)
    text = f"{f.output} is an array of {g}, expected {e}."
    return Cause("dtype", text)


def lists(f: Failure, case: Case, right: Outputs) -> list[Cause]:
    """Lists: of names, what is missing and what is too much; of arrays, what is wrong with the first that is."""
    e, g = list(f.expected), list(f.got)
    if all(isinstance(x, str) for x in [*e, *g]):
        more, less = [x for x in g if x not in e], [x for x in e if x not in g]
        if f.key == "changed" and more:
            text = f"The call writes into its input {', '.join(more)}."
            return [Cause("written", text)]
        if f.key == "kept" and more:
            text = f"{', '.join(more)} is kept for the backward, though no gradient that is wanted uses it."
            return [Cause("kept", text)]
        parts = [f"without {', '.join(less)}"] * bool(less) + [f"with {', '.join(more)} too much"] * bool(more)
        text = f"{f.output} comes {' and '.join(parts) if parts else 'in another order'}."
        return [Cause("list", text, f"{f.output} is another list than expected.")]
    for i, (x, y) in enumerate(zip(e, g)):
        if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
            part = Wrong(f"entry {i} of {f.output}", x, y, case, right, case.tol, max(case.tol, 1e-6))
            if x.shape != y.shape:
                return wrong_shape(part)
            if x.dtype.kind == y.dtype.kind and wrong_entries(x, y, case.tol).any():
                return causes(part)
    return []


@np.errstate(all="ignore")
def details(f: Failure, case: Case) -> tuple[dict[str, Any], np.ndarray | None]:
    """The worst entry and how many are wrong, and which, for arrays of numbers of one shape."""
    e, g = f.expected, f.got
    if not isinstance(e, np.ndarray) or not isinstance(g, np.ndarray) or e.shape != g.shape or not e.size:
        return {}, None
    if e.dtype.kind not in "fiub" or g.dtype.kind not in "fiub":
        return {}, None
    bad = wrong_entries(e, g, case.tol if f.key not in case.exact else 0.0)
    error = np.abs(g.astype(np.float64) - e.astype(np.float64))
    error = np.where(np.isfinite(error), error, np.where(bad, np.inf, 0.0))
    worst = tuple(int(i) for i in np.unravel_index(int(error.argmax()), e.shape))
    numbers = {"expected": e[worst].item(), "got": g[worst].item(), "wrong": int(bad.sum()), "of": int(e.size)}
    return {"worst": worst, **numbers}, bad


def known_mistakes(homework: Homework, verdict: Verdict) -> dict[tuple[str, str], str]:
    """By (case, output), for what is wrong, the hint of the mutant whose output is the same.

    Of several that fit, the one that gives most of the other outputs too, right or wrong.
    """
    wrong: dict[str, set[str]] = {}
    for f in verdict.failures:
        wrong.setdefault(f.case, set()).add(f.key)
    written = [
        r
        for r in verdict.results
        if not isinstance(r[2], Raised) or (r[2].kind == "raised" and r[2].error != NOT_WRITTEN)
    ]
    chosen = sorted(written, key=lambda r: (r[0].name not in wrong, sum(x.size for x in r[0].arrays.values())))[:CASES]
    found: list[tuple[Mutant, set[tuple[str, str]]]] = []
    if any(case.name in wrong for case, _, _ in chosen):
        for m in mutants(homework.name):
            if verdict.problem in (m.problem, *m.also) and not m.equivalent:
                found.append((m, agrees(m, homework.name, chosen)))
    found.sort(key=lambda pair: -len(pair[1]))
    hints: dict[tuple[str, str], str] = {}
    for m, places in found:
        for case, output in places:
            if output in wrong.get(case, ()):
                hints.setdefault((case, output), m.hint)
    tried = {case.name for case, _, _ in chosen}
    for f in verdict.failures:  # the same output of a case that was not tried
        same = {hints.get((case, f.key), "") for case in tried if f.key in wrong.get(case, ())}
        if f.case not in tried and len(same) == 1:
            hints[f.case, f.key] = same.pop()
    return hints


def agrees(mutant: Mutant, homework: str, results: list[Result]) -> set[tuple[str, str]]:
    """The (case, output) where the mutant gives what came."""
    found: set[tuple[str, str]] = set()
    for case, _, got in results:
        its = mutant_outputs(mutant, homework, case)
        if isinstance(got, Raised) or isinstance(its, Raised):
            if isinstance(got, Raised) and isinstance(its, Raised) and same_exception(its, got):
                found.update((case.name, output) for output in case.checks)
            continue
        for output in case.checks:
            if output in its and output in got and alike(its[output], got[output], 0.1 * case.tol):
                found.add((case.name, output))
    return found


@lru_cache(maxsize=1024)
def _mutant_library(mutant: Mutant) -> Library | Patched:
    return library_with(mutated(mutant))


_outputs: OrderedDict[tuple[str, str, int], tuple[Case, Outputs | Raised]] = OrderedDict()
KEPT = 4096
PATIENCE = 2.0  # seconds of processor time that a mutant may take for a case: who is slower is not asked


def mutant_outputs(mutant: Mutant, homework: str, case: Case) -> Outputs | Raised:
    """What a mutant returns for a case; the last `KEPT` answers are kept, for the next submission and output."""
    key = (homework, mutant.id, id(case))
    if key not in _outputs or _outputs[key][0] is not case:  # another case may have come to lie at the same place
        limited = replace(case, seconds=min(case.seconds, PATIENCE))
        _outputs[key] = case, run_case(_mutant_library(mutant), homework, limited)
        if len(_outputs) > KEPT:
            _outputs.popitem(last=False)
    return _outputs[key][1]


def same_exception(a: Raised, b: Raised) -> bool:
    """Whether two calls failed in the same way."""
    return (a.kind, a.error) == (b.kind, b.error) and (a.kind != "raised" or a.message == b.message)


def alike(a: Any, b: Any, tol: float) -> bool:
    """Whether two outputs are the same up to rounding."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(alike(x, y, tol) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        a, b = np.asarray(a), np.asarray(b)
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        return identical(a, b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(b[finite]).all():
        return False
    if not finite.any():
        return True
    x, y = a[finite].astype(np.float64), b[finite].astype(np.float64)
    return bool(np.abs(x - y).max() <= tol * np.abs(x).max())
