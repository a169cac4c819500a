"""Copy values, and all that they refer to, between two processes that share no memory.

Both sides number the objects that they know of. A message has the states of objects that changed: an array is a view of
a memory, as it is here, so that layout and sharing are kept; an object's state replaces that of the same object there.
A tensor that was computed is a leaf on the other side or, among results, a node whose backward asks this side.
"""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from autograder.sandbox.frames import DTYPES, NAMES, Opaque
from autograder.sandbox.values import ProtocolError, attributes, name_of, named, number_type, owner_of, raw, shadows

PLAIN = (bool, int, float, str)
BUILTIN = {t.__name__: t for t in (*PLAIN, list, dict, tuple, set, object)}
INLINE: tuple[Any, ...] = (tuple, frozenset, slice, range, types.EllipsisType, np.dtype, np.generic, type)
MADE = ("minipeft.autograd:", "minipeft.nn.", "minipeft.peft.")  # modules with the classes that a model consists of
INLINE += (types.MethodType, types.GeneratorType)


class Handle:
    """An object of the other side. Calling it, and reading its attributes, asks the other side."""

    def __init__(self, remote: Any, number: int):
        vars(self).update(_remote=remote, _number=number)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._remote.ask({"handle": self._number}, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._remote.ask({"attribute": [self._number, name]})


class Copies:
    """The objects that two sides know of, and how they go from one to the other.

    Args:
        mp: the library of this side.
        first: 0 or 1: the numbers of objects that come from this side are even or odd.
        home: the beginning of the names of modules whose objects may be called from the other side; nothing else can
            be reached by a handle. None on the side of a submission, which may hand over anything.
        graphs: copy a computed tensor with its graph, node by node, for a submission that has an engine.
    """

    step: Any  # the Function of a tensor that was computed on the other side

    def __init__(self, mp: Any, first: int, home: str | None, graphs: bool = False):
        self.mp, self.first, self.home, self.graphs = mp, first, home, graphs
        self.forget()

    def forget(self) -> None:
        """Begin a new conversation, in which the sides have no object in common."""
        self._objects: dict[int, Any] = {}
        self._ids: dict[int, int] = {}
        self._memory: dict[int, np.ndarray] = {}
        self._owners: dict[int, int] = {}
        self._digests: dict[int, bytes] = {}
        self._known: dict[str, Any] = {}  # the states of objects, as they were sent or received
        self._handles: list[Any] = []
        self._handed: dict[int, int] = {}  # by id, the handles of functions
        self._shared: list[Any] = []  # what came during the call that is being answered
        self._results = False
        self._next = self.first
        self._names: set[str] = set()  # of classes and functions that this side has sent

    # Objects to messages

    def _packed(self, roots: list[Any], results: bool = False) -> dict[str, Any]:
        """Return the part of a message with values. results: tensors that were computed here are nodes there."""
        self._results = results
        if results and self.graphs:  # also what a node that was emptied no longer refers to
            kinds = (self.mp.Tensor, self.mp.autograd.Node)
            roots = [*roots, *(x for x in self._objects.values() if isinstance(x, kinds))]
        self._arrays: list[np.ndarray] = []
        self._todo: list[tuple[int, Any]] = []
        objects: dict[str, Any] = {}
        values = [self._value(x, objects) for x in roots]
        while self._todo:  # a graph may be deeper than functions may call one another
            number, x = self._todo.pop()
            objects[str(number)] = self._state(x, objects)
        changed = {n: x for n, x in objects.items() if isinstance(x, list) and self._known.get(n) != x}
        self._known.update({n: x for n, x in changed.items() if x[0] != "memory"})
        text = np.frombuffer(json.dumps([values, changed]).encode(), np.uint8)
        return {"text": text, "arrays": self._arrays}

    def _value(self, x: Any, objects: dict[str, Any]) -> Any:
        """Return ``x`` in a message: itself, or a list of a tag and more; what it refers to goes to ``objects``."""
        if x is None or type(x) in PLAIN:
            return x
        if isinstance(x, Handle):
            return ["theirs", vars(x)["_number"]]
        if isinstance(x, Opaque):
            return ["opaque", x.type]
        if isinstance(x, type) and issubclass(x, self.mp.Function) and not name_of(x):
            return ["object", self._object(x, objects)]
        if isinstance(x, INLINE) or (isinstance(x, types.FunctionType) and name_of(x)):
            return self._inline(x, objects)
        if isinstance(x, str):
            return str(x)
        known = isinstance(x, (np.ndarray, list, dict, set, np.random.Generator)) or name_of(type(x))
        if not known or (isinstance(x, self.mp.autograd.Node) and not self.graphs):
            return self._handle(x)
        return ["object", self._object(x, objects)]

    def _handle(self, x: Any) -> list[Any]:
        made = x.__self__ if isinstance(x, types.MethodType) else x
        module = made.__module__ if isinstance(made, types.FunctionType) else type(made).__module__
        if self.home is not None and not module.startswith(self.home):
            return ["opaque", type(x).__name__]
        if id(x) not in self._handed:
            self._handles.append(x)
            self._handed[id(x)] = len(self._handles) - 1
        return ["handle", self._handed[id(x)]]

    def _inline(self, x: Any, objects: dict[str, Any]) -> Any:
        def values(items: Iterable[Any]) -> list[Any]:
            return [self._value(v, objects) for v in items]

        if isinstance(x, tuple):
            return ["tuple", values(x)]
        if isinstance(x, frozenset):
            return ["frozenset", values(sorted(x, key=repr))]
        if isinstance(x, (slice, range)):
            return [type(x).__name__, values((x.start, x.stop, x.step))]
        if isinstance(x, types.EllipsisType):
            return ["ellipsis"]
        if isinstance(x, np.dtype):
            return ["dtype", x.str]
        if isinstance(x, np.generic):
            return ["scalar", x.dtype.str, x.item()]
        if isinstance(x, types.GeneratorType):
            return ["iterator", values(x)]
        if isinstance(x, types.MethodType):
            owner = self._value(x.__self__, objects) if self.home is not None else ["handle"]
            return self._handle(x) if owner[0] == "handle" else ["method", owner, x.__name__]
        if isinstance(x, type) and issubclass(x, np.generic):
            return ["numpy type", np.dtype(x).str]
        if x in BUILTIN.values():
            return ["builtin", x.__name__]
        if not name_of(x):
            return self._handle(x)
        self._names.add(name_of(x))
        return ["named", name_of(x)]

    def _named(self, name: str, made: bool = False) -> Any:
        """Return a class or function of the library. The other side may name only what this side has sent.

        made: of an instance, which the other side may have made, if it is a class that a model consists of.
        """
        if self.home is not None and name not in self._names and not (made and name.startswith(MADE)):
            raise ProtocolError(f"{name[:80]!r} was not sent")
        return named(name)

    def _id(self, x: Any) -> int:
        """Return the id of an object, a new one if it has none."""
        found = self._ids.get(id(x))
        if found is None:
            found, self._next = self._next, self._next + 2
            self._keep(found, x)
        return found

    def _keep(self, number: int, x: Any) -> None:
        self._objects[number], self._ids[id(x)] = x, number

    def _object(self, x: Any, objects: dict[str, Any]) -> int:
        """Put the state of an object, and of what it refers to, into ``objects``; return its id."""
        if isinstance(x, self.mp.Tensor) and x.node is not None and not self.graphs:  # another one in each message
            number = objects.setdefault(f"computed {id(x)}", self._next)
            if number == self._next:
                self._next += 2
                self._objects[number] = x
        else:
            number = self._id(x)
        if str(number) not in objects:
            objects[str(number)] = None
            if not isinstance(x, type) or str(number) not in self._known:  # a class stays as it was received
                self._todo.append((number, x))
        return number

    def _state(self, x: Any, objects: dict[str, Any]) -> list[Any]:
        def value(v: Any) -> Any:
            return self._value(v, objects)

        kind = self._kind(x)
        if kind[0] == "array":
            return self._array(x, objects)
        if kind[0] in ("list", "set"):
            return [*kind, [value(v) for v in x]]
        if kind[0] == "dict":
            return [*kind, [[value(k), value(v)] for k, v in x.items()]]
        if kind[0] == "rng":
            return [*kind, json.dumps(x.bit_generator.state, default=lambda a: a.tolist())]
        if kind[0] == "function":
            return [*kind, x.__name__, value(x.forward), value(x.backward)]
        if kind[0] == "tensor":
            parents = self._leaves(x) if x.node is not None and self._results else None
            return [*kind, value(x.data), bool(x.requires_grad), value(x.grad), parents]
        self._names.add(kind[1])
        return [*kind, [[name, value(v)] for name, v in attributes(x).items()]]

    def _kind(self, x: Any) -> list[str]:
        """Return how the state of an object begins: what it is and, for an instance, the name of its class."""
        if isinstance(x, (list, set)):
            return [type(x).__name__ if type(x) in (list, set) else "list"]
        kinds = {"array": np.ndarray, "dict": dict, "rng": np.random.Generator, "function": type}
        if not self.graphs:
            kinds["tensor"] = self.mp.Tensor
        kind = next((kind for kind, types in kinds.items() if isinstance(x, types)), "")
        return [kind] if kind else ["instance", name_of(type(x))]

    def _leaves(self, x: Any) -> list[int]:
        """Return the ids of the tensors of the other side that a computed tensor depends on."""
        found: set[int] = set()
        seen: set[int] = set()
        todo = [x.node]
        while todo:
            node = todo.pop()
            if node is None or id(node) in seen:
                continue
            seen.add(id(node))
            if isinstance(node, self.mp.Tensor):
                if id(node) in self._ids:
                    found.add(self._ids[id(node)])
            else:
                todo.extend(node.parents)
        return sorted(found)

    def _array(self, x: np.ndarray, objects: dict[str, Any]) -> list[Any]:
        if x.dtype.newbyteorder("<") not in NAMES:
            return ["opaque", f"array of {x.dtype}"]
        owner = owner_of(x)
        if not (owner.flags.c_contiguous or owner.flags.f_contiguous):
            owner = x = np.array(x, order="C", subok=False)
        number = self._owner(owner)
        if f"memory {number}" not in objects:
            digest = hashlib.blake2b(raw(owner).data, digest_size=16).digest()
            objects[f"memory {number}"] = None
            if self._digests.get(number) != digest:
                self._digests[number] = digest
                objects[f"memory {number}"] = ["memory", len(self._arrays)]
                self._arrays.append(raw(owner))
        start = x.__array_interface__["data"][0] - owner.__array_interface__["data"][0] if x.size else 0
        kind = NAMES[x.dtype.newbyteorder("<")]
        return ["array", number, start, list(x.shape), list(x.strides), kind, bool(x.flags.writeable)]

    # Messages to objects

    def _unpacked(self, message: Mapping[str, Any]) -> list[Any]:
        """Create or update every object of a message; return its roots."""
        try:
            values, objects = json.loads(np.asarray(message["text"], np.uint8).tobytes())
            self._known.update({n: x for n, x in objects.items() if x[0] != "memory"})
            for place, state in objects.items():
                if place.startswith("memory "):
                    self._receive_memory(int(place[7:]), message["arrays"][state[1]])
            states = {int(n): state for n, state in objects.items() if not n.startswith("memory ")}
            computed = []
            for number, state in states.items():
                known = number in self._objects and self._kind(self._objects[number])
                if known and known != state[: len(known)]:
                    raise ProtocolError("an object is of another kind here")
                if state[0] == "tensor" and state[4] is not None and number not in self._objects:
                    computed.append(number)
                elif number not in self._objects or state[0] == "array":
                    self._keep(number, self._shell(number, state))
            for number, state in states.items():
                if state[0] == "tensor" and number not in computed:
                    self._fill_tensor(self._objects[number], state)
            for number in computed:
                parents = [self._objects[i] for i in states[number][4]]
                self._keep(number, self.step.apply(number, states[number][4], self._read(states[number][1]), *parents))
            for number, state in states.items():
                self._fill(self._objects[number], state)
            return [self._read(v) for v in values]
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise ProtocolError(f"{type(error).__name__}: {error}") from None

    def _owner(self, owner: np.ndarray, number: int | None = None) -> int:
        """Return the number of a memory that both sides know, a new one if it has none."""
        if number is None and id(owner) in self._owners:
            return self._owners[id(owner)]
        if number is None:
            number, self._next = self._next, self._next + 2
        self._owners[id(owner)] = number
        self._memory[number] = owner
        return number

    def _receive_memory(self, number: int, data: Any) -> None:
        data = np.asarray(data, dtype=np.uint8).reshape(-1)
        self._digests[number] = hashlib.blake2b(data.data, digest_size=16).digest()
        if number not in self._memory:
            self._owner(owner_of(data), number)
            return
        there = raw(self._memory[number])
        if there.size != data.size:
            raise ProtocolError("the size of a memory changed")
        if there.flags.writeable:
            there[...] = data

    def _shell(self, number: int, state: list[Any]) -> Any:
        """Return a new object for a state, still without what it refers to; an array is whole."""
        kind = state[0]
        if kind == "array":
            _, memory, start, shape, strides, dtype, writeable = state
            there = self._objects.get(number)
            like = (tuple(shape), tuple(strides), DTYPES[dtype])
            if there is not None and (there.shape, there.strides, there.dtype) == like:
                return there
            made = np.ndarray(shape, DTYPES[dtype], raw(self._memory[memory]), start, strides)
            made.flags.writeable = bool(writeable)
            return made
        if kind in ("list", "set", "dict"):
            return {"list": list, "set": set, "dict": dict}[kind]()
        if kind == "opaque":
            return Opaque(str(state[1])[:80])
        if kind == "rng":
            return np.random.default_rng(0)
        if kind == "function":
            rules = {"forward": staticmethod(self._read(state[2])), "backward": staticmethod(self._read(state[3]))}
            return type(str(state[1])[:80], (self.mp.Function,), {**rules, "__module__": ""})
        cls = self.mp.Tensor if kind == "tensor" else self._named(state[1], made=True)
        if not isinstance(cls, type):
            raise ProtocolError("expected a class")
        return object.__new__(cls)

    def _fill_tensor(self, x: Any, state: list[Any]) -> None:
        data, grad = self._read(state[1]), self._read(state[3])
        if getattr(x, "node", None) is None:
            x.requires_grad, x.grad, x.node = bool(state[2]), grad, None
        x.data = data

    def _fill(self, x: Any, state: list[Any]) -> None:
        kind = state[0]
        if kind == "list":
            x[:] = [self._read(v) for v in state[1]]
        elif kind == "set":
            x.clear()
            x.update(self._read(v) for v in state[1])
        elif kind == "dict":
            pairs = [(self._read(k), self._read(v)) for k, v in state[1]]
            x.clear()
            x.update(pairs)
        elif kind == "rng":
            x.bit_generator.state = json.loads(state[1])
        elif kind == "instance":
            new = {str(name): self._read(v) for name, v in state[2]}
            if any(name.startswith("__") or not name.isidentifier() for name in new):
                raise ProtocolError("expected names of attributes")
            if self.home is not None and any(shadows(x, name, v) for name, v in new.items()):
                raise ProtocolError("expected attributes that hide no method")
            for name in attributes(x).keys() - new.keys():
                object.__delattr__(x, name)
            for name, v in new.items():
                object.__setattr__(x, name, v)

    def _read(self, v: Any) -> Any:
        """Return the value that stands in a message."""
        if not isinstance(v, list):
            return v
        tag, *rest = v
        if tag == "object":
            return self._objects[rest[0]]
        if tag in ("tuple", "frozenset"):
            return (tuple if tag == "tuple" else frozenset)(map(self._read, rest[0]))
        if tag in ("slice", "range"):
            return (slice if tag == "slice" else range)(*map(self._read, rest[0]))
        if tag == "iterator":
            items = [self._read(item) for item in rest[0]]
            self._shared.append(items)
            return iter(items)
        if tag in ("dtype", "numpy type"):
            return number_type(rest[0]) if tag == "dtype" else number_type(rest[0]).type
        if tag == "scalar":
            return number_type(rest[0]).type(rest[1])
        if tag == "builtin":
            return BUILTIN[rest[0]]
        if tag == "named":
            return self._named(rest[0])
        if tag == "method" and self.home is None:  # the trusted side looks nothing up that a submission names
            return getattr(self._read(rest[0]), rest[1])
        if tag == "handle":
            return Handle(self, rest[0])
        if tag == "theirs":
            return self._handles[rest[0]]
        if tag in ("ellipsis", "opaque"):
            return Ellipsis if tag == "ellipsis" else Opaque(str(rest[0])[:80])
        raise ProtocolError(f"no value {str(tag)[:20]!r}")
