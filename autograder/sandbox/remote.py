"""Call functions across two processes that share no memory: the trusted worker and the process of a submission.

The trusted worker runs drivers and the library. When they call a function of the submission, the call goes to the
submission's process. Arguments are copied there with everything that they refer to, and afterwards all changes are
copied back into the same objects. Arrays keep their layout and the memory that they share. A tensor computed on the
other side is a node of the graph here, and its backward is a call as well. An object that cannot be copied, such as a
function of a driver, is passed as a handle: calling it is a call back.

Both sides alternate: each message is answered by one message, a question or the result.
"""

from __future__ import annotations

import builtins
import functools
import sys
import types
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from autograder.sandbox.copies import Copies
from autograder.sandbox.values import ProtocolError, named

ENGINE = "minipeft.autograd"  # a submission that has this module is sent graphs


class Remote(Copies):
    """One side of a conversation. `ask` calls the other side; `answer` serves its call.

    Args:
        exchange: sends a message and returns the next one from the other side.
        mp: the library of this side.
        first: 0 or 1: the ids of objects that come from this side are even or odd.
        home, graphs: see `Copies`.
        function: returns the function that the other side may call by a name; raises LookupError for any other.
        describe: an exception as plain values.
    """

    def __init__(
        self,
        exchange: Callable[[dict[str, Any]], Any],
        mp: Any,
        first: int,
        home: str | None,
        function: Callable[[str], Callable[..., Any]],
        describe: Callable[[BaseException], dict[str, Any]],
        graphs: bool = False,
    ):
        super().__init__(mp, first, home, graphs)
        self.exchange, self.function, self.describe = exchange, function, describe
        self.step = _step(mp, self)

    def ask(self, what: Mapping[str, Any], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """Call the other side and return the result. Raises what was raised there."""
        roots = [args, dict(kwargs or {}), self.mp.nn.layers.current_stream()]
        gradient = str(what.get("call", "")).endswith(
            ".backward"
        )  # it computes with arrays and does not ask the engine
        recording = not gradient and bool(self.mp.autograd._recording.get())
        message = self.exchange({**what, **self._packed(roots), "recording": recording})
        while isinstance(message, dict) and "done" not in message:
            message = self.exchange(self.answer(message))
        if not isinstance(message, dict):
            raise ProtocolError("expected a dict")
        if "raised" in message:
            raise _exception(message["raised"])
        result = self._unpacked(message)[0]
        self._shared.append(result)
        self.mp.backend.flops.add(_natural(message.get("flops")))
        return result

    def answer(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Do what a message of the other side asks for; return the message with the result."""
        around_it, self._shared = self._shared, []
        try:
            args, kwargs, stream = self._unpacked(message)[:3]
            with ExitStack() as around:
                flops = around.enter_context(self.mp.accounting.count_flops())
                if not message.get("recording", True):
                    around.enter_context(self.mp.no_grad())
                if stream is not None:
                    around.enter_context(self.mp.nn.random_stream(stream))
                result = self._called(message, args, kwargs)
            roots = [result, args, kwargs, stream, *self._shared]
            return {"done": True, "flops": flops.total, **self._packed(roots, results=True)}
        except Exception as error:
            return {"done": True, "raised": self.describe(error)}
        finally:
            self._shared = around_it

    def _called(self, message: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if "call" in message:
            return self.function(str(message["call"]))(*args, **kwargs)
        if "handle" in message:
            return self._handles[message["handle"]](*args, **kwargs)
        if "attribute" in message:
            number, name = message["attribute"]
            handed = self._handles[number]
            if name.startswith("__") or isinstance(handed, (types.FunctionType, types.MethodType)):
                raise ProtocolError("no such attribute")
            return getattr(handed, name)
        tensor, *parents = (self._objects[i] for i in (message["backward"], *message["parents"]))
        if not all(isinstance(x, self.mp.Tensor) for x in (tensor, *parents)):
            raise ProtocolError("expected tensors")
        into: dict[Any, Any] = {}
        tensor.backward(args[0], into)
        return [into.get(parent) for parent in parents]


def _natural(x: Any) -> int:
    return x if type(x) is int and x > 0 else 0


def _step(mp: Any, remote: Remote) -> Any:
    """Return the Function of a tensor that was computed on the other side."""

    class Computed(mp.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, number: int, parents: list[int], value: Any, *tensors: Any) -> Any:
            ctx.save(number, parents)
            return value

        @staticmethod
        def backward(ctx: Any, dz: Any) -> Any:
            number, parents = ctx.saved
            return None, None, None, *remote.ask({"backward": number, "parents": parents}, (dz,))

    return Computed


def replaced(name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Callable[[], None]:
    """Replace a function of the library by ``make(function)``, wherever it is referred to; return what undoes it.

    The function stays and gets another code, so tables and modules that hold it call the replacement, too.
    """
    module, _, path = name.partition(":")
    owner: Any = functools.reduce(getattr, path.split(".")[:-1], sys.modules[module])
    last = path.rpartition(".")[2]
    held = vars(owner)[last]
    function = held.__func__ if isinstance(held, (staticmethod, classmethod)) else held
    if not isinstance(function, types.FunctionType):  # a submission may have any callable there
        setattr(owner, last, make(function))
        return lambda: setattr(owner, last, held)
    code = function.__code__
    own = types.FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    own.__kwdefaults__ = function.__kwdefaults__
    constants = tuple(make(own) if c == PASSED_ON else c for c in _pass_on.__code__.co_consts)
    function.__code__ = _pass_on.__code__.replace(co_consts=constants, co_freevars=code.co_freevars)

    def undo() -> None:
        function.__code__ = code

    return undo


PASSED_ON = "what is called"


def _pass_on(*args: Any, **kwargs: Any) -> Any:
    called: Any = "what is called"  # `replaced` puts a function in the place of this constant
    return called(*args, **kwargs)


def _exception(said: Any) -> Exception:
    """Return the exception that the other side raised, of the same type if that is Python's or the library's."""
    said = said if isinstance(said, dict) else {}
    text, name = str(said.get("message", "")), str(said.get("class") or "")
    error: Any = None
    try:
        kind = named(name) if name else vars(builtins).get(str(said.get("type", "")))
        error = kind(text) if isinstance(kind, type) and issubclass(kind, Exception) else None
    except (ProtocolError, AttributeError, TypeError):  # a type of its own, or one that is made of more than a text
        error = None
    made: Exception = error if isinstance(error, Exception) else RuntimeError(text)
    made.said = said  # type: ignore[attr-defined]
    return made
