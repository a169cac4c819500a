"""Build the site: the front page, the guides, the notebooks with their outputs, the homeworks, and the API reference.

    python docs/build.py                    into build/site; a link that leads nowhere is an error
    python docs/build.py --lite             and the notebooks to run in the browser, into build/site/lite
    python docs/build.py --lite --pyodide F with the Pyodide of the folder, archive or address F beside it

The pages are those that a reader of the repository sees: they are copied into a temporary folder, where their links to
files become links to pages, and LaTeX becomes MathML, which needs no script and no font of others.
It needs the extra [docs].
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGES = {  # a file of the repository, and where it stands in the site
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "autograder/README.md": "autograder.md",
}
GUIDES = {
    "docs/students.md": "For students",
    "docs/staff.md": "For staff",
    "docs/how-it-works.md": "How it works",
    "docs/browser.md": "Notebooks in the browser",
    "docs/methods.md": "Methods and models",
    "docs/findings.md": "What the lecture's experiments gave",
    "docs/attacks.md": "Attacks on the grader",
}
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s]+)(\))|(src=\")([^\"]+)(\")")
CODE = re.compile(r"(```.*?```|`[^`\n]+`)", re.DOTALL)
FENCE = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)
FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\$\w])\$(?!\s)([^$\n]+?)(?<![\s\\])\$(?![\w$])", re.DOTALL)
STYLE = """
.md-typeset h1 { font-weight: 500; }
.md-typeset__table { min-width: 100%; }
.jupyter-wrapper .jp-OutputArea-output img { max-width: 100%; height: auto; background: #fff; }
.md-typeset .jupyter-wrapper .jp-OutputArea-output pre { white-space: pre; word-break: normal; overflow-x: auto; }
.jupyter-wrapper .jp-OutputArea-output .highlight pre { font-size: .64rem; }
.md-typeset math[display="block"] { overflow-x: auto; overflow-y: hidden; padding: .3em 0; max-width: 100%; }
.jupyter-wrapper table { display: block; overflow-x: auto; }
.md-typeset img { background: #fff; }
"""


class Site:
    """Which page of the site each file of the repository becomes."""

    def __init__(self) -> None:
        self.pages = dict(PAGES)
        self.pages.update({name: name.removeprefix("docs/") for name in GUIDES if (ROOT / name).exists()})
        for path in sorted((ROOT / "homework").glob("*/README.md")):
            self.pages[path.relative_to(ROOT).as_posix()] = f"homework/{path.parent.name}.md"
        self.notebooks = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "notebooks").glob("*.ipynb"))
        self.pages.update({name: name for name in self.notebooks})
        self.modules = {}
        for path in sorted((ROOT / "minipeft").rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            if parts[-1] != "__main__":
                self.modules[module] = f"api/{module}.md"
                self.pages[path.relative_to(ROOT).as_posix()] = f"api/{module}.md"

    def address(self, target: str) -> str | None:
        """The page that shows a file or folder of the repository; None where there is none."""
        for name in (target, f"{target}/README.md", f"{target}/__init__.py"):
            if name in self.pages:
                return self.pages[name]
        return {"homework": "homework/index.md", "notebooks": "notebooks/index.md"}.get(target)

    def linked(self, text: str, source: str) -> str:
        """The Markdown of a file with its relative links led to the site's pages."""
        here = (ROOT / source).parent
        page = self.pages[source]

        def led(found: re.Match[str]) -> str:
            before, target, after = (g for g in found.groups() if g is not None)
            if re.match(r"[a-z]+:|#", target):
                return found[0]
            path, _, anchor = target.partition("#")
            name = os.path.relpath(os.path.normpath(here / path), ROOT).replace(os.sep, "/")
            address = self.address(name.rstrip("/"))
            if address is None:
                if (ROOT / name).suffix in (".png", ".svg"):
                    address = name.removeprefix("docs/")
                else:  # a file that has no page: its name stays, without a link
                    return before.lstrip("!")[1:-2] if before.startswith(("[", "!")) else found[0]
            to = os.path.relpath(address, os.path.dirname(page) or ".").replace(os.sep, "/")
            if page.endswith(".ipynb"):  # nobody turns the links of notebooks into those of pages but we
                to = re.sub(r"\.(md|ipynb)$", ".html", to)
            return before + to + (f"#{anchor}" if anchor else "") + after

        return "".join(p if i % 2 else LINK.sub(led, p) for i, p in enumerate(FENCE.split(text)))


def mathml(text: str) -> str:
    """Markdown with its formulas between dollars as MathML; what stands in code stays."""
    from latex2mathml.converter import convert

    def drawn(found: re.Match[str]) -> str:
        block = found[1] is not None
        formula = (found[1] or found[2]).strip()
        made = convert(formula, display="block" if block else "inline")
        made = re.sub(r"\s*\n\s*", " ", made).replace("*", "&#42;").replace("_", "&#95;").replace("`", "&#96;")
        return f'\n\n<div class="formula">{made}</div>\n\n' if block else made

    return "".join(p if i % 2 else FORMULA.sub(drawn, p) for i, p in enumerate(CODE.split(text)))


def heading(path: Path) -> str:
    """The first heading of a page or notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "".join(json.loads(text)["cells"][0]["source"])
    return text.splitlines()[0].lstrip("# ").replace("`", "")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def stage(site: Site, folder: Path) -> list[Any]:
    """Write every page into ``folder``; the navigation."""
    for source, page in site.pages.items():
        if page.startswith("api/"):
            continue
        if source.endswith(".ipynb"):
            notebook = json.loads((ROOT / source).read_text(encoding="utf-8"))
            for cell in notebook["cells"]:
                if cell["cell_type"] == "markdown":
                    cell["source"] = mathml(site.linked("".join(cell["source"]), source))
            write(folder / page, json.dumps(notebook))
        else:
            write(folder / page, mathml(site.linked((ROOT / source).read_text(encoding="utf-8"), source)))
    for picture in (ROOT / "docs").rglob("*"):
        if picture.suffix in (".png", ".svg"):
            target = folder / picture.relative_to(ROOT / "docs")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture, target)
    for module, page in site.modules.items():
        write(folder / page, f"# {module}\n\n::: {module}\n    options:\n      show_root_toc_entry: false\n")
    write(folder / "style.css", STYLE)
    homeworks = [(p, heading(ROOT / s)) for s, p in site.pages.items() if s.startswith("homework/")]
    notebooks = [(name, heading(ROOT / name)) for name in site.notebooks]
    for name, title, entries in (("homework", "Homeworks", homeworks), ("notebooks", "Notebooks", notebooks)):
        lines = [f"- [{text}]({page.removeprefix(name + '/')})" for page, text in entries]
        write(folder / name / "index.md", f"# {title}\n\n" + "\n".join(lines) + "\n")
    rows = [f"- [`{m}`]({p.removeprefix('api/')})" for m, p in site.modules.items()]
    write(folder / "api" / "index.md", "# Reference\n\nMade from the docstrings.\n\n" + "\n".join(rows) + "\n")
    guides = [{title: site.pages[name]} for name, title in GUIDES.items() if name in site.pages]
    return [
        {"Front page": "index.md"},
        {"Guides": [*guides, {"The autograder": "autograder.md"}, {"Contributing": "contributing.md"}]},
        {"Notebooks": ["notebooks/index.md", *({text: page} for page, text in notebooks)]},
        {"Homework": ["homework/index.md", *({text: page} for page, text in homeworks)]},
        {"Reference": ["api/index.md", *({m: p} for m, p in site.modules.items())]},
    ]


def config(navigation: list[Any]) -> dict[str, Any]:
    """What mkdocs is told, but for its folders."""
    validation = {"links": {"not_found": "warn", "anchors": "warn", "unrecognized_links": "warn"}}
    docstrings = {
        "show_source": True,
        "show_if_no_docstring": False,
        "members_order": "source",
        "heading_level": 2,
        "filters": ["!^_"],
    }
    return {
        "site_name": "minipeft",
        "use_directory_urls": False,
        "theme": {"name": "material", "font": False, "features": ["navigation.tabs", "content.code.copy"]},
        "extra_css": ["style.css"],
        "nav": navigation,
        "validation": validation,
        "markdown_extensions": ["admonition", "tables", "attr_list", "md_in_html", "toc", "pymdownx.superfences"],
        "plugins": [
            "search",
            {"mkdocs-jupyter": {"execute": False, "cache": False, "no_prompt": True, "ignore_h1_titles": False}},
            {"mkdocstrings": {"handlers": {"python": {"paths": [str(ROOT)], "options": docstrings}}}},
        ],
    }


def fetched(site: Path) -> list[str]:
    """What the pages would load from elsewhere: scripts, styles, pictures, fonts."""
    found = set()
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        found |= set(re.findall(r"<(?:script|img|iframe)[^>]+src=\"?((?:https?:)?//[^\"\s>]+)", text))
        found |= set(
            re.findall(r"<link[^>]+rel=\"?(?:stylesheet|preconnect)\"?[^>]*href=\"?((?:https?:)?//[^\"\s>]+)", text)
        )
    return sorted(found)


def dead(site: Path) -> list[str]:
    """Links of the finished pages, of notebooks too, to files or places that are not there."""
    found, places = [], {}
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        places[page.resolve()] = set(re.findall(r"\sid=\"?([^\"\s>]+)", text))
    for page in site.rglob("*.html"):
        if page.name == "404.html":  # its links start at the server's root
            continue
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"<a\s[^>]*?href=\"?([^\"\s>]+)", text):
            if re.match(r"[a-z]+:|//", target):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page.resolve()
            if file.is_dir():
                file = file / "index.html"
            if not file.exists():
                found.append(f"{page.relative_to(site)}: {target} is not there")
            elif path and anchor and file in places and anchor not in places[file]:
                found.append(f"{page.relative_to(site)}: {target} has no such place")
    return found


def build(out: Path) -> int:
    """The site in ``out``; 1 where mkdocs warns, a link is dead or a page would load something from elsewhere."""
    site = Site()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        told = config(stage(site, folder / "pages"))
        told |= {"docs_dir": str(folder / "pages"), "site_dir": str(out)}
        write(folder / "mkdocs.yml", json.dumps(told))  # JSON is YAML
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", str(folder / "mkdocs.yml")]
        code = subprocess.run(command, check=False, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}).returncode
    if code:
        return code
    wrong = dead(out) + [f"a page would load {address}" for address in fetched(out)]
    print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
    pages = sum(1 for _ in out.rglob("*.html"))
    print(f"{pages} pages in {out}, {sum(f.stat().st_size for f in out.rglob('*') if f.is_file()) / 1e6:.1f} MB")
    return int(bool(wrong))


def pure_wheels(pyodide: Path, wheels: Path) -> None:
    """Beside an unpacked Pyodide, what its kernel and minipeft need and is pure Python: the versions of its lock file.

    What is compiled for it (NumPy first of all) is no package of a registry that pip asks, so it is not among them.
    """
    lock = json.loads((pyodide / "pyodide-lock.json").read_text(encoding="utf-8"))["packages"]
    wanted = ["micropip", "packaging", "ipython", "jedi", "tqdm", "threadpoolctl", "platformdirs"]
    for name in wanted:  # grows as it is walked
        wanted += [d for d in map(key_of, lock[name]["depends"]) if d not in wanted]
    pinned = [f"{name}=={lock[name]['version']}" for name in wanted if lock[name]["file_name"].endswith("none-any.whl")]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    for_browser = ["--python-version", "3.14", "--ignore-requires-python"]
    subprocess.run([*pip, *for_browser, "--dest", str(pyodide), *pinned], check=True)
    subprocess.run([*pip, "--dest", str(wheels), "comm"], check=True)
    told = json.loads((pyodide / "pyodide-lock.json").read_text(encoding="utf-8"))
    for package in told["packages"].values():  # Pyodide builds pure wheels anew, so its sums are not the registry's
        file = pyodide / package["file_name"]
        if file.exists():
            package["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    write(pyodide / "pyodide-lock.json", json.dumps(told))


def key_of(name: str) -> str:
    """A package's name as the lock file's keys write it."""
    return name.lower().replace("_", "-")


def lite(out: Path, pyodide: str | None) -> int:
    """JupyterLite with the notebooks and minipeft's wheel; Pyodide is loaded from its own network unless given."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        wheels = folder / "pypi"
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), str(ROOT)]
        subprocess.run(pip, check=True)
        shutil.copytree(ROOT / "notebooks", folder / "files", ignore=shutil.ignore_patterns("*.py", ".*"))
        for notebook in (folder / "files").glob("*.ipynb"):
            told = json.loads(notebook.read_text(encoding="utf-8"))
            first = {"cell_type": "code", "metadata": {}, "source": FIRST_CELL, "outputs": [], "execution_count": None}
            told["cells"].insert(1, first | {"id": "install"})
            told["metadata"]["kernelspec"] = {
                "name": "python",
                "display_name": "Python (Pyodide)",
                "language": "python",
            }
            write(notebook, json.dumps(told))
        command = [sys.executable, "-m", "jupyter", "lite", "build", "--lite-dir", str(folder)]
        command += ["--contents", str(folder / "files"), "--output-dir", str(out)]
        if pyodide and (Path(pyodide) / "pyodide.mjs").exists():  # as npm unpacks it
            pure_wheels(shutil.copytree(pyodide, folder / "static" / "pyodide"), wheels)
        elif pyodide:
            command += ["--pyodide", str(Path(pyodide).resolve()) if Path(pyodide).exists() else pyodide]
        return subprocess.run(command, check=False, cwd=folder).returncode  # it keeps a record where it stands


FIRST_CELL = "%pip install minipeft matplotlib pillow joblib scikit-learn"


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the site.")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site", help="folder (default: build/site)")
    parser.add_argument("--lite", action="store_true", help="with the notebooks to run in the browser (JupyterLite)")
    parser.add_argument("--pyodide", metavar="F", help="a Pyodide distribution to serve along with --lite")
    args = parser.parse_args()
    code = build(args.out.resolve())
    return code or (lite(args.out.resolve() / "lite", args.pyodide) if args.lite else 0)


if __name__ == "__main__":
    sys.exit(main())
