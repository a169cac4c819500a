"""What hw8_few_shot is graded on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from autograder.homeworks.case import Case
from autograder.homeworks.draw import UNTOUCHED, Draw, problem

LETTERS = "abcdefgh ijklmnop"


def _word(draw: Draw, low: int, high: int) -> str:
    return "".join(LETTERS[i] for i in draw.integers(len(LETTERS), int(draw.integers(high, low=low))))


def _pattern(draw: Draw, n_labels: int, n_examples: int, braces: bool = False) -> dict[str, Any]:
    """A template, labels of different lengths, a separator, and examples."""
    labels = [f" {'xyz'[i]}{'w' * i}" for i in range(n_labels)]
    examples = [[_word(draw, 1, 9), int(draw.integers(n_labels))] for _ in range(n_examples)]
    if braces:
        examples[0][0] = "a {text} b"
    return {
        "template": f"{{word}} {_word(draw, 2, 5)}: {{text}}{{}}?" if braces else f"{_word(draw, 2, 5)}: {{text}}?",
        "labels": labels,
        "separator": "\n--\n",
        "examples": examples,
        "text": "{0} {text}" if braces else _word(draw, 3, 9),
    }


@problem("8.1")
def pattern(draw: Draw) -> Iterator[Case]:
    checks = {"question": "question", "answered": "answered", "demonstrations": "demonstrations"}
    for name, n_labels, n_examples, braces in (
        ("two labels", 2, 3, False),
        ("three labels", 3, 5, False),
        ("texts with braces", 2, 2, True),
    ):
        yield Case(name, "texts", {}, checks, _pattern(draw, n_labels, n_examples, braces))
    yield Case("no example", "texts", {}, {"demonstrations": "demonstrations"}, _pattern(draw, 2, 0))


@problem("8.2", again="a continuation of several tokens")
def continuation(draw: Draw) -> Iterator[Case]:
    checks = {"z": "scores", **UNTOUCHED}
    for name, start, scale, layouts in (
        ("a continuation of several tokens", 2, 1.5, {}),
        ("of one token, logits strided and read-only ids", 4, 1.5, {"logits": "strided", "ids": "readonly"}),
        ("from the second token on", 1, 1.5, {"logits": "fortran"}),
    ):
        B, T, V = 3, 5, 7
        arrays = {"logits": draw.normal(B, T, V, scale=scale), "ids": draw.integers(V, B, T)}
        yield Case(name, "continuation", arrays, checks, {"start": start}, layouts)
    B, T, V = 2, 4, 6
    large = {"logits": draw.normal(B, T, V, scale=700.0) + 900.0, "ids": draw.integers(V, B, T)}
    yield Case("logits near 1000", "continuation", large, {"z": "large logits"}, {"start": 1})
    wide = {"logits": draw.normal(8, 160, 900), "ids": draw.integers(900, 8, 160)}
    yield Case("many tokens, in little time", "continuation", wide, {"z": "scores"}, {"start": 20}, seconds=2.0)
    T = draw.sizes(1, 5, 12)[0]
    few = {"logits": draw.normal(2, T, 5), "ids": draw.integers(5, 2, T)}
    starts = draw.shuffled([0, T, -1, T + 1, 1, 2, T - 2, T - 1])  # half of them are starts, half are not
    yield Case("starts, and what is none", "refused", few, {"answers": "refuses a bad start"}, {"starts": starts})


@problem("8.3", again="with neutral scores")
def predict(draw: Draw) -> Iterator[Case]:
    checks = {"z": "likeliest", **UNTOUCHED}
    scores = draw.normal(11, 3)
    yield Case("without neutral scores", "predict", {"scores": scores}, checks, layouts={"scores": "readonly"})
    calibrated = {"z": "calibrated", **UNTOUCHED}
    arrays = {"scores": draw.normal(13, 4), "neutral": draw.normal(4, scale=2.0)}
    yield Case("with neutral scores", "predict", arrays, calibrated, layouts={"neutral": "readonly"})
    equal = draw.normal(9, 5)
    for row in equal:  # the largest score comes two or three times
        row[draw.rng.permutation(5)[: int(draw.integers(4, low=2))]] = row.max() + 0.5
    yield Case("labels that are equal", "predict", {"scores": equal}, {"z": "first of equal ones"})


def _model(draw: Draw, layout: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    sizes: dict[str, Any] = {"vocab_size": 23, "d_model": 12, "n_layers": 2, "n_heads": 3, "context": 96}
    if layout == "llama":
        sizes |= {"n_kv_heads": 1, "d_ff": 20}
    return {"weights": draw.normal(40_000, scale=0.3)}, {"layout": layout, "sizes": sizes}


def _ids(draw: Draw, n: int) -> list[int]:
    return [int(i) for i in draw.integers(23, n)]


@problem("8.4", again="labels of several tokens, gpt2")
def label_scores(draw: Draw) -> Iterator[Case]:
    for layout in ("gpt2", "llama"):
        for name, n_before, lengths, labels in (
            ("labels of one token", 9, (4, 2, 6), (1, 1, 1)),
            ("labels of several tokens", 7, (3, 5), (1, 3, 2)),
            ("no demonstrations", 0, (4, 3), (2, 1)),
        ):
            arrays, params = _model(draw, layout)
            params |= {
                "before": _ids(draw, n_before),
                "questions": [_ids(draw, n) for n in lengths],
                "labels": [_ids(draw, n) for n in labels],
                "most": 10**6,
            }
            checks = {"z": "scores", "again": "asked a second time", "changed model": "asked a second time"}
            yield Case(f"{name}, {layout}", "labels", arrays, checks, params)
    arrays, params = _model(draw, "gpt2")
    # Twice the demonstrations; each question once or once a label, with its label: three times what is needed at most.
    params |= {
        "before": _ids(draw, 60),
        "questions": [_ids(draw, 3) for _ in range(8)],
        "labels": [_ids(draw, 2) for _ in range(3)],
        "most": 2 * 60 + 9 * 3 * (3 + 2) + 20,
    }
    checks = {"few tokens read": "demonstrations read once", "z": "scores"}
    yield Case("long demonstrations", "labels", arrays, checks, params)
    arrays, params = _model(draw, "gpt2")
    fit, most = [_ids(draw, 3)], params["sizes"]["context"]
    tried = [
        [[], fit, fit],
        [_ids(draw, 4), [[1]], [[2], [3, 4]]],
        [_ids(draw, most - 9), fit, fit],
        [[], [*fit, []], fit],
        [_ids(draw, 2), fit, [*fit, []]],
        [_ids(draw, most), fit, fit],
        [[], [_ids(draw, most + 2), *fit], fit],
    ]
    params["tried"] = draw.shuffled(tried)  # three that fit, and four that do not
    yield Case("what fits, and what does not", "unfit", arrays, {"answers": "refuses what does not fit"}, params)


@problem("8.5")
def batch(draw: Draw) -> Iterator[Case]:
    checks = {"labels": "labels", "mask": "mask", "padding": "mask", "ids": "ids", "sorted names": "ids"}
    for name, n_labels, n_examples in (("two labels", 2, 4), ("three labels", 3, 6), ("one example", 2, 1)):
        yield Case(name, "batch", {}, checks, _pattern(draw, n_labels, n_examples))


@problem("8.6", again="groups of different size and spread")
def statistic(draw: Draw) -> Iterator[Case]:
    checks = {"t": "t", "nu": "degrees of freedom", **UNTOUCHED}
    for name, n, m, ratio, params in (
        ("groups of different size and spread", 5, 11, 4.0, {}),
        ("two values in a group", 2, 7, 0.5, {}),
        ("lists of numbers", 9, 4, 2.0, {"lists": True}),
    ):
        arrays = {"x": draw.normal(n), "y": draw.normal(m, scale=ratio) + draw.number(0.5, 2.0)}
        yield Case(name, "statistic", arrays, checks, params, {} if params else {"x": "strided", "y": "readonly"})
    far = {"x": 1e6 + draw.normal(6), "y": 1e6 + draw.number(1.0, 2.0) + draw.normal(8, scale=3.0)}
    yield Case("values near a million", "statistic", far, {"t": "t", "nu": "degrees of freedom"}, tol=1e-8)
    low, high = int(draw.integers(8)) / 16, int(draw.integers(16, low=9)) / 16  # so that their means are exact
    no = {"t": "no spread", "nu": "no spread"}
    for name, x, y in (("a lower mean", low, high), ("a higher mean", high, low), ("one mean", low, low)):
        flat = {"x": np.full(draw.sizes(1, 3, 9)[0], x), "y": np.full(draw.sizes(1, 3, 9)[0], y)}
        yield Case(f"no spread at all, {name}", "statistic", flat, no, exact=frozenset({"t"}))
    one = {"x": np.full(4, 0.5), "y": draw.normal(6)}
    other = {"x": one["y"], "y": one["x"]}
    yield Case("no spread in the first group", "statistic", one, no)
    yield Case("no spread in the second group", "statistic", other, no)
    sizes = draw.shuffled([[2, 2], [5, 2], [2, 3], [6, 7], [1, 5], [6, 1], [0, 4], [1, 1]])  # half of them are refused
    groups = {"x": draw.normal(7), "y": draw.normal(7)}
    yield Case("groups of few values", "small_groups", groups, {"answers": "refuses a single value"}, {"sizes": sizes})


@problem("8.7", again="many tests")
def holm(draw: Draw) -> Iterator[Case]:
    checks = {"z": "corrected", **UNTOUCHED}
    # 7 tests: the largest product exceeds 1, and two products fall below the one before them.
    p = np.array([0.0031, 0.2, 0.011, 0.0101, 0.9, 0.21, 0.6]) * draw.number(0.9, 1.05)
    yield Case("seven tests", "holm", {"p": p[draw.rng.permutation(7)]}, checks, layouts={"p": "readonly"})
    yield Case("many tests", "holm", {"p": draw.rng.random(40) ** 3}, checks)
    yield Case("all alike", "holm", {"p": np.full(5, 0.04)}, {"z": "corrected"})
    yield Case("one test", "holm", {"p": draw.rng.random(1)}, {"z": "corrected"})
    yield Case("no test", "holm", {"p": np.zeros(0)}, {"z": "corrected"})
    yield Case("zeros and ones", "holm", {"p": draw.rng.permutation([0.0, 0.0, 1.0, 1.0, 0.3])}, {"z": "corrected"})
