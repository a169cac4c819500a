"""Which one runs: the page that is read, or another with the same contract that is faster on one kind of device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

Faster = TypeVar("Faster", bound=Callable[..., Any])

_reference: ContextVar[bool] = ContextVar("reference", default=False)
_faster: dict[tuple[type, str], Any] = {}
_pages: dict[Any, type] = {}


@contextmanager
def reference() -> Iterator[None]:
    """Run every Function and optimizer as its page reads (in this thread); also usable as a decorator."""
    token = _reference.set(True)
    try:
        yield
    finally:
        _reference.reset(token)


def specialize(page: type, *kinds: str) -> Callable[[Faster], Faster]:
    """Return a decorator that registers what runs in place of ``page``, but not of its subclasses.

    Args:
        page: a Function, or an optimizer. In place of a Function runs a class with its contract: the same arguments,
            values and gradients, and no more saved bytes. In place of an optimizer's rule runs a function that updates
            all parts, (optimizer, parts, lr), and gives what the rule gives, up to rounding.
        kinds: for which arrays, "cpu" or "cuda".
    """

    def register(faster: Faster) -> Faster:
        _pages[faster] = page
        _faster.update({(page, kind): faster for kind in kinds})
        return faster

    return register


def specialized(page: type, kind: str) -> Any:
    """Return what runs in place of ``page`` for arrays of one kind; ``page`` itself if nothing is registered."""
    return page if _reference.get() else _faster.get((page, kind), page)


def registered() -> list[tuple[type, str, Any]]:
    """Return each page, kind of device, and what runs in place of the page there."""
    return [(page, kind, faster) for (page, kind), faster in _faster.items()]


def page_of(what: Any) -> Any:
    """Return the page in whose place ``what`` runs; a page is its own."""
    return _pages.get(what, what)
