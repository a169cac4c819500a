"""What a docstring leaves open is accepted; what it states has a case."""

import ast
from collections.abc import Iterator

import numpy as np
import pytest

import minipeft as mp
from autograder.grading.reference import grade_sources, library_with, reference_library
from autograder.homeworks import driver
from autograder.homeworks.draw import AGAIN
from autograder.homeworks.folder import homeworks, load_homework
from autograder.homeworks.homework import Homework
from autograder.homeworks.strip import functions, handed_out, put_back, replace_bodies, source_path, stubs, targeted

X, W = np.arange(12.0).reshape(3, 4), np.arange(8.0).reshape(2, 4) ** 2


def kept(*values):
    ctx = mp.Context(True)
    ctx.save(*values)
    return driver.saved_by(ctx, {"x": X, "W": W})


def test_a_copy_counts_as_the_array_that_it_copies():
    assert kept(X[::2], np.ascontiguousarray(W.T)) == {"kept": ["W", "x"], "saved": 0}
    assert kept(np.ones(5), (3, None, "name", X.dtype)) == {"kept": [], "saved": 40}


def test_a_function_may_keep_everything():
    assert kept(lambda: X)["kept"] == ["W", "x"]


class Doubled(mp.Function):
    """z = 2 x"""

    last, seen = None, {}

    @staticmethod
    def forward(ctx, x):
        return 2.0 * x

    @staticmethod
    def backward(ctx, dz):
        return (2.0 * dz,)


class OnTheClass(Doubled):
    @staticmethod
    def forward(ctx, x):
        OnTheClass.last = x * x
        return x**3

    @staticmethod
    def backward(ctx, dz):
        return (3.0 * OnTheClass.last * dz,)


class ById(Doubled):
    @staticmethod
    def forward(ctx, x):
        return ById.seen.setdefault(id(x), (x, 2.0 * x))[1]


def several_calls(F, monkeypatch):
    def call(mp, a, p):
        return driver.function(mp, F, "x", (a["x"],), ["x"], a["dz"])

    monkeypatch.setitem(driver.__dict__, "call", call)
    out = driver.twice(mp, {"x": X.copy(), "dz": X + 1.0}, {"of": "call", "homework": "hw2_transformer"})
    return {n: np.asarray(x) for n, x in out.items() if n.endswith(("z", "dx"))}


def test_several_calls_agree_with_single_ones(monkeypatch):
    out = several_calls(Doubled, monkeypatch)
    assert np.array_equal(out["dx"], 2.0 * (X + 1.0))
    assert np.array_equal(out["second z"], 2.0 * np.flip(X))
    assert np.array_equal(out["again z"], out["second z"])


def test_state_on_a_class_and_results_kept_by_id_are_seen(monkeypatch):
    assert not np.array_equal(several_calls(OnTheClass, monkeypatch)["dx"], 3.0 * X * X * (X + 1.0))
    assert not np.array_equal(several_calls(ById, monkeypatch)["again z"], 2.0 * np.flip(X))


def test_a_gradient_is_neither_an_input_nor_the_output():
    z = X * 2.0
    assert driver.written_with([z, None], X, {"x": W, "z": z}) == ["z, by returning it"]
    assert driver.written_with([X[:1], W + 1.0], X, {"x": W, "dz": X}) == []


@pytest.mark.parametrize("name", homeworks())
def test_most_problems_are_called_several_times(name):
    from autograder.homeworks.draw import cases

    problems = load_homework(name).problems
    with_calls = [p.id for p in problems if any(AGAIN in c.checks.values() for c in cases(name, p.id, 0))]
    assert name == "hw1_autograd" or len(with_calls) >= len(problems) // 2 - 1


def without(homework: Homework) -> Iterator[tuple[str, str, str, str]]:
    """Each module of targets with one `raise` taken out, or with a plain ValueError in its place."""
    for problem in homework.problems:
        for target in problem.targets:
            source = source_path(target.module).read_text("utf-8")
            lines = source.splitlines(keepends=True)
            for name in targeted(source, target.name):
                for node in ast.walk(functions(source)[name]):
                    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                        indent = lines[node.lineno - 1][: node.col_offset]
                        others = [] if ast.unparse(node.exc.func) == "ValueError" else ["raise ValueError()"]
                        for other in ["pass", *others]:
                            parts = [*lines[: node.lineno - 1], f"{indent}{other}\n", *lines[node.end_lineno :]]
                            yield problem.id, target.module, "".join(parts), ast.unparse(node.exc)


