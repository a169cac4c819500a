"""The house: a file imports only from floors below its own."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "minipeft"
FLOORS = {
    "array": 0,
    **dict.fromkeys(("autograd", "gradcheck"), 1),
    "ops": 2,
    **dict.fromkeys(("nn", "files"), 3),
    "models": 4,
    "peft": 5,
    **dict.fromkeys(("optim", "data", "train", "generate", "accounting"), 6),
    **dict.fromkeys(("lab", "bench"), 7),
    **dict.fromkeys(("cli", "__main__"), 8),
}
NEVER_AT_IMPORT = {
    "matplotlib",
    "torch",
    "transformers",
    "peft",
    "scipy",
    "sklearn",
    "joblib",
    "cupy",
    "autograder",
    "homework",
}


def files():
    return sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, inside_functions: bool = True) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree)) if inside_functions else list(tree.body)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.add(node.module or "")
            found |= {f"{node.module}.{a.name}" for a in node.names}
    return found


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_imports_only_from_floors_below(path):
    own = room(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "minipeft" or len(parts) < 2 or parts[1] not in FLOORS:
            continue
        same_room = parts[1] == own
        allowed = FLOORS[parts[1]] < FLOORS[own] or same_room or (FLOORS[own] == 6 and FLOORS[parts[1]] == 6)
        allowed = allowed or (own, parts[1]) in {("gradcheck", "autograd"), ("__main__", "cli")}
        assert allowed, f"{path.name} (floor {FLOORS[own]}) imports {name} (floor {FLOORS[parts[1]]})"


def test_every_file_has_a_floor():
    assert {room(p) for p in files()} <= set(FLOORS)


def test_there_is_no_circle():
    names = {module_name(p): p for p in files()}
    graph = {n: {i for i in imports(p) if i in names and i != n} for n, p in names.items()}
    state: dict[str, int] = {}

    def visit(n: str, trail: tuple[str, ...]) -> None:
        if state.get(n) == 2:
            return
        assert state.get(n) != 1, " -> ".join((*trail, n))
        state[n] = 1
        for m in sorted(graph[n]):
            visit(m, (*trail, n))
        state[n] = 2

    for n in graph:
        visit(n, ())


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_packages_are_not_imported_at_import_time(path):
    allowed = {"matplotlib"} if path.name == "plots.py" else set()
    top = {name.split(".")[0] for name in imports(path, inside_functions=False)}
    assert not top & (NEVER_AT_IMPORT - allowed)
    if room(path) != "bench":
        assert not {n.split(".")[0] for n in imports(path)} & {"torch", "transformers", "autograder", "homework"}


def test_importing_the_package_is_light():
    code = (
        "import sys, minipeft; heavy = {'matplotlib', 'sklearn', 'torch', 'scipy', 'joblib', 'tqdm', 'cupy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_importing_the_package_adds_little_to_numpy():
    code = "import time, numpy; start = time.process_time(); import minipeft; print(time.process_time() - start)"

    def seconds() -> float:  # of the processor, so that it does not matter what else the machine is doing
        return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    assert min(seconds() for _ in range(3)) < 0.3


def test_the_package_holds_no_path_of_a_machine():
    for path in [*files(), PACKAGE.parent / "README.md"]:
        assert not re.search(r"(^|[^A-Za-z0-9._])/(root|home|tmp|Users)/[A-Za-z]", path.read_text(encoding="utf-8")), (
            path
        )
