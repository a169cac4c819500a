"""What the commands share: the parser, exit codes, and the arguments that several of them take."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from minipeft.cli.process import USER_MISTAKE, UserError
from minipeft.files.names import close_to, unknown_name


class Parser(argparse.ArgumentParser):
    """An argument parser that reports a mistake in one line, with close matches, and points to --help."""

    takes_text = False  # the positional argument is a text, which may begin with a dash

    def add_commands(self) -> Subparsers:
        """Add the commands; one of them has to be given."""
        return self.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message} (see `{self.prog} --help`)", file=sys.stderr)
        sys.exit(USER_MISTAKE)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse's, but an argument that is unknown is an error of the command that it was given to."""
        args = list(sys.argv[1:] if args is None else args)
        if self.takes_text:
            args = self._text_last(args)
        self._check_options(args)
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            order = "; options come before --" if unknown[0].startswith("-") else ""
            self.error(f"unexpected argument {unknown[0]!r}{order}")
        return known, unknown

    def require_name(self, args: argparse.Namespace) -> None:
        """Report an option that says nothing without a NAME; --json does."""
        options = [a for a in self._actions if a.option_strings and a.dest not in ("help", "json")]
        given = [a.option_strings[-1] for a in options if getattr(args, a.dest) != a.default]
        if args.name is None and given:
            self.error(f"{given[0]} needs a NAME; `{self.prog}` lists them")

    def _check_options(self, args: list[str]) -> None:
        """Report an unknown option. argparse would complain about a missing argument first."""
        known = self._option_string_actions
        for arg in args:
            if arg == "--" or (self._subparsers is not None and not arg.startswith("-")):  # a command's own arguments
                return
            name = arg.partition("=")[0]
            if re.fullmatch(r"--?[A-Za-z]\S*", name) and not any(k.startswith(name) for k in known):
                message = f"unknown option {name}{close_to(name, known)}"
                if self.takes_text:
                    message += " A" if message.endswith("?") else "; a"
                    message += f' text that begins with a dash comes after --: {self.prog} -- "{arg}"'
                self.error(message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            self.error(unknown_name(str(action.metavar or action.dest).lower(), str(value), map(str, action.choices)))

    def _text_last(self, args: list[str]) -> list[str]:
        """Move a text such as "-hello" to the end, after "--", since argparse would read it as options.

        A negative number is left alone: it is the value of an option, or a text that argparse accepts.
        """
        texts = [a for a in args if re.match(r"-(?!-|\d*\.?\d+$).", a) and a not in self._option_string_actions]
        if "--" in args or len(texts) != 1:
            return args
        return [*(a for a in args if a != texts[0]), "--", *texts]


Subparsers: TypeAlias = "argparse._SubParsersAction[Parser]"


def positive(text: str, least: int = 1) -> int:
    """Parse a whole number of at least ``least``, for argparse."""
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
    return value


def natural(text: str) -> int:
    """Parse a whole number of at least 0, for argparse."""
    return positive(text, 0)


def memory_size(text: str) -> str:
    """Check a size in bytes, with or without a unit, for argparse."""
    from minipeft.accounting import bytes_of

    try:
        bytes_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def positive_number(text: str) -> float:
    """Parse a finite number above 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def default_jobs() -> int:
    """Return the number of cores that this process may use, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, 8))


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        default="smollm2",
        metavar="NAME",
        help="a GGUF file, or a name from `minipeft fetch` (default: %(default)s)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu (default), or cuda for a GPU with CuPy")
    parser.add_argument(
        "--tf32", action="store_true", help="on a GPU: multiply float32 matrices in TF32, faster and less precise"
    )


def use_device(args: argparse.Namespace) -> None:
    """Check --device and apply --tf32, before any work; raise UserError if that is not possible."""
    from minipeft.backend import backend_named
    from minipeft.backend.cuda import NoGpuError, allow_tf32

    try:
        backend_named(args.device)
        if args.tf32 and args.device == "cpu":
            raise ValueError("TF32 needs a GPU; add --device cuda")
        if args.tf32:
            allow_tf32()
    except ValueError as error:
        raise UserError(f"--{'tf32' if args.tf32 else 'device'}: {error}") from error
    except NoGpuError as error:
        raise UserError(str(error)) from error


def load_model(name: str) -> tuple[Any, Any]:
    """Return a decoder and its tokenizer, from a GGUF file or by a name that can be fetched."""
    from minipeft.data import BytePairs
    from minipeft.data.fetch import fetch
    from minipeft.data.resources import RESOURCES
    from minipeft.models import DecoderLM

    source = Path(name)
    if not source.exists():
        models = [r.name for r in RESOURCES.values() if r.generates]
        if name in RESOURCES and name not in models:
            raise UserError(
                f"--model {name}: {RESOURCES[name].summary}; it cannot generate text. Expected a GGUF file, "
                f"or one of: {', '.join(models)}"
            )
        if name not in models:
            guess = close_to(name, models) or f"; there are: {', '.join(models)}"
            raise UserError(f"--model {name}: no such file, and no downloadable model of that name{guess}")
        source = fetch(name)
    return DecoderLM.from_pretrained(source), BytePairs.from_gguf(source)


def check_output(option: str, folder: Path) -> None:
    """Raise UserError, before any long work, unless files can be written into the folder of ``option``."""
    from minipeft.files import FileError, check_writable

    try:
        check_writable(folder)
    except FileError as error:
        raise UserError(f"{option} {error}") from error


def check_output_file(option: str, path: Path | None) -> None:
    """Raise UserError, before any long work, unless the file of ``option`` can be written or replaced."""
    from minipeft.files import FileError
    from minipeft.files.atomic import check_file

    if path is not None:
        try:
            check_file(path)
        except FileError as error:
            raise UserError(f"{option} {error}") from error
        check_output(option, path.parent)


def write_text(path: Path, text: str) -> None:
    from minipeft.files.atomic import atomic_path

    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def installed(module: str) -> str | None:
    """Return the version of an optional package without importing it; None if it is not installed."""
    from importlib.metadata import packages_distributions, version

    names = packages_distributions().get(module)
    return version(names[0]) if names else None
