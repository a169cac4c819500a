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
