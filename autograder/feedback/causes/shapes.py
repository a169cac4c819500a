"""Why an output has another shape than the right one."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np

from autograder.feedback.causes.wrong import TRANSPOSED, Cause, Wrong

BATCH = "over the batch"


def wrong_shape(w: Wrong) -> list[Cause]:
    """Why the shape is another: a transpose, a missing or unwanted sum, an axis too many."""
    e, g = w.expected, w.got
    surely = g.dtype.kind in "fiu" and np.isfinite(g).all()
    if surely:
        e, g = e.astype(np.float64), g.astype(np.float64)  # integers wrap around

    def told(kind: str, text: str, public: str = "", guess: bool = False) -> list[Cause]:
        mark = "?" if guess else "."
        return [Cause(kind, f"{w.name} {text}{public}{mark}", f"{w.name} {text}{mark}")]

    if e.ndim == g.ndim and sorted(e.shape) == sorted(g.shape) and e.ndim <= 4:
        for perm in permutations(range(e.ndim)):
            if tuple(e.shape[p] for p in perm) == g.shape and surely and w.same(g, e.transpose(perm)):
                return told("transpose", TRANSPOSED)
        return told("transpose", "has the shape of the transpose of what is expected")
    extra = g.ndim - e.ndim
    if extra >= 0 and surely and g.size and e.size:
        for k in range(1, g.ndim + 1):
            for axes in combinations(range(g.ndim), k):
                left = [n for axis, n in enumerate(g.shape) if axis not in axes]
                if [n for n in left if n > 1] != [n for n in e.shape if n > 1]:
                    continue
                if w.same(g.sum(axis=axes).reshape(e.shape), e):
                    which = ", ".join(map(str, axes))
                    text = f"is not summed over the axes along which the input was broadcast or {BATCH}"
                    return told("missing sum", text, f": axis {which} of what came")
    if not e.size or not g.size:
        return told("shape", "has a wrong shape")
    if g.size == e.size:
        return told("axis", "has the right number of entries in another shape: an axis too many, too few, or a reshape")
    if e.ndim > g.ndim and surely:
        for k in range(1, e.ndim + 1):
            for axes in combinations(range(e.ndim), k):
                for reduced, word in ((e.sum(axis=axes), "summed"), (e.mean(axis=axes), "averaged")):
                    if w.same(g, reduced):
                        return told("summed", f"is {word} over an axis that must stay", f", axis {axes[-1]}")
    for name, x in w.case.arrays.items():
        if x.shape == g.shape and x.ndim:
            return told("shape", f"has the shape of {name}", ", with something not summed" if g.size > e.size else "")
    if extra > 0 or (extra == 0 and all(a in (1, b) for a, b in zip(e.shape, g.shape))):
        return told("missing sum", f"has axes that must be summed: over a broadcast axis, or {BATCH}", guess=True)
    return told("shape", "has a wrong shape")
