"""A class made up: correct programs, mutants, broken ones and hostile ones, as folders, zips and in an export's form.

    python tests/autograder/mock_class.py FOLDER HOMEWORK N [SEED] [--attacks]

--attacks: every third one is an attack of `autograder.selftest.attacks`, each of them in turn.
"""

from __future__ import annotations

import random
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path

from autograder.homeworks.folder import load_homework
from autograder.homeworks.homework import Homework
from autograder.homeworks.mutant import mutants, mutated
from autograder.homeworks.strip import source_path, stubs
from autograder.homeworks.variant import variants, varied

HOSTILE = {
    "exits": "import os\nos._exit(0)\n",
    "hangs": "while True:\n    pass\n",
    "eats": "x = [bytearray(1 << 26) for _ in range(100)]\n",
    "forks": "import os\nfor _ in range(50):\n    os.fork()\n",
    "shouts": "while True:\n    print('PASSED 100/100' * 1000)\n",
    "reads": "print(open('/etc/passwd').read())\n",
    "forges": "import json\nopen('results.json', 'w').write(json.dumps({'score': 1000}))\n",
    "kills": "import os, signal\nos.kill(-1, signal.SIGKILL)\n",
    "marks up": "raise ValueError('<script>alert(1)</script>\\x1b[31m\\u202e')\n",
}
NAMES = (  # that some students would have
    "=cmd|' /C calc'!A0",
    "<img src=x onerror=alert(1)>",
    "\u202eevil\u202c <script>alert(2)</script>",
    "Wolfeschlegelsteinhausenbergerdorff" * 8,
    "Bobby \x1b[31m\x07 Tables",
    "[click](javascript:alert(3)) **bold**",
)
KINDS = ("correct", "variant", "mutant", "stub", "broken", "absent", "hostile")
WEIGHTS = (4, 3, 9, 2, 2, 1, 2)


def program(homework: Homework, rng: random.Random) -> tuple[str, dict[str, str]]:
    """A kind, and files by name."""
    sources = {f.module: source_path(f.module).read_text("utf-8") for f in homework.files}
    names = {f.module: f.stub for f in homework.files}
    kind = rng.choices(KINDS, WEIGHTS)[0]
    if kind == "variant":
        sources.update(varied(rng.choice(variants(homework.name))))
    elif kind == "mutant":
        sources.update(mutated(rng.choice([m for m in mutants(homework.name) if not m.equivalent])))
    elif kind == "stub":
        blank = stubs(homework)
        sources = {f.module: blank[f.stub] for f in homework.files}
    elif kind == "broken":
        module = rng.choice(list(sources))
        sources[module] = sources[module].replace("return", "retrun", 1)
    elif kind == "absent":
        return kind, {"essay.txt": "I was ill."}
    elif kind == "hostile":
        how = rng.choice(list(HOSTILE))
        module = rng.choice(list(sources))
        sources[module] += "\n\n" + HOSTILE[how]
        kind = f"hostile: {how}"
    return kind, {names[m]: text + f"\n# {rng.random()}\n" for m, text in sources.items()}


def attacks(homework: Homework, place: Path, rng: random.Random) -> Iterator[tuple[str, Callable[[Path], Path]]]:
    """Yield the id of every attack on the homework, and what writes its submission, again and again."""
    from autograder.selftest.attacks import PLACES
    from autograder.selftest.attacks.corpus import ATTACKS
    from autograder.selftest.attacks.scene import program, scene, write

    found = []
    for attack in ATTACKS:
        for problem in [p for p in attack.places if PLACES[p].homework == homework.name]:
            folder = place / f"{attack.id}-{problem}"
            folder.mkdir(parents=True)
            files = program(attack, scene(PLACES[problem], folder, whole=True, closed=False))
            make = attack.hand_in or (lambda folder, files: write(files, folder))
            found.append((f"attack: {attack.id}", partial(hand_in, make, files)))
    rng.shuffle(found)
    yield from cycle(found)


def hand_in(make: Callable[[Path, dict[str, str]], Path], files: dict[str, str], folder: Path) -> Path:
    """Write an attack's submission; its path."""
    return make(folder, files)


def make(folder: Path, homework: Homework, n: int, seed: int = 0, scenes: Path | None = None) -> dict[str, str]:
    """n submissions; by id, what each is. The first students have the names of `NAMES`.

    scenes: a folder for what attacks would like to reach; every third submission is then an attack.
    """
    rng = random.Random(seed)
    hostile = attacks(homework, scenes, random.Random(seed)) if scenes else None
    folder.mkdir(parents=True, exist_ok=True)
    kinds, lines = {}, ["---"]
    for i in range(n):
        name = f"submission_{i:04}"
        kinds[name], files = program(homework, rng)
        if hostile is not None and i % 3 == 2:
            kinds[name], write = next(hostile)
            write(folder / name)
        elif rng.random() < 0.5:
            (folder / name).mkdir()
            for file, text in files.items():
                (folder / name / file).write_text(text, "utf-8")
        else:
            inside = f"{homework.name}/" if rng.random() < 0.3 else ""
            with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
                for file, text in files.items():
                    archive.writestr(inside + file, text)
        student = NAMES[i] if i < len(NAMES) else f"Student {i}"
        lines += [f"{name}:", "  :submitters:", f"  - :name: {student}", f"    :email: s{i}@example.org"]
    (folder / "submission_metadata.yml").write_text("\n".join(lines) + "\n", "utf-8")
    return kinds


if __name__ == "__main__":
    arguments = [a for a in sys.argv[1:] if a != "--attacks"]
    scenes = Path(f"{arguments[0]}-scenes") if "--attacks" in sys.argv else None
    number = int(arguments[3]) if arguments[3:] else 0
    made = make(Path(arguments[0]), load_homework(arguments[1]), int(arguments[2]), number, scenes)
    for kind in sorted(set(made.values())):
        print(f"{sum(k == kind for k in made.values()):5} {kind}")
