"""What can be said of the notebooks without running them; `python notebooks/run.py` runs them."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest

from minipeft.lab.teach import notebook as lab
from minipeft.ops.linear import Linear
from minipeft.ops.normalize import LayerNorm
from minipeft.specialize import registered

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 400_000  # bytes
MACHINE_PATH = re.compile(r"(^|[^A-Za-z0-9._/])(/(root|home|tmp|work|Users|opt|usr)/[A-Za-z]|[A-Z]:\\)")
ADDRESS = re.compile(r"\b0x[0-9a-f]{8,}\b")
WIDGET = "application/vnd.jupyter.widget-view+json"
OURS = ("autograd", "few_shot", "generate", "gradcheck")
OURS_TOO = ("backend", "optim", "train", "accounting", "models", "nn", "ops", "peft")

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def load_runner():
    spec = importlib.util.spec_from_file_location("notebooks_run", FOLDER / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RUNNER = load_runner()


def read(path: Path):
    return nbformat.read(path, as_version=4)


def code(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def trees(notebook) -> list[ast.Module]:
    return [ast.parse(cell.source) for cell in code(notebook)]


def texts(cell) -> list[str]:
    """Everything that an output says in words."""
    found = []
    for out in cell.outputs:
        found += [out.text] if out.output_type == "stream" else []
        found += [v for kind, v in out.get("data", {}).items() if kind.startswith("text/")]
    return found


def library_names() -> set[str]:
    files = [ROOT / "minipeft" / f"{name}.py" for name in OURS]
    files += [p for name in OURS_TOO for p in (ROOT / "minipeft" / name).glob("*.py")]
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {n.name for f in files for n in ast.parse(f.read_text(encoding="utf-8")).body if isinstance(n, kinds)}


NAMES = library_names()


def defined(tree: ast.AST) -> list[str]:
    """The names of functions and classes, those of methods apart: every Function has a forward and a backward."""
    found = []
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.ClassDef):
            found.append(child.name)
        else:
            found += [child.name] if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) else []
            found += defined(child)
    return found


def second_definitions(tree: ast.AST) -> list[str]:
    """What a cell defines although the library has it: the same name, or another method."""
    methods = [
        n.name
        for n in ast.walk(tree)
        if isinstance(n, ast.ClassDef) and any(ast.unparse(b).endswith(("PeftConfig", "Mergeable")) for b in n.bases)
    ]
    return sorted({*(set(defined(tree)) & NAMES), *methods})


def not_the_librarys(text: str) -> list[str]:
    """Lines of code shown as the library's that do not stand in the file that is named, nor say truly what runs."""
    strangers = []
    runs = {f"# on {kind} runs {y.__name__} of {y.__module__}" for _, kind, y in registered()}
    lines: set[str] = set()
    for line in text.splitlines():
        if line.startswith("# minipeft/"):
            file = ROOT / line.removeprefix("# ")
            lines = {x.strip() for x in file.read_text(encoding="utf-8").splitlines()} if file.is_file() else set()
        elif line.strip() and line.strip() not in lines | runs:
            strangers.append(line)
    return strangers


