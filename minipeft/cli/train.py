"""``minipeft train``: fine-tune a language model on prose."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from minipeft.cli.arguments import (
    Subparsers,
    add_device,
    add_model,
    check_output,
    default_jobs,
    load_model,
    memory_size,
    natural,
    positive,
    positive_number,
    use_device,
    write_text,
)
from minipeft.cli.process import UserError

UNFINISHED = "minipeft_unfinished"  # the folder of the checkpoint, inside that of --out
REPORT = "minipeft_training.json"


def add_train(commands: Subparsers) -> None:
    """Add the command to the parser."""
    train = commands.add_parser(
        "train",
        help="fine-tune a language model on prose",
        description="Fine-tune a language model on prose, with LoRA or the method of a configuration file.",
        epilog="Ctrl-C saves a checkpoint; run the same command again to resume.",
    )
    add_model(train)
    add_device(train)
    train.add_argument(
        "--data", default="austen", metavar="TEXT", help="the text: austen (default), or a file in UTF-8"
    )
    train.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where to save the adapter (default: minipeft-train/TEXT)"
    )
    train.add_argument("--r", type=positive, default=8, help="rank of LoRA (default: %(default)s)")
    train.add_argument("--alpha", type=float, help="scaling of LoRA is ALPHA / R (default: twice the rank)")
    train.add_argument("--dropout", type=float, default=0.0, help="dropout in front of LoRA (default: %(default)s)")
    train.add_argument(
        "--targets",
        default="all-linear",
        metavar="NAMES",
        help="layers that get LoRA, such as q_proj,v_proj (default: %(default)s)",
    )
    train.add_argument("--config", type=Path, metavar="FILE", help="use another method, from a minipeft_config.json")
    train.add_argument(
        "--steps", type=positive, default=100, metavar="N", help="how many training steps (default: %(default)s)"
    )
    train.add_argument(
        "--batch-size", type=positive, default=4, metavar="B", help="windows of text in a batch (default: %(default)s)"
    )
    train.add_argument(
        "--length", type=positive, default=128, metavar="T", help="tokens in a window (default: %(default)s)"
    )
    train.add_argument(
        "--memory-budget",
        type=memory_size,
        metavar="SIZE",
        help="memory for a training step, such as 1GiB; a batch that needs more is split, and the gradients are added",
    )
    train.add_argument(
        "--shards",
        type=positive,
        metavar="N",
        help="split a batch over N threads; the last digits of the losses depend on N (default: one for each core, "
        "at most B; on a GPU 1)",
    )
    train.add_argument("--lr", type=positive_number, default=1e-3, help="peak learning rate (default: %(default)s)")
    train.add_argument(
        "--seed", type=natural, default=0, help="seed for the windows and the initial weights (default: %(default)s)"
    )
    train.add_argument("--fresh", action="store_true", help="start over, and replace the adapter in the --out folder")
    train.add_argument("--json", action="store_true", help="print JSON instead of text")
    train.set_defaults(run=run_train)


def run_train(args: argparse.Namespace) -> int:
    from minipeft.lab.experiments import language
    from minipeft.peft import LoraConfig, read_config
    from minipeft.peft.saving import holds_adapter
    from minipeft.train import CheckpointError, has_checkpoint, remove_checkpoint

    out = args.out or Path("minipeft-train") / Path(args.data).stem
    unfinished = out / UNFINISHED
    for folder in (out, unfinished):
        check_output("--out", folder)
    resuming = has_checkpoint(unfinished) and not args.fresh
    if holds_adapter(out) and not (resuming or args.fresh):
        raise UserError(f"--out {out} holds an adapter already; name another folder, or replace it with --fresh")
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

    if resuming:
        say(f"going on from {unfinished} (--fresh starts over)")
    else:
        remove_checkpoint(unfinished)
    try:
        peft, report = language.finetune(
            model, tokenizer.encode, prose, config, plan, unfinished, progress=not args.json, say=say
        )
    except CheckpointError as error:
        raise UserError(f"{error}; --fresh starts over") from error
    except ValueError as error:
        raise UserError(str(error)) from error
    peft.save_pretrained(out)
    write_text(out / REPORT, json.dumps(report, indent=2) + "\n")
    remove_checkpoint(unfinished)
    after = report["perplexity_after"]
    judged, best, since = len(report["evaluations"]), report["best_step"], report["resumed_at"]
    took = f"in {report['seconds']:.0f} s" + (f" from step {since} on" if since else "")
    say(f"{args.steps} steps, {judged} evaluations, {took}; best step: {best}")
    if report["at_once"] is not None:
        say(f"within {args.memory_budget}: {report['at_once']} of {args.batch_size} windows at once")
    say(f"adapted: perplexity {after['validation']:.2f} on validation, {after['test']:.2f} on test")
    say(f"test perplexity is {100 * report['lower_by']:.1f} % lower; the adapter is in {out}")
    if args.json:
        print(json.dumps({"out": str(out), **report}, indent=2))
    return 0
