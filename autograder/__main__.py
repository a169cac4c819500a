"""``python -m autograder``."""

import sys

if __name__ == "__main__":
    try:  # Ctrl-C may come during the imports, too
        from autograder.cli import main
    except KeyboardInterrupt:
        print("autograder: interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(main())