@every_notebook
def test_a_notebook_is_stored_in_its_one_form(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    text = path.read_text(encoding="utf-8")
    assert text == RUNNER.text_of(RUNNER.normalized(notebook, path.stem)), "python notebooks/run.py NAME --write"
    assert len(text.encode()) < LARGEST


@every_notebook
def test_it_was_run_without_an_error_or_a_warning(path):
    cells = code(read(path))
    kinds = {out.output_type for cell in cells for out in cell.outputs}
    assert kinds <= {"stream", "execute_result", "display_data"}
    assert all(out.name == "stdout" for cell in cells for out in cell.outputs if out.output_type == "stream")
    assert any("image/png" in out.get("data", {}) for cell in cells for out in cell.outputs), "no figure"
    assert not any(WIDGET in out.get("data", {}) for cell in cells for out in cell.outputs)
    for cell in cells:  # a cell that prints or ends in an expression has something to say
        last = ast.parse(cell.source).body[-1]
        said = isinstance(last, ast.Expr) and not isinstance(last.value, ast.Constant)
        assert cell.outputs or not said or "print" not in cell.source, cell.source


@every_notebook
def test_nothing_in_it_belongs_to_a_machine_or_a_moment(path):
    notebook = read(path)
    said = [t for cell in code(notebook) for t in texts(cell)]
    for text in [*said, *(cell.source for cell in notebook.cells)]:
        assert not MACHINE_PATH.search(text), text
        assert not ADDRESS.search(text), text


@every_notebook
def test_it_defines_nothing_that_the_library_has(path):
    assert [x for tree in trees(read(path)) for x in second_definitions(tree)] == []


@every_notebook
def test_the_code_that_it_shows_is_the_librarys_of_today(path):
    for cell in code(read(path)):
        for text in texts(cell):
            if text.startswith("# minipeft/"):
                assert not_the_librarys(text) == [], f"python notebooks/run.py {path.stem[:2]} --write"


@every_notebook
def test_it_teaches(path):
    notebook = read(path)
    words = prose(notebook)
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
    assert any(isinstance(n, ast.Assert) for tree in trees(notebook) for n in ast.walk(tree)), "no claim is tested"
    assert words.count("<details>") == words.count("</details>") >= 2, "questions with hidden answers"
    assert "$" in words, "no formula"
    last = notebook.cells[-1]
    assert last.cell_type == "markdown"
    named = re.findall(r"homework/(hw\d_\w+)", last.source)
    assert named, "the last cell says which homework comes now"
    assert all((ROOT / "homework" / name).is_dir() for name in named)


@every_notebook
def test_it_moves_to_a_gpu_by_one_line_of_its_first_cell(path):
    notebook = read(path)
    before = [cell.source for cell in notebook.cells]
    after = [cell.source for cell in RUNNER.on_device(notebook, "cuda").cells]
    (place,) = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    assert before[place] == code(read(path))[0].source
    assert re.search(r'^device = "cuda"', after[place], re.MULTILINE)


@every_notebook
def test_its_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(read(path))):
        if not target.startswith(("http://", "https://", "#")):
            assert (FOLDER / target.partition("#")[0]).exists(), target


def test_the_tour_leads_to_every_other_notebook():
    linked = set(re.findall(r"\]\(([0-9]{2}_[^)#]+)", prose(read(FOLDER / "00_tour.ipynb"))))
    assert linked == {p.name for p in FOLDER.glob("[0-9]*.ipynb")} - {"00_tour.ipynb"}


def test_jupyter_is_started_where_the_links_of_the_notebooks_work():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    commands = [c for page in pages for c in re.findall(r"jupyter lab[^`\n]*", page.read_text(encoding="utf-8"))]
    assert commands
    assert set(commands) == {"jupyter lab"}


def test_what_would_be_found():
    assert second_definitions(ast.parse("class LoRALinear(Function): pass")) == ["LoRALinear"]
    assert second_definitions(ast.parse("class Mine(mp.peft.PeftConfig): pass")) == ["Mine"]
    assert second_definitions(ast.parse("def stable_softmax(s): return s")) == ["stable_softmax"]
    assert second_definitions(ast.parse("def accuracy(model): return 1.0")) == []
    assert second_definitions(ast.parse("class Wrong(Function):\n    def backward(ctx, dz): return dz")) == []
    assert MACHINE_PATH.search("in /home/ada/x")
    assert not MACHINE_PATH.search("../homework/hw1_autograd, 3/4")
    shown = str(lab.show(Linear))
    assert not_the_librarys(shown) == []
    assert not_the_librarys(shown.replace("z += bias", "z -= bias")) == ["            z -= bias"]


def small(source: str, **metadata):
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_markdown_cell("# A"), nbformat.v4.new_code_cell(source, metadata=metadata)]
    return notebook


def test_the_stored_form_depends_on_the_cells_alone():
    a, b = small("x = 1  \n\n"), small("x = 1")
    b.metadata = {"widgets": {"state": 1}}
    b.cells[1].metadata = {"execution": {"iopub.execute_input": "today"}}
    b.cells[1].execution_count = 17
    first, second = (RUNNER.text_of(RUNNER.normalized(n, "06_x")) for n in (a, b))
    assert first == second
    assert '"id": "06-001"' in first
    assert '"execution_count": 1' in first


