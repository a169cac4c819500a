"""Which modules a method is put on."""

from __future__ import annotations

import re
from collections.abc import Sequence

from minipeft.files.names import close_to
from minipeft.nn.layers import Linear
from minipeft.nn.module import Module
from minipeft.peft.config import PeftError


def heads(model: Module, names: Sequence[str] | None) -> list[str]:
    """The modules trained in full: those named, or the classification head where nothing is said."""
    if names is None:
        return [path for path, _ in model.named_modules() if path.rpartition(".")[2] == "classifier"]
    return match_modules(model, list(names), Module, "modules_to_save") if names else []


def match_modules(
    model: Module,
    targets: Sequence[str] | str,
    kind: type[Module] | tuple[type[Module], ...] = Linear,
    option: str = "target_modules",
    layers: Sequence[int] | int | None = None,
    exclude: Sequence[str] | str | None = None,
) -> list[str]:
    """Return the paths of the model's modules of ``kind`` that ``targets`` choose, as `match_paths` does."""
    called = kind.__name__ if isinstance(kind, type) else " or ".join(k.__name__ for k in kind)
    paths = [path for path, module in model.named_modules() if path and isinstance(module, kind)]
    return match_paths(paths, targets, option, layers, exclude, called)


def match_paths(
    paths: Sequence[str],
    targets: Sequence[str] | str,
    option: str = "target_modules",
    layers: Sequence[int] | int | None = None,
    exclude: Sequence[str] | str | None = None,
    called: str = "module",
) -> list[str]:
    """Return the paths that ``targets`` choose.

    Args:
        paths: paths of modules.
        targets: a list of full paths or their ends ("q_proj", "attention.q_proj"); a string is a regular expression for
            the full path, or "all-linear" for every linear layer inside the Transformer layers.
        option: the name of the option that holds the targets, for messages.
        layers: only these layer indices, or this one.
        exclude: what is left out, in the form of ``targets``.
        called: what the modules are, for messages.

    Raises:
        PeftError: an entry matches nothing; the message names close matches.
    """
    if isinstance(targets, str):
        if targets == "all-linear":
            chosen = [p for p in paths if layer_index(p) is not None]
        else:
            try:
                pattern = re.compile(targets)
            except re.error as error:
                raise PeftError(f"{option}: {targets!r} is not a regular expression ({error})") from None
            chosen = [p for p in paths if pattern.fullmatch(p)]
        if not chosen:
            raise PeftError(f"{option}: {targets!r} matches no {called}; there are: {_listed(paths)}")
    else:
        if not targets:
            raise PeftError(f"{option} is empty; name modules, for example {_listed(paths)}")
        wanted = set()
        for t in targets:
            found = {p for p in paths if is_end(t, p)}
            if not found:
                ends = sorted({p.rpartition(".")[2] for p in paths})
                guess = close_to(t, [*ends, *paths]) or f"; there are: {_listed(paths)}"
                raise PeftError(f"{option}: {t!r} matches no {called}{guess}")
            wanted |= found
        chosen = [p for p in paths if p in wanted]
    if exclude is not None:
        left_out = set(match_paths(paths, exclude, "exclude_modules", called=called))
        chosen = [p for p in chosen if p not in left_out]
        if not chosen:
            raise PeftError(f"exclude_modules: {exclude!r} leaves nothing of {option} {targets!r}")
    if layers is None:
        return chosen
    if isinstance(layers, int):
        layers = [layers]
    there = sorted({i for p in chosen if (i := layer_index(p)) is not None})
    absent = sorted(set(layers) - set(there))
    if absent or not layers:
        raise PeftError(f"layers_to_transform: {absent or list(layers)} chooses no layer; the targets are in {there}")
    return [p for p in chosen if layer_index(p) in set(layers)]


def is_end(name: str, path: str) -> bool:
    """Return whether ``name`` is the path or the last parts of it."""
    return path == name or path.endswith("." + name)


def ends_in(pattern: str, path: str) -> bool:
    """Return whether the path, or what follows one of its dots, is the regular expression ``pattern``.

    Raises PeftError for a pattern that is not a regular expression.
    """
    try:
        return re.fullmatch(rf"(.*\.)?({pattern})", path) is not None
    except re.error as error:
        raise PeftError(f"{pattern!r} is not a regular expression ({error})") from None


def layer_index(path: str) -> int | None:
    """The first numbered segment of a path: 3 for "stack.layers.3.attention"."""
    return next((int(part) for part in path.split(".") if part.isdigit()), None)


def _listed(paths: Sequence[str]) -> str:
    ends = sorted({p if p.rpartition(".")[2].isdigit() else p.rpartition(".")[2] for p in paths})
    return ", ".join(ends[:12]) or "none of that kind"


def on_sides(paths: Sequence[str], sides: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """Of the paths of an encoder-decoder's modules, those on ``sides``; all of them for None.

    sides: of ``known``: "encoder", "decoder", and "cross" for the attention from decoder to encoder.
    Raises PeftError for another side, or for a side of a model that has only one.
    """
    if sides is None:
        return list(paths)
    odd = [s for s in sides if s not in known]
    if odd or not sides:
        raise PeftError(f"sides holds some of {', '.join(known)}, or is None for all; got {list(sides)}")
    chosen = [p for p in paths if side_of(p) in sides]
    missing = [s for s in sides if s not in map(side_of, paths)]
    if missing:
        raise PeftError(f"sides: this model has no side {missing[0]!r}; they are an encoder-decoder's")
    return chosen


def side_of(path: str) -> str:
    """Where a module of an encoder-decoder stands; "" in a model of one side."""
    if "cross_attention" in path:
        return "cross"
    return next((side for side in ("encoder", "decoder") if path.startswith(side)), "")
