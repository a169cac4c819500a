"""The arguments of a model's calls: lists become arrays, Hugging Face names minipeft's; unknown ones are an error."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np

from minipeft.hints import ARGUMENTS, OTHER_ARGUMENTS

P = ParamSpec("P")
R = TypeVar("R")


def takes_lists(function: Callable[P, R], translate: bool = True, note: str = "") -> Callable[P, R]:
    """Return ``function`` taking lists for arrays and, if ``translate``, Hugging Face's argument names.

    An unknown name raises a TypeError that lists the known ones. A loss does not translate, because labels may mean
    something else at Hugging Face; ``note`` says what they mean here.
    """
    parameters = signature(function).parameters
    known = [name for name in parameters if name != "self"]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not (takes_any or kwargs.keys() <= set(known)):
            kwargs = _translated(function.__qualname__, kwargs, known, translate, note)
        return function(*map(_array, args), **{name: _array(x) for name, x in kwargs.items()})

    return cast(Callable[P, R], call)


def _translated(function: str, kwargs: dict[str, Any], known: list[str], translate: bool, note: str) -> dict[str, Any]:
    names = {name: ARGUMENTS[name] for name in kwargs if name not in known and ARGUMENTS.get(name) in known}
    unknown = [name for name in kwargs if name not in known and (name not in names or not translate)]
    if unknown:
        name = unknown[0]
        answers = [f"{name} is called {names[name]} here", note] if name in names else [OTHER_ARGUMENTS.get(name)]
        hint = "".join(f"; {answer}" for answer in answers if answer)
        raise TypeError(f"{function} takes {', '.join(known)}, got {name!r}{hint}")
    twice = [name for name, own in names.items() if own in kwargs]
    if twice:
        raise TypeError(f"{function} got both {twice[0]} and {names[twice[0]]}, which are the same; give one")
    return {names.get(name, name): x for name, x in kwargs.items()}


def _array(x: Any) -> Any:
    """Return a list of numbers or rows as an array, anything else unchanged.

    Raises ValueError for rows that differ in length, TypeError for texts.
    """
    if not isinstance(x, list) or not x or not isinstance(x[0], (int, float, list, str, np.ndarray, np.generic)):
        return x
    if isinstance(x[0], str):
        raise TypeError(f"expected numbers, got a list of texts ({x[0]!r:.40}); encode them with the model's tokenizer")
    try:
        return np.asarray(x)
    except ValueError:
        lengths = sorted({len(row) if isinstance(row, list) else 1 for row in x})
        raise ValueError(
            f"expected rows of one length, got lengths {lengths}; "
            "pad them, and give a mask that is True for the real tokens"
        ) from None
