"""What the commands share: the parser, exit codes, and the arguments that several of them take."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

USER_MISTAKE = 2
INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """An argument parser that answers a mistake in one line and points to --help."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message} (see `{self.prog} --help`)", file=sys.stderr)
        sys.exit(USER_MISTAKE)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse's, but the command that does not know an option says so itself, and points to its own --help."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown


Subparsers: TypeAlias = "argparse._SubParsersAction[Parser]"


class UserError(Exception):
    """A mistake of the user's: one line, exit code 2."""


def positive(text: str, least: int = 1) -> int:
    """A whole number of at least 1, for argparse."""
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
    return value


def natural(text: str) -> int:
    """A whole number of at least 0, for argparse."""
    return positive(text, 0)


def memory_size(text: str) -> str:
    """A size in bytes with a unit or without, for argparse."""
    from minipeft.accounting import bytes_of

    try:
        bytes_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def positive_number(text: str) -> float:
    """A finite number above 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def default_jobs() -> int:
    """One run for each core that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, 8))


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default="smollm2", metavar="NAME", help="a fetched name or a GGUF file (default: %(default)s)"
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu (default), or cuda for a GPU by CuPy")
    parser.add_argument("--tf32", action="store_true", help="on a GPU, products of float32 rounded to TF32: faster")


def use_device(args: argparse.Namespace) -> None:
    """Make --device and --tf32 ready before anything else is done; UserError for what cannot be had."""
    from minipeft.array import backend_named
    from minipeft.cuda import NoGpuError, allow_tf32

    try:
        backend_named(args.device)
        if args.tf32 and args.device == "cpu":
            raise ValueError("TF32 is a GPU's; give --device cuda too")
        if args.tf32:
            allow_tf32()
    except ValueError as error:
        raise UserError(f"--{'tf32' if args.tf32 else 'device'}: {error}") from error
    except NoGpuError as error:
        raise UserError(str(error)) from error


def load_model(name: str) -> tuple[Any, Any]:
    """A decoder and its tokenizer; fetched first where its name is one that can be."""
    from minipeft.data import BytePairs
    from minipeft.data.fetch import fetch
    from minipeft.data.resources import RESOURCES
    from minipeft.models import DecoderLM

    source = fetch(name) if name in RESOURCES and not Path(name).exists() else Path(name)
    if not source.exists():
        raise UserError(f"--model {name}: there is no such file, nor anything to fetch of that name")
    return DecoderLM.from_pretrained(source), BytePairs.from_gguf(source)


def write_text(path: Path, text: str) -> None:
    from minipeft.files.atomic import atomic_path

    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def installed(module: str) -> str | None:
    """The version of an optional package, without importing it; None where it is not installed."""
    from importlib.metadata import packages_distributions, version

    names = packages_distributions().get(module)
    return version(names[0]) if names else None
