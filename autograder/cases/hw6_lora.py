"""What hw6_lora is graded on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from autograder.cases import Case, Draw

FORWARD = {"z": "forward", "changed": "inputs untouched"}


def _linear(draw: Draw, name: str, needs: str, checks: dict[str, str], batch: tuple[int, ...], **kwargs: Any) -> Case:
    d, k, r = draw.sizes(3, 4, 9)
    arrays = {
        "x": draw.normal(*batch, k),
        "W": draw.normal(d, k),
        "b": draw.normal(d),
        "A": draw.normal(r, k),
        "B": draw.normal(d, r),
        "dz": draw.normal(*batch, d),
    }
    if checks is FORWARD:
        del arrays["dz"]
    params = {"scale": draw.number(1.5, 3.5), "needs": needs.split()}
    return Case(name, "lora_linear", arrays, checks, params, **kwargs)


def forward(draw: Draw) -> Iterator[Case]:
    """6.1"""
    yield _linear(draw, "matrix of rows", "A B", FORWARD, (3,))
    yield _linear(draw, "batch of sequences", "A B", FORWARD, (2, 3), layouts={"x": "readonly", "W": "fortran"})
    yield _linear(draw, "strided x", "", FORWARD, (4,), layouts={"x": "strided"})


def backward(draw: Draw) -> Iterator[Case]:
    """6.2"""
    grads = {"dx": "dx", "dA": "dA", "dB": "dB", "changed": "inputs untouched"}
    yield _linear(draw, "x, A and B trained", "x A B", grads, (2, 3), layouts={"dz": "readonly"})
    frozen = {"dW": "frozen costs nothing", "dx": "frozen costs nothing", "kept": "frozen costs nothing"}
    yield _linear(draw, "A and B alone", "A B", {**frozen, "dA": "dA", "dB": "dB"}, (5,))


PROBLEMS = {"6.1": forward, "6.2": backward}
