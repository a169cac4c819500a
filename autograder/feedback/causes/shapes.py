"""Explain why an output has a wrong shape."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np

from autograder.feedback.causes.wrong import Wrong
from autograder.feedback.words import Cause, Part
from autograder.grading.packed import SEARCHED

MOST_AXES = 6  # of such an array: each set of axes is tried


def wrong_shape(w: Wrong) -> list[Cause]:
    """Return why the shape is wrong: a transpose, a missing or unwanted sum, an extra axis.

    Only the shapes are compared, so a submission cannot cost time with a large array.
    """
    e, g = w.expected, w.got
    small = g.size <= max(SEARCHED, e.size) and g.ndim <= MOST_AXES
    surely = small and g.dtype.kind in "fiu" and bool(np.isfinite(g).all())
    if surely:
        e, g = e.astype(np.float64), g.astype(np.float64)  # integers wrap around
    if e.ndim == g.ndim and sorted(e.shape) == sorted(g.shape) and e.ndim <= 4:
        for perm in permutations(range(e.ndim)):
            if tuple(e.shape[p] for p in perm) == g.shape and surely and w.same(g, e.transpose(perm)):
                return [w.cause("transpose", Part.TRANSPOSE)]
        return [w.cause("transpose", Part.TRANSPOSED_SHAPE)]
    extra = g.ndim - e.ndim
    if extra >= 0 and surely and g.size and e.size:
        for k in range(1, g.ndim + 1):
            for axes in combinations(range(g.ndim), k):
                left = [n for axis, n in enumerate(g.shape) if axis not in axes]
                if [n for n in left if n > 1] != [n for n in e.shape if n > 1]:
                    continue
                if w.same(g.sum(axis=axes).reshape(e.shape), e):
                    public = f"{w.cause('', Part.NOT_SUMMED).text[:-1]}: axis {', '.join(map(str, axes))} of what came."
                    return [w.cause("missing sum", Part.NOT_SUMMED, public=public)]
    if not e.size or not g.size:
        return [w.cause("shape", Part.PLAIN_SHAPE)]
    if g.size == e.size:
        return [w.cause("axis", Part.OTHER_AXES)]
    if e.ndim > g.ndim and surely:
        for k in range(1, e.ndim + 1):
            for axes in combinations(range(e.ndim), k):
                for reduced, part in ((e.sum(axis=axes), Part.SUMMED), (e.mean(axis=axes), Part.AVERAGED)):
                    if w.same(g, reduced):
                        public = f"{w.cause('', part).text[:-1]}, axis {axes[-1]}."
                        return [w.cause("summed", part, public=public)]
    for name, x in w.case.arrays.items():
        if x.shape == g.shape and x.ndim:
            public = f"{w.name} has the shape of {name}, with something not summed." if g.size > e.size else ""
            return [w.cause("shape", Part.SHAPE_OF, names=(name,), public=public)]
    if extra > 0 or (extra == 0 and all(a in (1, b) for a, b in zip(e.shape, g.shape, strict=True))):
        return [w.cause("missing sum", Part.SUM_THEM)]
    return [w.cause("shape", Part.PLAIN_SHAPE)]
