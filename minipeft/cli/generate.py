"""``minipeft generate``: continue a text with a language model."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from minipeft.cli.arguments import (
    Subparsers,
    add_device,
    add_model,
    installed,
    load_model,
    natural,
    positive,
    use_device,
)
from minipeft.cli.process import UserError
from minipeft.hints import install


def add_generate(commands: Subparsers) -> None:
    """Add the command to the parser."""
    generate = commands.add_parser(
        "generate",
        help="continue a text with a language model",
        description="Continue a text with a language model, token by token.",
    )
    generate.takes_text = True
    generate.add_argument("prompt", metavar="TEXT", help="the text to continue")
    add_model(generate)
    add_device(generate)
    generate.add_argument("--adapter", type=Path, metavar="FOLDER", help="use an adapter saved by `minipeft train`")
    generate.add_argument(
        "--max-new-tokens",
        type=positive,
        default=40,
        metavar="N",
        help="how many tokens at most (default: %(default)s)",
    )
    generate.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="0 (default): always the likeliest token; above 0: sample at this temperature",
    )
    generate.add_argument("--top-k", type=positive, metavar="K", help="sample from the K likeliest tokens only")
    generate.add_argument(
        "--top-p", type=float, metavar="P", help="sample from the smallest set of tokens with probability P only"
    )
    generate.add_argument("--seed", type=natural, default=0, help="seed for sampling (default: %(default)s)")
    generate.add_argument(
        "--chat", action="store_true", help="treat TEXT as a user's message, in the model's chat template"
    )
    generate.add_argument("--json", action="store_true", help="print JSON")
    generate.set_defaults(run=run_generate)


def run_generate(args: argparse.Namespace) -> int:
    import time

    import numpy as np

    from minipeft.generate import stream
    from minipeft.peft import PeftModel

    if args.chat and installed("jinja2") is None:
        raise UserError(f"--chat needs jinja2; {install('chat')}")
    use_device(args)
    model, tokenizer = load_model(args.model)
    if args.adapter is not None:
        model = PeftModel.from_pretrained(model, args.adapter)
    model.to(args.device)
    try:
        ids = tokenizer.chat([{"role": "user", "content": args.prompt}]) if args.chat else tokenizer.encode(args.prompt)
    except ValueError as error:
        raise UserError(f"--chat: {error}") from error
    if not ids:
        raise UserError("the text is empty; expected at least one character")
    start = time.perf_counter()
    new: list[int] = []
    text = ""
    try:
        tokens = stream(
            model,
            np.array([ids]),
            max_new_tokens=args.max_new_tokens,
            temperature=args.temperature,
            top_k=args.top_k,
            top_p=args.top_p,
            rng=args.seed,
            eos=tokenizer.eos,
        )
        show("" if args.chat else args.prompt, args)
        for piece in tokenizer.decode_stream(collected(tokens, new)):
            text += piece
            show(piece, args)
    except (ValueError, FloatingPointError) as error:
        raise UserError(str(error).removeprefix("generate: ")) from error
    finally:
        show("\n" if new else "", args)  # after Ctrl-C, too
    seconds = time.perf_counter() - start
    if args.json:
        facts = {"prompt": args.prompt, "text": text, "ids": new, "seconds": round(seconds, 3)}
        print(json.dumps(facts, indent=2))
    else:
        rate = f"{len(new) / seconds:.1f} a second, including the time for the prompt of {len(ids)}"
        print(f"{len(new)} tokens, {rate}", file=sys.stderr)
    return 0


def show(text: str, args: argparse.Namespace) -> None:
    """Print a piece of text at once, unless JSON is to be printed."""
    if not args.json:
        print(text, end="", flush=True)


def collected(tokens: Iterable[Any], into: list[int]) -> Iterator[int]:
    """Yield the ids of a stream of one row, and append each to ``into``."""
    for token in tokens:
        into.append(int(token[0]))
        yield into[-1]
