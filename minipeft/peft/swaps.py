"""What is remembered of each adapter on a base model, so that everything can be taken back to the bit."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minipeft.autograd import Tensor
from minipeft.backend import to_numpy
from minipeft.nn.module import Module
from minipeft.peft.config import PeftConfig

DEFAULT = "default"


class Mergeable(Module):
    """A module that a plain layer can stand in for."""

    base: Any

    def merged(self) -> Module:
        """The plain layer that computes the same; the base's own arrays are not written."""
        raise NotImplementedError(f"{type(self).__name__} defines no merged")

    def merge_error(self) -> tuple[float, float]:
        """The largest error of the merged weight against the exact one, absolute and relative to the largest change."""
        raise NotImplementedError(f"{type(self).__name__} defines no merge_error")


@dataclass
class Swap:
    """One change: at ``key`` of ``owner``, at ``path`` of the model, stands ``new`` where the base has ``old``."""

    path: str
    owner: Any
    key: str | int
    old: Any
    new: Any

    def put(self, value: Any) -> None:
        if isinstance(self.owner, (list, dict)):
            self.owner[self.key] = value  # type: ignore[index]
        else:
            setattr(self.owner, str(self.key), value)


@dataclass
class Applied:
    """One method as it was applied: its configuration and its swaps, in their order."""

    config: PeftConfig
    swaps: list[Swap] = field(default_factory=list)

    def put_in(self) -> None:
        for s in self.swaps:
            s.put(s.new)

    def take_out(self) -> None:
        for s in reversed(self.swaps):
            s.put(s.old)


@dataclass
class Record:
    """What was done to a base model, kept out of the walk over its parameters."""

    trainable: list[tuple[Tensor, bool]]
    adapters: dict[str, Applied] = field(default_factory=dict)
    active: str = DEFAULT
    merged: Merged | None = None
    disabled: bool = False


@dataclass
class Merged:
    """What `unmerge_adapter` needs: the plain layers in place, the checksums of their weights, what was trainable."""

    layers: dict[str, Module]
    checksums: dict[str, int]
    trainable: list[Tensor]


@dataclass(frozen=True)
class MergeReport:
    """What merging cost in precision.

    layers: by path, the largest error of a weight, absolute and relative to the largest change of its matrix.
    output: the largest absolute change of an output, where a batch was given.
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
    """Return a checksum of each layer's weights, which tells whether they were changed."""
    sums = {}
    for path, layer in layers.items():
        arrays = (np.ascontiguousarray(to_numpy(p.data)) for p in layer.parameters())
        sums[path] = zlib.crc32(b"".join(zlib.crc32(x.data).to_bytes(4) for x in arrays))
    return sums
