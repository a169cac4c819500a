"""Run the notebooks, each in a fresh kernel without a window, and say how long each took.

    python notebooks/run.py                    all of them; an exception or a claim that fails makes it fail
    python notebooks/run.py 06 01 --limit 60   these two; each may take 60 s
    python notebooks/run.py 06 --write         and keep the outputs, in the one form that they are stored in
    python notebooks/run.py --device cuda      on a GPU: the line `device = "cpu"` is read as `device = "cuda"`
    python notebooks/run.py 06 --device strict on the stand-in for a GPU that the tests have (tests/strict.py)

Outputs are stored without dates and widgets; ids and execution counts follow from a cell's place. A cell with the tag
"varies" (measured times) keeps the outputs that it has; delete them to get new ones.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat

from minipeft.files import atomic_path, check_writable

HERE = Path(__file__).resolve().parent
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def normalized(notebook: Any, stem: str) -> Any:
    """The notebook in its stored form; what it was made from is changed, too."""
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    count = 0
    for place, cell in enumerate(notebook.cells):
        cell.id = f"{stem[:2]}-{place:03d}"
        cell.source = "\n".join(line.rstrip() for line in cell.source.strip("\n").split("\n"))
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        cell.pop("attachments", None)
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            cell.outputs = _merged(cell.outputs, count)
    return notebook


def _merged(outputs: Any, count: int) -> list[Any]:
    """One stream a name for each run of pieces, no metadata, the cell's own count."""
    kept: list[Any] = []
    for out in outputs:
        if out.output_type == "stream" and kept and kept[-1].get("name") == out.name:
            kept[-1].text += out.text
            continue
        out.pop("transient", None)
        if "metadata" in out:
            out.metadata = nbformat.from_dict({})
        if "execution_count" in out:
            out.execution_count = count
        kept.append(out)
    return kept


def text_of(notebook: Any) -> str:
    """What stands in the file."""
    return nbformat.writes(notebook, version=4).rstrip("\n") + "\n"


def chosen(names: list[str]) -> list[Path]:
    """The notebooks that begin with one of ``names``; all for none. Raises SystemExit for a name without one."""
    every = sorted(HERE.glob("[0-9][0-9]_*.ipynb"))
    if not names:
        return every
    found = []
    for name in names:
        fitting = [p for p in every if p.stem.startswith(Path(name).stem)]
        if not fitting:
            raise SystemExit(f"no notebook begins with {name!r}; there are {', '.join(p.stem for p in every)}")
        found += [p for p in fitting if p not in found]
    return found


def on_device(notebook: Any, device: str) -> Any:
    """The notebook with its one line changed that says where it runs."""
    first = "import strict\n" if device == "strict" else ""  # the stand-in makes itself known when it is imported
    for cell in notebook.cells:
        cell.source = cell.source.replace('device = "cpu"', f'{first}device = "{device}"')
    return notebook


def run(path: Path, limit: float | None, device: str = "cpu") -> tuple[Any, float, str | None]:
    """Execute a notebook in a fresh kernel, in an empty folder: it, the seconds, and what went wrong, if anything."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    notebook = on_device(nbformat.read(path, as_version=4), device)
    before = {i: cell.get("outputs") for i, cell in enumerate(notebook.cells)}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=None if limit is None else max(1, int(limit)),
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            record_timing=False,
            store_widget_state=False,
        )
        try:
            client.execute()
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            return notebook, time.perf_counter() - start, str(error)
    seconds = time.perf_counter() - start
    for i, cell in enumerate(notebook.cells):
        if "varies" in cell.metadata.get("tags", ()) and before[i]:
            cell.outputs = before[i]
    if limit is not None and seconds > limit:
        return notebook, seconds, f"it took {seconds:.0f} s, {limit:.0f} are allowed"
    return notebook, seconds, None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="run the notebooks without a window")
    parser.add_argument("names", nargs="*", metavar="NAME", help="how a notebook's name begins: 06, or 06_prompt")
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="each notebook may take so long")
    parser.add_argument("--write", action="store_true", help="store the outputs")
    parser.add_argument("--device", default="cpu", help="where the arrays are: cpu, cuda or strict")
    args = parser.parse_args(arguments)
    if args.write and args.device != "cpu":
        parser.error("what is stored was run on the CPU: --write goes without --device")
    if args.write:
        check_writable(HERE)
    os.environ |= {"MINIPEFT_STATIC": "1", "MPLBACKEND": "Agg", "PYTHONHASHSEED": "0"}
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # the arrays are small: threads would wait for each other
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # a warning of the debugger's that no reader needs
    paths = [str(HERE.parent), *([str(HERE.parent / "tests")] if args.device == "strict" else [])]
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])
    failed = []
    for path in chosen(args.names):
        notebook, seconds, wrong = run(path, args.limit, args.device)
        print(f"{path.stem:28s} {seconds:6.1f} s{'' if wrong is None else '   FAILED'}", flush=True)
        if wrong is not None:
            failed.append(path.stem)
            print(wrong, file=sys.stderr)
        elif args.write:
            with atomic_path(path) as part:
                part.write_text(text_of(normalized(notebook, path.stem)), encoding="utf-8")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
