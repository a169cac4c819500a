"""The Python programs of the README: `python tests/readme.py FOLDER` writes them there, for type checkers."""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def programs() -> list[str]:
    """Return the README's Python blocks, in their order."""
    return re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


if __name__ == "__main__":
    for i, program in enumerate(programs()):
        (Path(sys.argv[1]) / f"readme_{i}.py").write_text(program, encoding="utf-8")
