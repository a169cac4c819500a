"""What is remembered of each adapter on a base model, so that everything can be taken back to the bit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from minipeft.autograd import Tensor
from minipeft.peft.config import PeftConfig
from minipeft.peft.merge import Merged

DEFAULT = "default"


@dataclass
class Swap:
    """One change: ``new`` replaces ``old`` at ``key`` of ``owner``, which is at ``path`` of the model."""

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
    """A method as it was applied: its configuration and its swaps, in order."""

    config: PeftConfig
    swaps: list[Swap] = field(default_factory=list)

    def attach(self) -> None:
        for s in self.swaps:
            s.put(s.new)

    def detach(self) -> None:
        for s in reversed(self.swaps):
            s.put(s.old)


@dataclass
class AdapterState:
    """The adapters of a base model, and which of its parameters were trainable before; not among its parameters."""

    trainable: list[tuple[Tensor, bool]]
    adapters: dict[str, Applied] = field(default_factory=dict)
    active: str = DEFAULT
    merged: Merged | None = None
    disabled: bool = False
