"""Which mistake in the formula gives what came? Formulas computed with one mistake each, and compared."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from types import CodeType
from typing import Any

import numpy as np

from autograder.grading.check import Raised, Result, Verdict
from autograder.grading.packed import size
from autograder.homeworks.case import Case
from autograder.homeworks.formula import Altered, Formula, alone, formulas_of

CASES = 4  # for each output, the smallest in which it is wrong; and as many in which all is right
MOST_ENTRIES = 20_000  # of a case's inputs
DOUBLE = np.dtype(np.float64)
Arrays = dict[str, Any]


def formula_hints(homework: str, verdict: Verdict) -> dict[tuple[str, str], str]:
    """Return, by (case, output), what is wrong with the formula, for outputs that one mistake in it explains.

    A mistake is named for an output if it gives what came in every case that is tried, and gives no wrong value where
    the student is right. Of several, the one that explains the most outputs.
    """
    wrong: dict[str, set[str]] = {}
    for f in verdict.failures:
        wrong.setdefault(f.case, set()).add(f.key)
    found: dict[tuple[str, str], str] = {}
    for formula in formulas_of(homework):
        own = [r for r in verdict.results if belongs(formula, r[0])]
        made = (Computed(formula, r, wrong.get(r[0].name, set())) for r in _smallest(own, wrong))
        for sentence, outputs in _explaining(formula, [c for c in made if c.right]):
            for case, keys in wrong.items():
                if any(case == r[0].name for r in own):
                    for key in keys & outputs:
                        found.setdefault((case, key), sentence)
    for case, keys in wrong.items():  # the same output of a further call
        for key in keys:
            first = (case, key.removeprefix("second ").removeprefix("again "))
            if first in found:
                found.setdefault((case, key), found[first])
    return found


def belongs(formula: Formula, case: Case) -> bool:
    """Return whether a case asks for what a formula computes."""
    p = case.params
    function = p.get("function", case.driver)
    names = {function, f"{function}:{dict(p.get('constants') or {}).get('name')}", f"{case.driver}:{p.get('kind')}"}
    return not names.isdisjoint(formula.keys)


def _smallest(results: Sequence[Result], wrong: Mapping[str, set[str]]) -> list[Result]:
    """Return some results in float64: of each output the smallest cases in which it is wrong, then some all right."""
    can = [r for r in results if not isinstance(r[2], Raised) and size(r[0]) <= MOST_ENTRIES and _double(r[0])]
    can.sort(key=lambda r: size(r[0]))
    keys = {key for r in can for key in wrong.get(r[0].name, ())}
    chosen = [r for key in keys for r in [r for r in can if key in wrong.get(r[0].name, ())][:CASES]]
    chosen += [r for r in can if r[0].name not in wrong][:CASES]
    return list({r[0].name: r for r in chosen}.values())


def _double(case: Case) -> bool:
    return bool(case.arrays) and all(
        x.dtype.kind != "f" or (x.dtype == DOUBLE and x.size) for x in case.arrays.values()
    )


class Computed:
    """A case, what its formula gives without and with a mistake, and which outputs of the student are wrong."""

    def __init__(self, formula: Formula, result: Result, wrong: set[str]):
        self.formula = formula
        self.case, self.expected, self.got = result
        self.keys = [k for k in self.case.checks if isinstance(self.expected.get(k), np.ndarray)]
        self.wrong = wrong
        self.values = inputs(self.case)
        self.values.update(formula.helpers)
        self.plain = self.outputs(None)
        checked = [k for k in self.keys if k in self.plain]
        self.right = bool(checked) and all(self.same(self.plain, k, self.expected) for k in checked)

    @np.errstate(all="ignore")
    def outputs(self, mistake: Altered | None) -> Arrays:
        """Return what the lines give, by name; a name that cannot be computed is left out."""
        lines = list(self.formula.lines)
        if mistake is not None:
            lines[mistake.index] = mistake.code
        if self.case.driver == "optimize":
            return steps(lines, self.case)
        if mistake is None:
            return run(lines, self.values)
        later = self.formula.later[mistake.index]
        changed = run([lines[i] for i in later], self.values.copy())
        kept = {k: v for k, v in self.plain.items() if k not in {self.formula.targets[i] for i in later}}
        return {**kept, **changed}

    def same(self, its: Arrays, key: str, other: Any) -> bool:
        """Return whether an output is the same up to rounding."""
        a, b = np.asarray(its[key]), other.get(key)
        if not isinstance(b, np.ndarray) or b.dtype.kind != "f" or a.dtype.kind not in "fiub" or a.size != b.size:
            return False
        if not np.isfinite(b).all():
            return False
        error = np.abs(np.reshape(a, b.shape) - b)
        return bool(error.max(initial=0.0) <= max(self.case.tol, 1e-9) * np.abs(b).max(initial=0.0) + 1e-12)


def _explaining(formula: Formula, tried: Sequence[Computed]) -> Iterator[tuple[str, set[str]]]:
    """Yield sentences with the outputs that they explain, the one that explains the most first."""
    known = {key for c in tried for key in c.wrong & set(c.keys)}
    found = []
    for m in formula.mistakes if known else ():
        changed = {formula.targets[i] for i in formula.later[m.index]}
        mine = known if any(c.case.driver == "optimize" for c in tried) else known & changed
        if mine and (fit := _explained(m, tried, mine)):
            found.append((m.sentence, fit))
    found.sort(key=lambda pair: -len(pair[1]))
    yield from found
    for key in sorted(known.difference(*(fit for _, fit in found))):  # a step that is right for other outputs
        for m in formula.mistakes:
            later = {formula.targets[i] for i in formula.later[m.index][1:]}
            if key in later and _explained(m, tried, {key}, {key}):
                yield alone(key, m), {key}
                break


def _explained(
    mistake: Altered, tried: Sequence[Computed], known: set[str], looked: set[str] | None = None
) -> set[str]:
    """Return the outputs that a mistake explains in all cases; none if it would make a right output wrong.

    looked: the outputs that are looked at; all by default.
    """
    fit = set(known)
    for c in tried:
        its = c.outputs(mistake)
        for key in c.keys if looked is None else looked.intersection(c.keys):
            if key not in its:
                fit.discard(key)
            elif key in c.wrong:
                if key in fit and not c.same(its, key, c.got):
                    fit.discard(key)
            elif not c.same(its, key, c.expected):
                return set()
        if not fit:
            return set()
    return fit


def run(lines: Sequence[str], values: dict[str, Any]) -> Arrays:
    """Run the lines on these values; return the names that they assign."""
    found: Arrays = {}
    for line in lines:
        name = line.partition(" = ")[0]
        try:
            exec(_compiled(line), values)
            found[name] = values[name]
        except (ValueError, TypeError, IndexError, AttributeError, ArithmeticError):
            values[name] = None  # no such product or sum for these shapes, or the case lacks an input
    return found


def steps(lines: Sequence[str], case: Case) -> Arrays:
    """Return what an optimizer's lines give, step by step: "w0 after 1" and so on, and its state at the end."""
    p = case.params
    options = p["options"]
    found: Arrays = {}
    for i in range(p["count"]):
        name = f"layer.{i}.{'bias' if i else 'weight'}"
        values = inputs(case)
        spared = any(word in name for word in options.get("no_decay", ()))
        values.update(w=values[f"w{i}"], lam=0.0 if spared else options.get("weight_decay", DECAY[p["kind"]]))
        values.update(zip(("beta1", "beta2"), options.get("betas", (0.9, 0.999)), strict=True))
        values.update(eps=options.get("eps", 1e-8), mu=options.get("momentum", 0.0))
        values.update(
            dict.fromkeys(("m", "v", "velocity"), np.zeros_like(values["w"])),
            nesterov=float(options.get("nesterov", 0)),
        )
        for step in range(p["steps"]):
            rate = p["lr"]
            values.update(g=values[f"g{step}_{i}"], t=step + 1)
            values["lr"] = rate[min(step, len(rate) - 1)] if isinstance(rate, list) else rate
            if "w" in run(lines, values):
                found[f"w{i} after {step + 1}"] = values["w"]
        found.update({f"{slot} of {name}": values[slot] for slot in ("m", "v", "velocity")})
    return found


