"""Stubs: the library's own modules with the bodies of the named functions taken out.

Everything else stays as it is, to the letter: the signature and the docstring are the problem's statement. `put_back`
is the other way: it gives named functions of a student's file the library's bodies, for prerequisites.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from autograder.homeworks.folder import homeworks, load_homework
from autograder.homeworks.homework import ROOT, Handout, Homework, HomeworkError, Target
from autograder.homeworks.preload import needed_modules

Span = tuple[int, int]  # lines [start, end) of a body without its docstring, counted from 0


def source_path(module: str, root: Path = ROOT) -> Path:
    """The file of a module below ``root``."""
    path = root.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@lru_cache(maxsize=128)
def functions(source: str) -> dict[str, ast.FunctionDef]:
    """Every function and method of a module by its qualified name (those inside functions left out)."""
    found: dict[str, ast.FunctionDef] = {}

    def walk(nodes: Iterable[ast.stmt], prefix: str) -> None:
        for node in nodes:
            if isinstance(node, ast.FunctionDef):
                found[prefix + node.name] = node
            elif isinstance(node, ast.ClassDef):
                walk(node.body, f"{prefix}{node.name}.")

    walk(ast.parse(source).body, "")
    return found


def targeted(source: str, name: str) -> list[str]:
    """The functions that ``name`` stands for: itself, or the methods of the class of that name."""
    known = functions(source)
    if name in known:
        return [name]
    methods = [n for n in known if n.startswith(f"{name}.")]
    if not methods:
        raise HomeworkError(f"there is no function or class {name!r}; the module has {', '.join(known)}")
    return methods


def body_span(node: ast.FunctionDef) -> Span:
    """The lines of the body behind the docstring."""
    body = node.body
    first = body[0]
    has_doc = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    start = first.end_lineno if has_doc else first.lineno - 1
    return int(start or 0), int(node.end_lineno or 0)


def replace_bodies(source: str, bodies: Mapping[str, str]) -> str:
    """``source`` with the body (behind the docstring) of each named function replaced by indented lines of text.

    Raises HomeworkError for a name that the source lacks.
    """
    known = functions(source)
    lines = re.findall(r"[^\n]*\n|[^\n]+$", source)  # a form feed ends no line of Python's, as splitlines has it
    for name, body in sorted(bodies.items(), key=lambda item: -_node(known, item[0]).lineno):
        node = _node(known, name)
        start, end = body_span(node)
        definition = lines[node.lineno - 1]
        indent = definition[: len(definition) - len(definition.lstrip(" \t\f"))] + "    "
        text = "".join(f"{indent}{line}".rstrip() + "\n" for line in body.strip("\n").split("\n"))
        lines[start:end] = [_head(lines, node), text]
    return "".join(lines)


def _head(lines: list[str], node: ast.FunctionDef) -> str:
    """What stands before the body in the body's first line: ``def f(x): return x``; usually nothing."""
    first = node.body[0]
    before = lines[first.lineno - 1].encode()[: first.col_offset].decode()
    if not before.strip():
        return ""
    start, _ = body_span(node)
    if start < first.lineno:  # no docstring: the line goes with the body
        return before.rstrip() + "\n"
    raise HomeworkError(f"line {first.lineno}: a docstring in the line of its function; put it into the next one")


def _node(known: Mapping[str, ast.FunctionDef], name: str) -> ast.FunctionDef:
    if name not in known:
        raise HomeworkError(f"there is no function {name!r}; the module has {', '.join(known)}")
    return known[name]


def strip(source: str, messages: Mapping[str, str]) -> str:
    """``source`` with each named function (or each method of a named class) raising NotImplementedError(message)."""
    bodies = {
        function: f"raise NotImplementedError({message!r})".replace("'", '"')
        for name, message in messages.items()
        for function in targeted(source, name)
    }
    return replace_bodies(source, bodies)


