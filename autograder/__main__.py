"""``python -m autograder``. A Python that is too old, or has no NumPy, is an error of one line."""

import sys


def start() -> int:
    """Run the command line, or say in one line what is missing."""
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever has not installed the handout is told by nothing else
        return _refuse(f"needs Python 3.11 or newer, got {sys.version.split()[0]} ({sys.executable})")
    try:  # Ctrl-C may come during the imports, too
        from autograder.cli import main
    except KeyboardInterrupt:
        return _refuse("interrupted", 130)
    except ModuleNotFoundError as error:
        if error.name != "numpy":
            raise
        from autograder.homeworks.homework import INSTALL, ROOT

        advice = f"Activate the environment of this course, or run in {ROOT}: {INSTALL}"
        return _refuse(f"numpy is not installed for {sys.executable}. {advice}")
    return main()


def _refuse(text: str, code: int = 2) -> int:
    print(f"autograder: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(start())
