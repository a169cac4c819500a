"""All attacks, in the order of `GROUPS`."""

from __future__ import annotations

import sys

assert sys.platform == "linux"

from autograder.selftest.attacks import GROUPS, break_out, cheat, exhaust, hand_in

ATTACKS = sorted(
    (*break_out.ATTACKS, *cheat.ATTACKS, *exhaust.ATTACKS, *hand_in.ATTACKS), key=lambda a: list(GROUPS).index(a.group)
)
