"""Why a training step trains nothing, as far as the model and the optimizer's parameters can tell."""

from __future__ import annotations

from collections.abc import Iterable

from minipeft.autograd import Tensor
from minipeft.nn.module import Module
from minipeft.peft.config import PeftError
from minipeft.peft.model import PeftModel

MAKE_IT_AFTER = "make the optimizer again, after the model has its final form"


def inactive(model: Module) -> str | None:
    """Return that an adapter in the model is merged or disabled, None if every one is in place."""
    for _, module in model.named_modules():
        if isinstance(module, PeftModel):
            try:
                module.check_active()
            except PeftError as error:
                return str(error)
    return None


def strangers(model: Module, params: Iterable[Tensor]) -> list[Tensor]:
    """Return those of ``params`` that belong neither to the model nor to an adapter of it that is not active."""
    held = {id(p) for p in model.parameters()}
    peft = [m for _, m in model.named_modules() if isinstance(m, PeftModel)]
    return [p for p in params if id(p) not in held and not any(m.origin(p) for m in peft)]


def why_nothing_trains(model: Module, params: Iterable[Tensor]) -> str:
    """Return why none of an optimizer's ``params`` received a gradient, and what to do about it."""
    params = list(params)
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    peft = next((m for _, m in model.named_modules() if isinstance(m, PeftModel)), None)
    owners = set() if peft is None else {peft.origin(p) for p in params}
    reason = inactive(model)
    if reason is not None:
        return reason
    if owners == {""}:
        return f"the optimizer was made before get_peft_model(), which froze its parameters; {MAKE_IT_AFTER}"
    if peft is not None and len(owners) == 1 and None not in owners and owners != {peft.active_adapter}:
        return (
            f"the optimizer's parameters are of the adapter {owners.pop()!r}, but {peft.active_adapter!r} is active; "
            f"call set_adapter, or {MAKE_IT_AFTER}"
        )
    if strangers(model, params):
        return (
            "the optimizer's parameters are not in this model: it was made before get_peft_model(), or for another "
            f"model; {MAKE_IT_AFTER}"
        )
    if not any(id(p) in trainable for p in params):
        return "the optimizer's parameters are frozen: requires_grad is False; unfreeze what is to be trained"
    return "the loss does not depend on the optimizer's parameters"
