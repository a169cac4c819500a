"""What a program may import, for workers that cannot read the folders of Python: they import it ahead."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from functools import cache

from autograder.homeworks.homework import ROOT

NUMPY_PARTS = ("random", "linalg", "fft", "polynomial", "ma", "strings", "char", "rec", "lib.stride_tricks", "testing")
PARTS = (  # of packages of the standard library that are not imported with them
    *("_strptime", "concurrent.futures.thread", "encodings.ascii", "encodings.latin_1", "importlib.metadata"),
    *("importlib.resources", "logging.handlers", "unittest.mock", "urllib.request", "xml.etree.ElementTree"),
)
APART = {  # what opens a window or prints, examples and tests
    *("antigravity", "distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "readline", "rlcompleter", "test"),
    *("this", "tkinter", "turtle", "turtledemo", "venv"),
}


@cache
def needed_modules() -> tuple[str, ...]:
    """Return the modules of Python and NumPy to import ahead, if the worker could not read them later.

    These are the whole standard library and NumPy's parts, since a submission may import any of it, and the names that
    the library imports from them.
    """
    public = {n for n in sys.stdlib_module_names - APART if not n.startswith("_")}
    names = {n for n in public if importlib.util.find_spec(n) is not None} | set(PARTS)
    for file in (*(ROOT / "minipeft").rglob("*.py"), *(ROOT / "autograder" / "homeworks").rglob("driver*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names.update(a.name for a in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.update(f"{node.module}:{a.name}" for a in node.names)
    standard = {n for n in names if re.split("[.:]", n)[0] in sys.stdlib_module_names}
    return tuple(sorted({*standard, *(f"numpy.{part}" for part in NUMPY_PARTS)}))
