"""The tests of a homework find the autograder, wherever pytest was called."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