def put_back(source: str, reference: str, names: Iterable[str]) -> str:
    """A student's ``source`` with the bodies of the named functions out of the ``reference``."""
    known = functions(reference)
    lines = reference.splitlines()
    bodies = {}
    for name in (function for n in names for function in targeted(reference, n)):
        start, end = body_span(known[name])
        indent = known[name].col_offset + 4
        bodies[name] = "\n".join(line[indent:] for line in lines[start:end])
    return replace_bodies(source, bodies)


def messages(homework: Homework, module: str) -> dict[str, str]:
    """What each target of a module raises in the stub: ``hw6.2: LoRALinear.backward``."""
    number = homework.name.partition("_")[0]
    return {t.name: f"{number[:2]}{p.id}: {t.name}" for p in homework.problems for t in p.targets if t.module == module}


def stubs(homework: Homework) -> dict[str, str]:
    """The text of each stub file by its name."""
    return {f.stub: _without_answers(homework, f.module, source_path(f.module)) for f in homework.files}


def _without_answers(homework: Homework, module: str, path: Path) -> str:
    """The text of a module without the targets and what answers them."""
    hidden = {t.name: "not part of this handout" for t in homework.hide if t.module == module}
    text = strip(path.read_text("utf-8"), hidden | messages(homework, module))
    return replace_bodies(text, {t.name: body for t, body in homework.instead if t.module == module})


def drift(homework: Homework) -> list[str]:
    """The stub files of a homework's folder that are not what `stubs` gives (missing ones too)."""
    return [
        name
        for name, text in stubs(homework).items()
        if not (homework.folder / name).is_file() or (homework.folder / name).read_text("utf-8") != text
    ]


def write_stubs(homework: Homework) -> list[str]:
    """Write the stub files that are missing or have drifted into the homework's folder; their names."""
    texts = stubs(homework)
    changed = drift(homework)
    for name in changed:
        (homework.folder / name).write_text(texts[name], "utf-8", newline="\n")
    return changed


def main(names: list[str], check: bool = False, say: Callable[[str], None] = print) -> int:
    """``python -m autograder strip [--check] [NAMES]``: write the stubs of these homeworks, or of all.

    check: only say which have drifted. Returns 1 where some have and ``check`` is given, else 0.
    """
    found = False
    for name in names or homeworks():
        homework = load_homework(name)
        for file in drift(homework) if check else write_stubs(homework):
            found = True
            say(
                f"{homework.name}/{file} {'is not what the library gives; run without --check' if check else 'written'}"
            )
    if not found:
        say("every stub is what the library gives")
    return 1 if found and check else 0


# In place of the specializations: a student's page runs at every size on every device, and they hold its answers.
FAST = "minipeft.fast"
NO_FAST = '"""Faster classes for the operations are not part of a handout: each operation runs as its page reads."""\n'

# A backward is to be written, not asked of the engine: where only backwards run, there is none.
ENGINE, ENGINE_FILE = "minipeft.autograd", "minipeft/autograd.py"
NO_ENGINE = {"_walk": 'raise RuntimeError("a backward cannot ask the engine")'}


def handed_out(homework: Homework) -> dict[Path, str]:
    """Return the library without the answers, path below the root -> text: for students, and for workers."""
    found = {}
    for path in sorted((ROOT / "minipeft").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if module == FAST:
            found[path.relative_to(ROOT)] = NO_FAST
        elif not module.startswith(f"{FAST}."):
            found[path.relative_to(ROOT)] = _without_answers(homework, module, path)
    return found


@lru_cache(maxsize=2)
def handout(homework: Homework) -> Handout:
    """Return what the processes of a submission read."""
    blank = stubs(homework)
    library = {path.as_posix(): text for path, text in handed_out(homework).items()}
    modules = {f.module: blank[f.stub] for f in homework.files}
    backward = {} if ENGINE in modules else {ENGINE_FILE: replace_bodies(library[ENGINE_FILE], NO_ENGINE)}
    return Handout(homework, library, modules, backward, needed_modules)


def supplied(homework: Homework, module: str, names: set[Target]) -> list[str]:
    """The names in ``module`` of the targets that are supplied."""
    return [t.name for t in names if t.module == module]
