"""Merging: a plain layer in place of an adapted one, and what that costs in precision."""

from __future__ import annotations

import copy
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from minipeft.autograd import Tensor
from minipeft.backend import to_numpy
from minipeft.nn.module import Module


class Mergeable(Module):
    """An adapted layer that a plain layer can replace; ``base`` is the layer that it adapts."""

    base: Any

    def merged(self) -> Any:
        """Return the plain layer that computes the same; arrays of the base are not written."""
        raise NotImplementedError(f"{type(self).__name__} defines no merged")


def merge_error(layer: Mergeable, merged: Any) -> tuple[float, float]:
    """Return the largest error of the merged weight, absolute and relative to the largest change of the weight.

    The exact weight is what a copy of the layer in float64 merges to.
    """
    exact = copy.deepcopy(layer).to("cpu").to("float64")
    weight = exact.merged().weight.data
    error = float(np.abs(to_numpy(merged.weight.data) - weight).max())
    largest = float(np.abs(weight - exact.base.weight.data).max())
    return error, error / largest if largest else 0.0


@dataclass
class Merged:
    """What `unmerge_adapter` needs: the plain layers by path, their checksums, and what was trainable before."""

    layers: dict[str, Module]
    checksums: dict[str, int]
    trainable: list[Tensor]


@dataclass(frozen=True)
class MergeReport:
    """What merging cost in precision.

    layers: by path, the largest error of a weight, absolute and relative to the largest change of its matrix.
    output: the largest absolute change of an output, None if no batch was given.
    """

    layers: dict[str, tuple[float, float]]
    output: float | None

    @property
    def absolute(self) -> float:
        """The largest absolute error of a weight."""
        return max((a for a, _ in self.layers.values()), default=0.0)

    @property
    def relative(self) -> float:
        """The largest error of a weight relative to the largest change of its matrix."""
        return max((r for _, r in self.layers.values()), default=0.0)


def checksums(layers: dict[str, Module]) -> dict[str, int]:
    """Return a checksum of each layer's weights, which shows whether they were changed."""
    sums = {}
    for path, layer in layers.items():
        arrays = (np.ascontiguousarray(to_numpy(p.data)) for p in layer.parameters())
        sums[path] = zlib.crc32(b"".join(zlib.crc32(x.data).to_bytes(4) for x in arrays))
    return sums
