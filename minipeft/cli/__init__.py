"""The command line: ``minipeft bench | compare | fetch | generate | info | lab | train``, one file a command."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 when done, 2 after a user's mistake, 130 after Ctrl-C."""
    try:  # Ctrl-C may come during the imports, too
        from minipeft.cli.run import run
    except KeyboardInterrupt:
        print("minipeft: interrupted", file=sys.stderr)
        return 130
    return run(argv)
