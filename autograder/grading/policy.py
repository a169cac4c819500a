"""Apply a course's rules for lateness and the number of attempts, using only Gradescope's metadata file.

All times are those of the submission, so grading it again next year changes nothing. Every key of the file
may be missing. A policy is a small JSON file:

    {"late": [[24, 0.9], [48, 0.8]], "attempts": 20}

late: up to so many hours after the due date a submission keeps that share of its points; later, nothing. Without it,
lateness changes nothing (Gradescope closes the assignment itself). A student with an extension has the due date of the
extension. A group hands in once and gets one score, so the latest due date of its members holds for all of them.
attempts: so many count; those that were refused at intake, or on which the grader itself failed, do not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

LARGEST = 1 << 26  # bytes of the metadata file: what is longer is cut, and then not JSON


class PolicyError(ValueError):
    """A policy file is wrong; the message says what was expected."""


@dataclass(frozen=True)
class Policy:
    """late: (hours, share) in ascending hours; attempts: how many count, None for any number."""

    late: tuple[tuple[float, float], ...] = ()
    attempts: int | None = None

    @staticmethod
    def read(text: str) -> Policy:
        """Read a policy from JSON. Raises PolicyError if it is none."""
        try:
            raw = json.loads(text)
            late = tuple((float(h), float(s)) for h, s in raw.get("late", ()))
            attempts = raw.get("attempts")
            unknown = set(raw) - {"late", "attempts"}
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise PolicyError(f'a policy is {{"late": [[hours, share], …], "attempts": n}}: {error}') from None
        if unknown:
            raise PolicyError(f"a policy has late and attempts; {sorted(unknown)} came")
        if list(late) != sorted(late) or any(not h > 0 or not 0 <= s <= 1 for h, s in late):
            raise PolicyError(f"late: hours above 0 in ascending order, shares from 0 to 1; got {raw['late']}")
        if attempts is not None and (isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1):
            raise PolicyError(f"attempts is a whole number of at least 1, got {attempts!r}")
        return Policy(late, attempts)


def moment(text: Any) -> datetime | None:
    """Return an ISO time with its offset; None for anything else."""
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo is not None else None


def late_share(policy: Policy, metadata: Mapping[str, Any]) -> tuple[float, str]:
    """Return the share of the points that is kept, and a sentence about it, which may be ""."""
    created = moment(metadata.get("created_at"))
    due = due_date(metadata)
    if not policy.late or created is None or due is None or created <= due:
        return 1.0, ""
    late = (created - due).total_seconds()
    share = next((s for limit, s in policy.late if late <= 3600 * limit), 0.0)
    return share, f"Handed in {duration(late)} after the due date: {100 * share:g} % of the points count."


def duration(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds in words, rounded up to a second."""
    total = math.ceil(seconds)
    parts = {"hour": total // 3600, "minute": total // 60 % 60, "second": total % 60}
    return " ".join(f"{n} {name}{'s' * (n != 1)}" for name, n in parts.items() if n) or "0 seconds"


def due_date(metadata: Mapping[str, Any]) -> datetime | None:
    """Return the due date of a submission: the latest of its students' due dates, in whatever order they are listed.

    A student without an extension has the assignment's. None if the file gives no due date at all.
    """
    users = metadata.get("users")
    members = [u.get("assignment") for u in users if isinstance(u, Mapping)] if isinstance(users, list) else []
    common = _due(metadata.get("assignment"))
    dates = [_due(own) or common for own in members] or [common]
    return max((date for date in dates if date is not None), default=None)


def _due(assignment: Any) -> datetime | None:
    return moment(assignment.get("due_date")) if isinstance(assignment, Mapping) else None


def attempts_used(metadata: Mapping[str, Any]) -> int:
    """Return how many earlier submissions count."""
    earlier = metadata.get("previous_submissions")
    used = 0
    for one in earlier if isinstance(earlier, list) else []:
        if not isinstance(one, Mapping) or one.get("autograder_error"):
            continue
        results = one.get("results")
        extra = results.get("extra_data") if isinstance(results, Mapping) else None
        if isinstance(extra, Mapping) and extra.get("attempt") is False:
            continue
        used += 1
    return used


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata file; {} if it is missing, too large or not a JSON object: no policy can be applied then."""
    try:
        with path.open("rb") as file:
            raw = json.loads(file.read(LARGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return raw if isinstance(raw, dict) else {}


def applied(policy: Policy, metadata: Mapping[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    """Return the results with a separate line for lateness; extra_data keeps the points before it."""
    share, sentence = late_share(policy, metadata)
    if share == 1.0:
        return results
    before = results["score"]
    score = round(before * share, 2)
    return {
        **results,
        "score": score,
        "output": f"{sentence}\n{results['output']}".strip(),
        "extra_data": {**results["extra_data"], "score_before_lateness": before, "share": share},
    }
