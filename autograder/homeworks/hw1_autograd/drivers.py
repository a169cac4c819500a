"""How the cases of hw1_autograd call what was written."""

from __future__ import annotations

from typing import Any

import numpy as np

from autograder.homeworks.driver import by_hand, error_of, module

__all__ = ["again", "apply", "apply_twice", "broken", "by_hand", "deep", "emptied", "leaf", "unbroadcast", "walk"]


def unbroadcast(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """unbroadcast(dz, shape)."""
    before = a["dz"].copy()
    dx = module(mp, "ops.arithmetic").unbroadcast(a["dz"], tuple(p["shape"]))
    return {"dx": dx, "changed": [] if np.array_equal(before, a["dz"]) else ["dz"]}


class Log:
    """What the toy Functions saw: the kinds of their arguments, ctx.needs_grad, their names as they were walked."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.needs: list[bool] = []
        self.walked: list[str] = []
        self.answer: Any = None  # what the Function that is wrong returns for dz
        self.kept: list[int] = []  # at each step, how many of the nodes visited before were not empty


def kind(x: Any) -> str:
    """ "array", "number" or the name of the type."""
    return "array" if isinstance(x, np.ndarray) else "number" if isinstance(x, (int, float)) else type(x).__name__


def toys(mp: Any) -> tuple[dict[str, Any], Log]:
    """Functions with rules of their own, so that the engine is tried without the library's operations; their log."""
    log = Log()

    def note(ctx: Any, args: tuple[Any, ...]) -> None:
        log.kinds = [kind(x) for x in args]
        log.needs = [bool(n) for n in ctx.needs_grad]

    class Product:
        @staticmethod
        def forward(ctx: Any, x: Any, y: Any) -> Any:
            note(ctx, (x, y))
            ctx.save(x, y)
            return x * y

        @staticmethod
        def backward(ctx: Any, dz: Any) -> Any:
            log.walked.append("Product")
            x, y = ctx.saved
            return dz * y if ctx.needs_grad[0] else None, dz * x if ctx.needs_grad[1] else None

    class Total:
        """x + y: both gradients lie in the memory of dz."""

        @staticmethod
        def forward(ctx: Any, x: Any, y: Any) -> Any:
            return x + y

        @staticmethod
        def backward(ctx: Any, dz: Any) -> Any:
            log.walked.append("Total")
            return dz, dz[...]

    class Twin:
        """3 (x + y): both gradients are one array."""

        @staticmethod
        def forward(ctx: Any, x: Any, y: Any) -> Any:
            return 3.0 * (x + y)

        @staticmethod
        def backward(ctx: Any, dz: Any) -> Any:
            log.walked.append("Twin")
            both = 3.0 * dz
            return both, both

    class Times:
        """c x for a number c. nodes: of the graph, to see which are empty when this one is visited."""

        @staticmethod
        def forward(ctx: Any, x: Any, c: Any, name: str = "Times", nodes: Any = ()) -> Any:
            note(ctx, (x, c))
            ctx.save(c, name, nodes)
            return c * x

        @staticmethod
        def backward(ctx: Any, dz: Any) -> Any:
            c, name, nodes = ctx.saved
            visited = nodes[len(nodes) - len(log.walked) :]
            log.kept.append(sum(node.ctx is not None or len(node.parents) > 0 for node in visited))
            log.walked.append(name)
            return c * dz, *[None] * (len(ctx.needs_grad) - 1)

    class Single:
        """x squared; its gradient comes alone, not in a tuple."""

        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, dz: Any) -> Any:
            log.walked.append("Single")
            return 2 * dz * ctx.saved[0]

    class Mixed:
        """The sum of x and y, whatever else there is among the arguments."""

        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            note(ctx, args)
            return args[0] + args[1]

        @staticmethod
        def backward(ctx: Any, dz: Any) -> Any:
            return [dz, dz[...], *[None] * (len(ctx.needs_grad) - 2)]

    class Entry:
        """The sum of all entries, a NumPy scalar; the gradient of its argument is one more."""

        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save(x.shape)
            return np.asarray(x.sum())

        @staticmethod
        def backward(ctx: Any, dz: Any) -> Any:
            return np.full(ctx.saved[0], dz)[()]

    class Double:
        """The identity, with a gradient in float64."""

        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x.copy()

        @staticmethod
        def backward(ctx: Any, dz: Any) -> Any:
            return (3.0 * dz.astype(np.float64),)

    class Wrong:
        """The identity, with whatever ``log.answer`` makes of dz as its gradients."""

        @staticmethod
        def forward(ctx: Any, x: Any, c: Any) -> Any:
            return x.copy()

        @staticmethod
        def backward(ctx: Any, dz: Any) -> Any:
            return log.answer(dz)

    rules: tuple[type, ...] = (Product, Total, Twin, Times, Single, Mixed, Entry, Double, Wrong)
    return {c.__name__: type(c.__name__, (c, mp.Function), {}) for c in rules}, log