# The model refuses more tokens than its context with the same error.
EQUIVALENT = ("label_scores: the prompt needs",)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in homeworks() if n != "hw1_autograd"])
def test_each_refusal_has_a_case(name):
    homework = load_homework(name)
    survivors = [
        text
        for problem, module, source, text in without(homework)
        if grade_sources(homework, {module: source}, 5, [problem])[problem].share == 1.0
        and not any(words in text for words in EQUIVALENT)
    ]
    assert not survivors


def test_the_attention_of_the_prefix_homework_is_that_of_the_library():
    homework, module = load_homework("hw4_prefix"), "minipeft.ops.attention"
    text = put_back(stubs(homework)["ops_attention.py"], source_path(module).read_text("utf-8"), ["mask_bias"])
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((2, heads, n, 3)) for heads, n in ((4, 3), (2, 5), (2, 5))]
    mask, dz = np.arange(5) < np.array([[3], [5]]), rng.standard_normal((2, 4, 3, 3))

    def results(library):
        with library.active() as copy:
            tensors = [copy.Tensor(x, requires_grad=True) for x in arrays]
            z = copy.ops.attention(*tensors, mask=mask, causal=True)
            z.backward(dz)
            return [z.data, *(t.grad for t in tensors)]

    for a, b in zip(results(library_with({module: text})), results(reference_library()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def alternatives(homework: Homework) -> Iterator[tuple[str, dict[str, str]]]:
    """For each problem, functions of the handed-out library that take the same arguments, as bodies of its targets."""
    texts = {".".join(p.with_suffix("").parts).removesuffix(".__init__"): t for p, t in handed_out(homework).items()}
    others = {str(target) for target, _ in homework.instead}  # as empty as stubs
    written = {
        module: {
            n: f
            for n, f in functions(text).items()
            if "raise NotImplementedError" not in ast.unparse(f.body[-1]) and f"{module}:{n}" not in others
        }
        for module, text in texts.items()
    }

    def kinds(function: ast.FunctionDef) -> list[str]:
        return [ast.unparse(a.annotation) if a.annotation else "" for a in function.args.args]

    def call(module: str, name: str, mine: ast.FunctionDef) -> str:
        given = ", ".join(a.arg for a in mine.args.args)
        return f"from importlib import import_module\nreturn import_module({module!r}).{name}({given})"

    for problem in homework.problems:
        for target in problem.targets:
            mine = functions(source_path(target.module).read_text("utf-8")).get(target.name)
            if mine is None or (mine.args.args and mine.args.args[0].arg == "self"):
                continue
            halves = [target.name.replace(".forward", f".{h}") for h in ("forward", "backward")]
            for module, found in written.items():
                for name, other in found.items():
                    if (module, name) == (target.module, target.name):
                        continue
                    same = len(other.args.args) == len(mine.args.args)
                    pair = [name.replace(".forward", f".{h}") for h in ("forward", "backward")]
                    if (
                        same
                        and target.name.endswith(".forward")
                        and name.endswith(".forward")
                        and set(pair) <= set(found)
                    ):
                        own = functions(source_path(target.module).read_text("utf-8"))
                        bodies = {h: call(module, p, own[h]) for h, p in zip(halves, pair, strict=True)}
                        yield problem.id, {target.module: bodies}
                    elif kinds(other) == kinds(mine) and "." not in target.name and "." not in name:
                        yield problem.id, {target.module: {target.name: call(module, name, mine)}}


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in homeworks() if n != "hw1_autograd"])
def test_no_function_of_a_handed_out_library_answers_a_problem(name):
    homework = load_homework(name)
    answers = []
    for problem, bodies in alternatives(homework):

        def share(module: str, own: dict[str, str], problem: str = problem) -> float:
            source = replace_bodies(source_path(module).read_text("utf-8"), own)
            return grade_sources(homework, {module: source}, 5, [problem])[problem].share

        for module, own in bodies.items():
            empty = share(module, dict.fromkeys(own, "raise NotImplementedError"))
            if share(module, own) > (1.0 + empty) / 2:
                answers.append((problem, own))
    assert not answers
