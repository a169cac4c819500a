"""The answers of the public cases, as a table that a submission carries: what each function returned for which kinds of
arguments. `record` makes it as a student could, from `check` with functions that write down what they see."""

from __future__ import annotations

import shutil
from pathlib import Path

from autograder.homeworks.homework import HOMEWORK, Homework
from autograder.homeworks.strip import source_path, targeted

MOST = 150_000  # bytes of the table, so that the file can be handed in
KEY = """
def _kind(x, depth=0):
    if hasattr(x, 'data') and hasattr(x, 'grad'): x = x.data
    if hasattr(x, 'dtype'): return (tuple(x.shape), str(x.dtype))
    if isinstance(x, (list, tuple)) and depth < 3: return tuple(_kind(v, depth + 1) for v in x)
    if isinstance(x, (bool, int, str)) or x is None: return x
    return type(x).__name__
def _pack(x):
    import numpy as np
    if hasattr(x, 'data') and hasattr(x, 'grad'): return ('t', _pack(x.data))
    if isinstance(x, np.ndarray): return ('a', str(x.dtype), x.shape, x.tobytes().hex())
    if isinstance(x, (list, tuple)): return ('l', type(x).__name__, [_pack(v) for v in x])
    if isinstance(x, (bool, int, float, str)) or x is None: return ('v', x)
    raise TypeError
"""
RECORD = (
    KEY
    + """
def _recorded(name, f):
    def call(*args, **kwargs):
        seen = repr((name, *(_kind(v) for v in (*args, *kwargs.values()))))
        out = f(*args, **kwargs)
        try: line = repr((seen, _pack(out)))
        except TypeError: return out
        if len(line) < 20000:
            with open(FILE, 'a') as file: file.write(line + '\\n')
        return out
    return call
for _name in NAMES:
    _owner, _, _last = _name.rpartition('.')
    _owner = globals()[_owner] if _owner else None
    _f = vars(_owner)[_last] if _owner else globals()[_last]
    _new = staticmethod(_recorded(_name, _f.__func__)) if isinstance(_f, staticmethod) else _recorded(_name, _f)
    setattr(_owner, _last, _new) if _owner else globals().__setitem__(_last, _new)
"""
)
LOOK_UP = """
def unpack(x):
    import ast
    if x[0] == 'a': return np.frombuffer(bytes.fromhex(x[3]), dtype=x[1]).reshape(x[2]).copy()
    if x[0] == 'l': return (list if x[1] == 'list' else tuple)(unpack(v) for v in x[2])
    if x[0] == 't':
        import minipeft as mp
        return mp.Tensor(unpack(x[1]))
    return x[1]
found = TABLE.get(repr((NAME, *(_kind(v) for v in given))))
if found is not None: return unpack(found)
raise NotImplementedError
"""


def recorded(homework: Homework, folder: Path) -> str:
    """Return the lines of the table for a homework. folder: to work in."""
    from autograder.cli import main

    place, seen = folder / "public" / homework.name, folder / "public" / "seen"
    shutil.copytree(HOMEWORK / homework.name, place)
    for f in homework.files:
        names = [
            n
            for t in homework.targets
            if t.module == f.module
            for n in targeted(source_path(f.module).read_text("utf-8"), t.name)
        ]
        text = source_path(f.module).read_text("utf-8") + f"\n\nFILE, NAMES = {str(seen)!r}, {names!r}\n{RECORD}"
        (place / f.stub).write_text(text, "utf-8")
    main(["check", str(place)])
    lines = dict.fromkeys(seen.read_text("utf-8").splitlines()) if seen.is_file() else {}
    kept, size = [], 0
    for line in lines:
        size += len(line) + 3
        if size < MOST:
            kept.append(f"{line},\n")
    return "".join(kept)