def recorded(mp: Any, out: Any, *leaves: Any) -> dict[str, Any]:
    """What stands at an output: whether it requires a gradient, and its node's function, parents and shape."""
    node = out.node
    if node is None:
        return {"requires": bool(out.requires_grad), "node": None, "parents": None, "shape": None}
    parents = []
    for parent in node.parents:
        leaf = next((f"leaf {i}" for i, x in enumerate(leaves) if parent is x), "")
        computed = next((f"node of {i}" for i, x in enumerate(leaves) if x.node is not None and parent is x.node), "")
        parents.append("None" if parent is None else leaf or computed or type(parent).__name__)
    name = node.function.__name__ if isinstance(node.function, type) else kind(node.function)
    return {"requires": bool(out.requires_grad), "node": name, "parents": parents, "shape": list(node.shape)}


def apply(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """`Function.apply` on tensors x and y, a number and an array in a drawn order, trained or not, recorded or not."""
    F, log = toys(mp)
    x = mp.Tensor(a["x"], requires_grad="x" in p["needs"])
    y = mp.Tensor(a["y"], requires_grad="y" in p["needs"])
    given = (x, y, p["number"], a["raw"])
    args = tuple(given[i] for i in p["order"])
    if p["recording"]:
        out = F["Mixed"].apply(*args)
    else:
        with mp.no_grad():
            out = F["Mixed"].apply(*args)
    result = {"z": out.data, "kinds": log.kinds, "needs": log.needs, **recorded(mp, out, x, y)}
    result["type"] = type(out).__name__
    result["leaf"] = [x.node is None, y.node is None, bool(x.requires_grad), bool(y.requires_grad)]
    after = F["Product"].apply(x, y)  # recording goes on behind no_grad
    result["after"] = [after.node is not None, bool(after.requires_grad)]
    return result


def apply_twice(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """Pass computed tensors: their nodes are the parents and were created earlier; a frozen result is not a parent."""
    F, _ = toys(mp)
    x, y = mp.Tensor(a["x"], requires_grad=True), mp.Tensor(a["y"])
    u = F["Product"].apply(x, y)
    v = F["Times"].apply(y, 2.0)
    w = F["Product"].apply(u, v)
    same = F["Product"].apply(u, u)
    return {
        "z": w.data,
        "parents": recorded(mp, w, x, y, u, v)["parents"],
        "same": recorded(mp, same, x, y, u, v)["parents"],
        "frozen": recorded(mp, v)["node"],
        "ordered": bool(u.node.birth < w.node.birth < same.node.birth),
    }


def leaf(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """What a leaf's gradient is after one or two walks, and what became of the arrays it came from."""
    F, _ = toys(mp)
    x = mp.Tensor(a["x"], requires_grad=True)
    into: Any = {} if p.get("into") else None
    dz = a["dz"]
    before = dz.copy()
    for _ in range(p["times"]):
        if p["how"] == "itself":
            x.backward(dz, into)
        elif p["how"] == "entry":
            F["Entry"].apply(x).backward(dz, into)
        elif p["how"] == "double":
            F["Double"].apply(x).backward(dz, into)
        else:  # x and another leaf in one sum: both gradients lie in dz
            other = mp.Tensor(a["x"].copy(), requires_grad=True)
            F["Total"].apply(x, other).backward(dz, into)
            with_other = other.grad if into is None else into[other]
    g = x.grad if into is None else into.get(x)
    out: dict[str, Any] = {"dx": g, "array": isinstance(g, np.ndarray), "grad": None if into is None else x.grad}
    out["dtype"] = str(getattr(g, "dtype", None))
    out["shared"] = bool(isinstance(g, np.ndarray) and np.shares_memory(g, dz))
    if p["how"] == "sum":
        out["shared"] = out["shared"] or bool(np.shares_memory(g, with_other))
    out["changed"] = [] if np.array_equal(before, dz) else ["dz"]
    return out


def _build(F: dict[str, Any], graph: str, t: dict[str, Any]) -> Any:
    """The output of a small graph over tensors x, y, w."""
    x, y, w = t["x"], t["y"], t["w"]
    product, total, twin, times, single = (F[n].apply for n in ("Product", "Total", "Twin", "Times", "Single"))
    if graph == "chain":
        return times(single(times(x, 1.5)), -0.5)
    if graph == "square":  # one argument twice
        return product(x, x)
    if graph == "diamond":  # x reaches the end on two ways of different length
        u = product(x, y)
        return total(times(single(u), 0.5), product(u, w))
    if graph == "early":  # u is used by the end itself, and by what lies between
        u = product(x, y)
        v = single(u)
        return product(total(v, w), product(u, v))
    if graph == "alias":  # the gradients of u and v lie in one array, and u gets more
        u, v = times(x, 2.0), times(y, 3.0)
        s = total(u, v)
        return total(total(s, u), total(product(u, w), u))
    if graph == "twins":  # the gradients of two leaves are one array, and one of them gets more
        u = times(x, 2.0)
        return total(twin(x, y), u)
    if graph == "frozen":  # w asks for nothing
        return product(total(product(x, w), times(w, 2.0)), w)
    if graph == "doubling":  # 2^12 ways through 12 nodes
        u = x
        for _ in range(12):
            u = times(total(u, u), 0.5)
        return product(u, y)
    raise ValueError(graph)


def walk(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """A small graph walked back: gradients, how often each rule ran, and whether anything was written."""
    F, log = toys(mp)
    arrays = {n: a[n] for n in ("x", "y", "w", "dz")}
    before = {n: v.copy() for n, v in arrays.items()}
    t = {n: mp.Tensor(a[n], requires_grad=n in p["needs"]) for n in ("x", "y", "w")}
    z = _build(F, p["graph"], t)
    into: Any = {} if p.get("into") else None
    z.backward(a["dz"], into)
    out: dict[str, Any] = {"z": z.data, "walked": sorted(log.walked)}
    for n, x in t.items():
        out[f"d{n}"] = x.grad if into is None else into.get(x)
        out[f"own d{n}"] = None if into is None else x.grad
    out["changed"] = [n for n, v in arrays.items() if not np.array_equal(v, before[n])]
    return out


def emptied(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """A chain of four: what is left of its nodes after the walk, and which were empty before the next was visited."""
    F, log = toys(mp)
    x = mp.Tensor(a["x"], requires_grad=True)
    u, nodes = x, list[Any]()
    for name, c in zip(("first", "second", "third", "fourth"), p["factors"], strict=True):
        u = F["Times"].apply(u, c, name, nodes)
        nodes.append(u.node)
    u.backward(a["dz"])
    return {
        "dx": x.grad,
        "contexts": [node.ctx is None for node in nodes],
        "parents": [len(node.parents) for node in nodes],
        "kept": log.kept,
    }


def again(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """A second backward over the same graph, and over a part that another loss has walked already."""
    F, _ = toys(mp)
    x = mp.Tensor(a["x"], requires_grad=True)
    z = F["Single"].apply(x)
    z.backward(a["dz"])
    first = x.grad.copy()
    same = error_of(lambda: z.backward(a["dz"]))
    u = F["Single"].apply(x)
    left, right = F["Times"].apply(u, 2.0), F["Times"].apply(u, 3.0)
    left.backward(a["dz"])
    part = error_of(lambda: right.backward(a["dz"]))
    return {"dx": first, "same": same, "part": part}


def broken(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """A rule that returns the wrong number of gradients, a wrong shape, or None where one is needed."""
    F, log = toys(mp)
    answers = {
        "right": lambda dz: (2 * dz, None),
        "list": lambda dz: [2 * dz, None],
        "too few": lambda dz: (dz,),
        "too many": lambda dz: (dz, None, None),
        "alone": lambda dz: dz,
        "wrong shape": lambda dz: (dz[..., :1], None),
        "None": lambda dz: (None, None),
        "too much": lambda dz: (2 * dz, dz),
    }
    out: dict[str, Any] = {}
    for name, answer in answers.items():
        log.answer = answer
        x = mp.Tensor(a["x"], requires_grad=True)
        z = F["Wrong"].apply(x, 2.0)
        out[name] = error_of(lambda z=z: z.backward(a["dz"]))
        out[f"d {name}"] = x.grad
    return out


def deep(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """A chain of nodes, then nodes that all use its end, built by hand with a Function that no problem asks for."""
    Gate = module(mp, "ops.activation").Gate
    x = mp.Tensor(a["x"], requires_grad=True)

    def node(before: Any, other: Any, saved: tuple[Any, Any]) -> Any:
        ctx = mp.Context(True, other is not None, False)
        ctx.save(*saved)
        return mp.autograd.Node(Gate, ctx, [before, other, None], x.shape)

    end = x
    for factor in a["chain"]:
        end = node(end, None, (factor, None))
    used = end
    for factor, other in zip(a["first"], a["second"], strict=True):
        end = node(end, used, (factor, other))
    z = mp.Tensor(a["x"], requires_grad=True)
    z.node = end
    z.backward(a["dz"])
    return {"dx": x.grad}
