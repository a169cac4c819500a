"""A patch names a function and an expression: how the source is written elsewhere never breaks it."""

import ast

import pytest

from autograder.homeworks.folder import homeworks
from autograder.homeworks.mutant import mutants
from autograder.homeworks.patch import PatchError, check_names, replace
from autograder.homeworks.strip import functions, source_path
from autograder.homeworks.variant import variants, varied

SOURCE = '''"""A module."""

import math
from numpy import maximum as larger


def flat(x):
    return x.reshape(-1, x.shape[-1])


class Scaled:
    """z = s (x Aᵀ)"""

    @staticmethod
    def forward(ctx, x, A, scale):
        """Return z, which is
        scaled by s.
        """
        rows = flat(x)  # (N, k)
        H = (
            rows
            @ A.T  # (N, r)
        )
        if scale <= 0.0:
            raise ValueError("scale")
        ctx.save(rows, H)
        return scale * H
'''


def patched(old, new, source=SOURCE):
    return replace(source, "Scaled.forward", old, new)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("rows @ A.T", "rows @ A", "H = rows @ A\n"),  # over a line break and a comment
        ("(scale*H)", "H", "return H\n"),  # other blanks and parentheses
        ("H = rows @ A.T", "H = rows @ A.T\nH += 1.0", "H += 1.0\n"),  # a statement becomes two
        ("return scale * H", "if scale:\n    return H\nreturn scale * H", "if scale:\n            return H\n"),
        ("scale <= 0.0", "scale < 0.0", "if scale < 0.0:\n"),
        ("ctx.save(rows, H)", "rows += 1.0\nctx.save(rows, H)", "rows += 1.0\n"),  # an expression becomes statements
    ],
)
def test_an_expression_is_found_however_it_is_written(old, new, line):
    result = patched(old, new)
    assert f" {line}" in result
    assert result.count("scaled by s.\n        ") == 1, "the docstring stays as it is"
    assert result.startswith(SOURCE[: SOURCE.index("        rows = ")])
    compile(result, "patched", "exec")


def test_deleting_the_only_statement_of_a_block_leaves_pass():
    assert "if scale <= 0.0:\n            pass\n" in patched('raise ValueError("scale")', "")


def test_a_renamed_helper_or_variable_is_found_and_keeps_its_new_name():
    renamed = SOURCE.replace("flat", "as_rows").replace("rows = as_rows", "X = as_rows")
    renamed = renamed.replace("            rows\n", "            X\n").replace("save(rows", "save(X")
    assert "X = as_rows(x) + 1.0\n" in patched("rows = flat(x)", "rows = flat(x) + 1.0", renamed)


def test_a_name_stands_for_the_same_name_everywhere_in_a_patch():
    assert "return scale" in SOURCE
    with pytest.raises(PatchError, match="found it 0 times"):
        patched("unknown * unknown", "unknown")


@pytest.mark.parametrize(
    ("function", "old", "new", "message"),
    [
        ("Scaled.backward", "H", "x", "expected a function Scaled.backward; the module has flat, Scaled.forward"),
        ("Scaled.forward", "math.pi * H", "H", "expected 'math.pi . H' once in Scaled.forward, found it 0 times"),
        ("Scaled.forward", "rows", "x", "expected 'rows' once in Scaled.forward, found it 2 times"),
        ("Scaled.forward", "scale * H", "tanh(scale) * H", "the patch uses unknown names: tanh"),
    ],
)
def test_a_patch_that_does_not_fit_is_an_error(function, old, new, message):
    with pytest.raises(PatchError, match=message):
        replace(SOURCE, function, old, new)


def test_text_that_is_no_python_is_an_error():
    with pytest.raises(PatchError, match="expected Python"):
        patched("scale *", "")


class Renamed(ast.NodeTransformer):
    """Other names for what a module imports or defines as functions, except those to keep."""

    def __init__(self, tree, keep):
        imported = [a for n in tree.body if isinstance(n, ast.ImportFrom) and n.module != "__future__" for a in n.names]
        self.names = {a.asname or a.name for a in imported} | {
            n.name for n in tree.body if isinstance(n, ast.FunctionDef)
        }
        self.names -= keep

    def visit_ImportFrom(self, node):
        for a in node.names:
            if (a.asname or a.name) in self.names:
                a.asname = f"{a.asname or a.name}_renamed"
        return node

    def visit_FunctionDef(self, node):
        self.generic_visit(node)
        if node.col_offset == 0 and node.name in self.names:
            node.name = f"{node.name}_renamed"
        return node

    def visit_Name(self, node):
        node.id = f"{node.id}_renamed" if node.id in self.names else node.id
        return node


def names(text):
    return {n.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name)}


@pytest.mark.parametrize(
    "homework", [n if n == "hw8_few_shot" else pytest.param(n, marks=pytest.mark.slow) for n in homeworks()]
)
def test_no_mutant_is_broken_by_comments_line_breaks_or_names_of_helpers(homework):
    for m in (m for m in mutants(homework) if not m.body):
        module, _, function = m.target.partition(":")
        text = source_path(module).read_text("utf-8")
        result = replace(text, function, m.old, m.new)
        unparsed = replace(ast.unparse(ast.parse(text)), function, m.old, m.new)
        assert ast.dump(ast.parse(unparsed)) == ast.dump(ast.parse(result)), m.id
        keep = {function} | names(m.new) - names(m.old)  # of a name that the patch alone brings nothing can be known
        renamed = Renamed(ast.parse(text), keep)
        other = replace(ast.unparse(renamed.visit(ast.parse(text))), function, m.old, m.new)
        assert ast.dump(ast.parse(other)) == ast.dump(ast.parse(ast.unparse(renamed.visit(ast.parse(result))))), m.id


@pytest.mark.parametrize("homework", homeworks())
def test_every_body_of_a_variant_uses_names_that_its_module_has(homework):
    for v in variants(homework):
        for module, source in varied(v).items():
            for name in functions(source):
                if f"{module}:{name}" in v.bodies:
                    check_names(source, name)
