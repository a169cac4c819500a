"""Draw the floors of the house, and which imports which, out of the imports themselves.

python docs/figures/floors.py     writes docs/figures/floors.svg
"""

from __future__ import annotations

import ast
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parents[1] / "minipeft"
FLOORS = [  # from the top of the picture to its foundation; tests/test_floors.py holds every file to them
    ("python -m minipeft", ["__main__"]),
    ("the command line", ["cli"]),
    ("experiments, measurements", ["lab", "bench"]),
    ("training; faster classes", ["train", "fast"]),
    ("optimizers, data, costs", ["optim", "data", "generate", "few_shot", "accounting"]),
    ("one method, one file", ["peft"]),
    ("models", ["models"]),
    ("layers; files", ["nn", "files"]),
    ("operations", ["ops"]),
    ("the check of gradients", ["gradcheck"]),
    ("the engine", ["autograd"]),
    ("which class runs", ["specialize"]),
    ("NumPy or CuPy", ["backend"]),
    ("parts of messages", ["hints"]),
]
WIDTH, HEIGHT, LABEL, ROOM = 860, 62, 190, 118


def rooms_used(room: str) -> set[str]:
    """The rooms whose names the files of a room import, itself left out."""
    path = PACKAGE / room
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    found = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "minipeft":
                found |= {a.name for a in node.names}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("minipeft."):
                found.add(str(node.module).split(".")[1])
            elif isinstance(node, ast.Import):
                found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("minipeft.")}
    return found - {room}


def reached(imports: dict[str, set[str]], room: str) -> set[str]:
    """The rooms that a room imports, and that these import, and so on."""
    return imports[room].union(*(reached(imports, used) for used in imports[room]))


def svg() -> str:
    """The picture: a row a floor, a box a room, a line from a room down to each that it imports.

    Lines that others imply are left out: from cli to ops, where one goes from cli to models and another on to ops.
    """
    boxes, places = [], {}
    for row, (what, rooms) in enumerate(FLOORS):
        y = row * HEIGHT + 10
        boxes.append(f'<rect class="floor" x="4" y="{y}" width="{WIDTH - 8}" height="{HEIGHT - 8}" rx="4"/>')
        boxes.append(f'<text class="what" x="16" y="{y + 32}">{what}</text>')
        span = (WIDTH - LABEL - 20) / len(rooms)
        for i, room in enumerate(rooms):
            x = LABEL + span * (i + 0.5)
            places[room] = (x, y + 27)
            boxes.append(
                f'<rect class="room" x="{x - ROOM / 2:.0f}" y="{y + 12}" width="{ROOM}" height="30" rx="3"/>'
                f'<text class="name" x="{x:.0f}" y="{y + 32}">{room}</text>'
            )
    lines = []
    imports = {room: rooms_used(room) & places.keys() for room in places}
    for room, (x, y) in places.items():
        implied = set().union(*(reached(imports, used) for used in imports[room]))
        for used in sorted(imports[room] - implied):
            x2, y2 = places[used]
            if y2 > y:
                lines.append(f'<line x1="{x:.0f}" y1="{y + 15}" x2="{x2:.0f}" y2="{y2 - 15}"/>')
    floors = [b for b in boxes if 'class="floor"' in b]
    rest = [b for b in boxes if 'class="floor"' not in b]
    style = (
        "text{font:14px sans-serif;fill:#222}.what{font-size:12.5px;fill:#555}.name{text-anchor:middle}"
        ".floor{fill:#f2f3f5}.room{fill:#fff;stroke:#777}line{stroke:#3b6ea5;stroke-width:1;opacity:.35}"
    )
    height = len(FLOORS) * HEIGHT + 10
    body = "\n".join([*floors, *lines, *rest])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="The floors of minipeft; each room imports only from floors below its own">\n'
        f'<style>{style}</style>\n<rect width="{WIDTH}" height="{height}" fill="#fff"/>\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    (HERE / "floors.svg").write_text(svg(), encoding="utf-8")