@pytest.mark.slow
def test_the_runner_fails_with_a_claim_and_with_the_clock(tmp_path, monkeypatch, capsys):
    pytest.importorskip("ipykernel", reason="a kernel to run notebooks in comes with minipeft[notebooks]")
    monkeypatch.setattr(RUNNER, "HERE", tmp_path)
    for name in ("MINIPEFT_STATIC", "MPLBACKEND", "PYTHONHASHSEED", "PYDEVD_DISABLE_FILE_VALIDATION", "PYTHONPATH"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    nbformat.write(small("print(2)\nassert 1 + 1 == 2"), tmp_path / "00_right.ipynb")
    nbformat.write(small("assert 1 + 1 == 3, 'no'"), tmp_path / "01_wrong.ipynb")
    assert RUNNER.main(["00", "--write", "--limit", "60"]) == 0
    once = (tmp_path / "00_right.ipynb").read_text()
    assert '"2\\n"' in once
    assert RUNNER.main(["00", "--write"]) == 0
    assert (tmp_path / "00_right.ipynb").read_text() == once
    assert RUNNER.main(["01"]) == 1
    assert RUNNER.main(["00", "--limit", "0.01"]) == 1
    said = capsys.readouterr()
    assert "AssertionError" in said.err
    assert "are allowed" in said.err
    assert "failed: 01_wrong" in said.err
    with pytest.raises(SystemExit, match="no notebook begins with"):
        RUNNER.chosen(["77"])


def test_source_is_shown_with_its_file_and_not_run():
    shown = lab.show(Linear.forward, lab.show)
    assert shown.startswith("# minipeft/ops/linear.py\n@staticmethod\ndef forward(ctx")
    assert "# minipeft/lab/teach/notebook.py\ndef show(" in shown
    assert "# on cpu runs LayerNormInBlocks of minipeft.fast.cpu\n" in lab.show(LayerNorm)
    assert "# on" not in lab.show(Linear)
    assert shown._repr_markdown_().startswith("```python\n# minipeft/")


def test_a_picture_is_the_same_bytes_each_time():
    def drawn():
        fig, (a, b) = lab.figure(4, 2, cols=2)
        scores = np.array([[1.0, -np.inf, 2.0], [0.5, 0.0, 1.0]])
        lab.matrix(a, scores, "S", prefix=1, rows="ab", cols="xyz", numbers=".1f")
        stages = [lab.Stage("below", False, False), lab.Stage("top", True, True, 2048), lab.Stage("loss", False, True)]
        lab.flow(b, stages, "flow")
        assert [t.get_text() for t in a.texts] == ["1.0", "2.0", "0.5", "0.0", "1.0"]  # what is hidden has no number
        words = [t.get_text() for t in b.texts]
        assert "2.0 KiB" in words
        assert words.count("✕") == 1
        return lab.picture(fig).png

    first = drawn()
    assert first == drawn()
    assert first.startswith(b"\x89PNG")
    assert b"Software" not in first


def test_sliders_are_pictures_where_nobody_moves_them(monkeypatch):
    drawn = []

    def draw(fig, value):
        drawn.append(value)
        fig.subplots().plot([0, value])

    monkeypatch.setenv(lab.STATIC, "1")
    assert lab.explore(draw, 2, 2, rank=[1, 2, 4]).png.startswith(b"\x89PNG")
    assert drawn == [1, 2, 4]
    with pytest.raises(ValueError, match="explore takes one name"):
        lab.explore(draw, rank=[1], K=[2])
    with pytest.raises(ValueError, match="explore takes one name"):
        lab.explore(draw, rank=[])


def test_the_slider_redraws_for_the_value_that_was_chosen(monkeypatch):
    widgets = pytest.importorskip("ipywidgets", reason="sliders come with minipeft[notebooks]")
    made = []
    monkeypatch.setattr(lab, "_somebody_is_there", lambda: True)
    monkeypatch.setattr(widgets, "interact", lambda f, **sliders: made.append((f, sliders)))
    drawn = []
    assert lab.explore(lambda fig, value: drawn.append(value), rank=[1, 2, 4]) is None
    ((redraw, sliders),) = made
    assert sliders["rank"].options == (1, 2, 4)
    assert redraw(rank=4).png.startswith(b"\x89PNG")
    assert drawn == [4]


def test_no_widget_is_loaded_to_import_the_helpers():
    command = [sys.executable, "-c", "import sys, minipeft.lab.teach.notebook; print('ipywidgets' in sys.modules)"]
    assert subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip() == "False"


def test_the_helpers_give_blas_one_thread():
    code = (
        "import numpy, minipeft.lab.teach.notebook, threadpoolctl\n"
        "print({p['num_threads'] for p in threadpoolctl.threadpool_info() if p['user_api'] == 'blas'})"
    )
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "{1}\n"