DECAY = {"SGD": 0.0, "AdamW": 0.01}


class _Zeros(dict[str, Any]):
    """Names: what is not there counts as 0."""

    def __missing__(self, name: str) -> Any:
        return 0.0

    def copy(self) -> _Zeros:
        """Return a copy that does the same."""
        return _Zeros(self)


def inputs(case: Case) -> _Zeros:
    """Return the names that a formula may use."""
    values = _Zeros(HELPERS)
    params = {**case.params, **dict(case.params.get("constants") or {})}
    values["params"] = params
    values.update({n: float(v) for n, v in params.items() if isinstance(v, (int, float))})
    values.update({n: x.astype(np.float64) if x.dtype.kind == "f" else x for n, x in case.arrays.items()})
    batch = next((len(x) for n, x in case.arrays.items() if n in ("x", "h", "q") and x.ndim), 1)
    values["top"] = lambda x: rows(x)[: max(1, len(rows(x)) // max(batch, 1))]
    name = params.get("activation")
    if isinstance(name, str):
        values["f"], values["df"] = (partial(_curve, name, part) for part in (0, 1))
    return values


def _curve(name: str, part: int, x: Any) -> Any:
    from minipeft.ops.activation import curve

    return curve(name)(np.array(x, dtype=np.float64))[part]


@lru_cache(maxsize=20_000)
def _compiled(line: str) -> CodeType:
    tree = _Turn().visit(ast.parse(line))
    return compile(ast.fix_missing_locations(tree), "<formula>", "exec")


class _Turn(ast.NodeTransformer):
    """x.T exchanges the last two axes."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if node.attr != "T":
            return node
        return ast.Call(ast.Name("turned", ast.Load()), [node.value], [])


def turned(x: Any) -> Any:
    """Return x with its last two axes exchanged."""
    return np.swapaxes(x, -1, -2) if np.ndim(x) > 1 else x


def rows(x: Any) -> Any:
    """Return x as a matrix of rows."""
    return np.reshape(x, (-1, np.shape(x)[-1])) if np.ndim(x) else x


def softmax(x: Any, axis: Any = -1) -> Any:
    """Return the softmax, zeros where all is -inf."""
    e = np.exp(x - np.maximum(x.max(axis=axis, keepdims=True), np.finfo(np.float64).min))
    return e / np.maximum(e.sum(axis=axis, keepdims=True), np.finfo(np.float64).tiny)


def _along(work: Callable[..., Any], axis: Any) -> Callable[[Any], Any]:
    return lambda x: work(x, axis=axis, keepdims=True)


HELPERS: dict[str, Any] = {
    "turned": turned, "rows": rows, "sqrt": np.sqrt, "exp": np.exp, "log": np.log, "tanh": np.tanh, "sign": np.sign,
    "batch": lambda x: rows(x).sum(axis=0), "batchmean": lambda x: rows(x).mean(axis=0),
    "first": lambda x: rows(x)[:1], "softmax": softmax, "first_softmax": lambda x: softmax(x, axis=-2),
    "all_softmax": lambda x: softmax(x, axis=None), "pi": np.pi,
    "first_block": lambda x: x[:1], "block_mean": lambda x: x.mean(axis=0, keepdims=True),
    **{f"{kind}{name}": _along(work, axis)
       for name, work in (("mean", np.mean), ("total", np.sum), ("amax", np.max))
       for kind, axis in (("", -1), ("first_", 0), ("all_", None))},
}  # fmt: skip
