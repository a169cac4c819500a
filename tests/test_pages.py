"""Pages stay pages: files are short, and formulas know nothing of how they are made to run fast."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "minipeft"
LONGEST = 400  # lines of a file
METHOD = 250  # lines of a file of peft/ that holds a method
ENGINE = 320
OPERATIONS = 1600  # lines of all files of ops/
DATA = {"cases", "mutants", "variants"}  # stems of files
MACHINE = {
    "backend/allocator.py": {"give_back", "keep_freed_memory"},
    "backend/blocks.py": {"BLOCK_BYTES", "empty", "row_blocks", "row_dot", "row_max", "row_sum"},
    "backend/kernels.py": {"kernels", "has_kernels", "kernels_of"},
    "backend/threads.py": {"block_threads", "in_threads", "quick_handover", "side_by_side", "use_threads"},
}
FORMULAS = sorted(p for room in ("ops", "nn", "peft", "optim") for p in (PACKAGE / room).rglob("*.py"))


def lines(path):
    return len(path.read_text(encoding="utf-8").splitlines())


def imported(path):
    """The names that a file imports, and the last part of each module."""
    nodes = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.ImportFrom)]
    return {a.name for n in nodes for a in n.names} | {str(n.module).rpartition(".")[2] for n in nodes}


def test_no_file_is_long():
    files = [p for room in ("minipeft", "autograder") for p in (ROOT / room).rglob("*.py")]
    long = {p.relative_to(ROOT).as_posix(): lines(p) for p in files if p.stem not in DATA and lines(p) > LONGEST}
    assert long == {}


def test_a_method_is_a_page():
    methods = [p for p in (PACKAGE / "peft").glob("*.py") if "\n@method\n" in p.read_text(encoding="utf-8")]
    assert len(methods) >= 10
    assert {p.name: lines(p) for p in methods if lines(p) > METHOD} == {}


def test_the_engine_and_the_operations_are_short():
    assert lines(PACKAGE / "autograd.py") <= ENGINE
    assert sum(map(lines, (PACKAGE / "ops").glob("*.py"))) <= OPERATIONS


@pytest.mark.parametrize("path", FORMULAS, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_a_formula_does_not_know_how_it_is_made_fast(path):
    assert imported(path) & (set().union(*MACHINE.values()) | {"fast"}) == set()


@pytest.mark.parametrize("path", [p for p in MACHINE if p != "backend/kernels.py"])
def test_every_name_of_the_machine_room_is_listed(path):
    body = ast.parse((PACKAGE / path).read_text(encoding="utf-8")).body
    assert {n.name for n in body if isinstance(n, ast.FunctionDef) and n.name[0] != "_"} <= MACHINE[path]
