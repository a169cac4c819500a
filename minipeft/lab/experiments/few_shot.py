"""A few examples: in the prompt, or to fine-tune on? (the lecture's table; Mosbach et al. 2023, arXiv:2305.16938)

Each seed draws k examples, as many of each label. In context they stand before the question; fine-tuning takes steps on
the same k. Both are asked by the same pattern (`minipeft.few_shot`), where the examples come from and out of there.

Two tasks. ``lines``: models of characters of our own, "tiny" and "small", pretrained on documentation and source code,
tell a line of code from a line of prose; elsewhere the prose is comments. ``reviews``: SmolLM2-135M tells praise
from blame in sentences about films, elsewhere about goods and restaurants.
"""

from __future__ import annotations

import io
import json
import math
import time
import tokenize
import tracemalloc
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.autograd import no_grad, reference
from minipeft.data.batches import Batches, LanguageModelBatches
from minipeft.data.bpe import BytePairs
from minipeft.data.fetch import fetch
from minipeft.data.sentiment import SOURCES, load_sentiment, split_sentiment
from minipeft.data.text import CharTokenizer, documentation_text, library_source
from minipeft.few_shot import Encode, Example, Pattern, label_scores, pattern_batch, predict, prompt_scores
from minipeft.files.config import write_json
from minipeft.lab.framework.experiment import (
    NOT_REPRODUCED,
    REPRODUCED,
    UNDECIDED,
    Config,
    Experiment,
    Published,
    Row,
    Table,
    Verdict,
    mean_and_spread,
    select,
    tuned,
)
from minipeft.lab.framework.training import adapted, pretrain, train
from minipeft.lab.framework.welch import holm, welch
from minipeft.models import DecoderConfig, DecoderLM
from minipeft.peft import LoraConfig

CONTEXT, TUNED = "in context", "fine-tuned"
LINES, REVIEWS = "lines", "reviews"
SMOLLM2, COST = "smollm2", "cost"
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"d_model": 48, "n_layers": 2, "n_heads": 4, "context": 512},
    "small": {"d_model": 96, "n_layers": 4, "n_heads": 4, "context": 512},
}
COST_SIZES = {"d_model": 64, "n_layers": 2, "n_heads": 4}
HERE = {LINES: "code and documentation", REVIEWS: "imdb"}
ELSEWHERE = {LINES: ("code and comments",), REVIEWS: ("amazon", "yelp")}
PATTERNS = {LINES: Pattern("{text} => ", ("p", "c"), "\n"), REVIEWS: Pattern()}
SHORTEST_LINE, LONGEST_LINE = 10, 24  # characters: 17 lines with their labels fit into 512
LONGEST_REVIEW = 16  # tokens
TUNED_LAYERS = 10  # of SmolLM2's 30, the upper ones: the lower 20 are not walked back through
MARGIN = 0.05  # "as good", in accuracy


@dataclass(frozen=True)
class Plan:
    """What one model does: k examples in context and to fine-tune on, rates, seeds, questions (here, elsewhere)."""

    model: str
    in_context: tuple[int, ...]
    tuned: tuple[int, ...]
    rates: tuple[float, ...]
    steps: int
    batch_size: int
    seeds: tuple[int, ...]
    judged: tuple[int, int]
    tuning_seeds: tuple[int, ...] = (101,)

    @property
    def task(self) -> str:
        return REVIEWS if self.model == SMOLLM2 else LINES


RATES = (1e-3, 3e-3, 1e-2)
PLANS = {
    "quick": (Plan("tiny", (0, 4, 16), (4, 16, 128), RATES, 60, 16, (0, 1, 2, 3, 4), (60, 60), (101, 102)),),
    "full": (
        Plan("tiny", (0, 4, 16), (4, 16, 128), RATES, 60, 16, tuple(range(10)), (60, 60), (101, 102)),
        Plan("small", (0, 4, 16), (4, 16, 128), RATES, 60, 16, tuple(range(10)), (60, 60), (101, 102)),
        Plan(SMOLLM2, (0, 4, 16), (16,), (5e-4, 2e-3), 16, 4, (0, 1, 2, 3, 4), (20, 10)),
    ),
}
LENGTHS = {"quick": (128, 256, 512, 1024, 2048), "full": (128, 256, 512, 1024, 2048, 4096)}
SMOLLM2_LENGTHS = (64, 256, 512)
WHOLE, TILED = "whole matrix", "in tiles"
TUNED_AT = 16  # the k whose validation chooses the rate


def runs(mode: str, rows: Sequence[Row]) -> list[Config]:
    """Prompts, rates on validation, fine-tuning at the best rate, and what a prompt costs."""
    wanted: list[Config] = [
        {"kind": COST, "model": COST, "attention": way, "length": n} for way in (WHOLE, TILED) for n in LENGTHS[mode]
    ]
    if mode == "full":
        wanted += [{"kind": COST, "model": SMOLLM2, "attention": TILED, "length": n} for n in SMOLLM2_LENGTHS]
    for plan in PLANS[mode]:
        for k in plan.in_context:
            wanted += [_config(plan, CONTEXT, k, None, s, "test") for s in plan.seeds[: None if k else 1]]
        tuning = [_config(plan, TUNED, TUNED_AT, rate, s, "val") for rate in plan.rates for s in plan.tuning_seeds]
        wanted += tuning
        rate = tuned(tuning, rows, "rate")
        if rate is not None:
            wanted += [_config(plan, TUNED, k, rate, s, "test") for k in plan.tuned for s in plan.seeds]
    return wanted


def _config(plan: Plan, way: str, k: int, rate: float | None, seed: int, split: str) -> Config:
    config: Config = {"task": plan.task, "model": plan.model, "way": way, "k": k, "seed": seed, "split": split}
    config["judged"] = list(plan.judged)
    if way == TUNED:
        config |= {"rate": rate, "steps": plan.steps, "batch_size": plan.batch_size}
    return config


def run(config: Config, folder: Path) -> Row:
    """The cost of a prompt of one length; or the share of right answers here and elsewhere, value being that here.

    calibrated_…: with the scores of a question without content subtracted (`minipeft.few_shot.predict`).
    """
    if config.get("kind") == COST:
        return cost(config["model"], config["attention"], config["length"])
    model, encode = _model(config["model"], folder)
    pattern = PATTERNS[config["task"]]
    data = _examples(config["task"], folder, encode)
    examples = draw(data[HERE[config["task"]]]["train"], config["k"], config["seed"])
    if config["way"] == CONTEXT:
        return answers(model, encode, pattern, examples, data, config)
    lora = LoraConfig(r=8, lora_alpha=16, layers_to_transform=list(range(30 - TUNED_LAYERS, 30)))
    adapter: Any = adapted(model, lora if config["model"] == SMOLLM2 else None, config["seed"])
    batch = pattern_batch(encode, pattern, examples)
    batches = Batches(batch, min(config["k"], config["batch_size"]), config["seed"], trim="mask")
    try:
        if not train(adapter, batches, config["rate"], config["steps"], seed=config["seed"], max_norm=1.0):
            return {"value": None}
        return answers(adapter.eval(), encode, pattern, [], data, config)
    finally:
        if adapter is not model:
            adapter.unload()  # SmolLM2 is loaded once a process and is as it was


def draw(pool: Sequence[Example], k: int, seed: int) -> list[Example]:
    """k examples, as many of each label, in a random order."""
    rng = np.random.default_rng((seed, k, 11))
    picked: list[Example] = []
    for label in (0, 1):
        of_label = [e for e in pool if e[1] == label]
        picked += [of_label[i] for i in rng.choice(len(of_label), k // 2, replace=False)]
    return [picked[i] for i in rng.permutation(k)]


def answers(
    model: Any,
    encode: Encode,
    pattern: Pattern,
    examples: Sequence[Example],
    data: Mapping[str, Mapping[str, Sequence[Example]]],
    config: Config,
) -> Row:
    """Shares of right answers in every domain, from the raw scores and from the calibrated ones."""
    task, split = config["task"], config["split"]
    before = encode(pattern.demonstrations(examples)) if examples else []
    labels = [encode(label) for label in pattern.labels]
    neutral = label_scores(model, before, [encode(pattern.question("N/A"))], labels)[0]
    n_here, n_elsewhere = config["judged"]
    raw, calibrated = {}, {}
    asked = {HERE[task]: n_here} | dict.fromkeys(ELSEWHERE[task] if split == "test" else (), n_elsewhere)
    for domain, n in asked.items():
        questions = list(data[domain][split])[:n]
        scores = label_scores(model, before, [encode(pattern.question(text)) for text, _ in questions], labels)
        right = np.array([label for _, label in questions])
        raw[domain] = float((predict(scores) == right).mean())
        calibrated[domain] = float((predict(scores, neutral) == right).mean())
    row: Row = {"value": raw[HERE[task]], "here": raw[HERE[task]], "calibrated_here": calibrated[HERE[task]]}
    if split == "test":
        row["elsewhere"] = float(np.mean([raw[d] for d in ELSEWHERE[task]]))
        row["calibrated_elsewhere"] = float(np.mean([calibrated[d] for d in ELSEWHERE[task]]))
        row["domains"] = raw
    return {**row, "prompt_tokens": len(before)}


def cost(model_name: str, attention: str, length: int) -> Row:
    """A forward pass over a prompt of ``length`` tokens: seconds, and bytes at its peak beside the weights.

    attention: the whole matrix of scores at once, as the page of `Attention` reads, or in tiles, as it runs on a CPU.

    Of the cost model the best time of three passes, of SmolLM2 of one. scores: how many attention scores the prompt
    has in all; score_bytes: those of one layer in float32.
    """
    if model_name == SMOLLM2:
        model, _ = _smollm2()
    else:
        model = DecoderLM(DecoderConfig.gpt2(vocab_size=96, context=length, **COST_SIZES), rng=0).eval()
    config = model.config
    ids = np.random.default_rng(0).integers(0, 96, (1, length))
    times = []
    with no_grad(), reference() if attention == WHOLE else nullcontext():
        for _ in range(1 if model_name == SMOLLM2 else 3):
            start = time.perf_counter()
            model.hidden(ids)
            times.append(time.perf_counter() - start)
        tracemalloc.start()
        try:
            model.hidden(ids)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    return {
        "pass_seconds": min(times),
        "peak_bytes": peak,
        "scores": prompt_scores(length, config.n_layers, config.n_heads),
        "score_bytes": 4 * config.n_heads * length**2,
    }


@lru_cache(maxsize=1)
def _smollm2() -> tuple[Any, BytePairs]:
    home = fetch("smollm2")
    return DecoderLM.from_pretrained(home).eval(), BytePairs.from_gguf(home)


def _model(name: str, folder: Path) -> tuple[Any, Encode]:
    if name == SMOLLM2:
        model, pairs = _smollm2()
        return model, pairs.encode
    tokenizer = CharTokenizer.load(folder / "characters.json")
    return DecoderLM.from_pretrained(folder / name).eval(), lambda text: tokenizer.encode(text).tolist()


def _examples(task: str, folder: Path, encode: Encode) -> dict[str, dict[str, list[Example]]]:
    """Examples by domain and part; every part has as many of each label at its beginning as it can."""
    if task == LINES:
        found = json.loads((folder / "lines.json").read_text(encoding="utf-8"))
        return {d: {p: [(t, int(c)) for t, c in part] for p, part in parts.items()} for d, parts in found.items()}
    data = load_sentiment()
    examples: dict[str, dict[str, list[Example]]] = {}
    for source in SOURCES:
        texts, labels = split_sentiment({source: data[source]}, seed=2024)
        examples[source] = {}
        for part in texts:
            short = [
                (t, int(c))
                for t, c in zip(texts[part], labels[part], strict=True)
                if len(encode(t)) <= LONGEST_REVIEW and "\n" not in t
            ]
            examples[source][part] = _alternating(short)
    return examples


def _alternating(examples: Sequence[Example]) -> list[Example]:
    """The same examples in a random order, labels in turn as long as there are both."""
    order = np.random.default_rng(7).permutation(len(examples))
    by_label = [[examples[i] for i in order if examples[i][1] == c] for c in (0, 1)]
    n = min(map(len, by_label))
    paired = [e for pair in zip(by_label[0][:n], by_label[1][:n], strict=True) for e in pair]
    return [*paired, *by_label[0][n:], *by_label[1][n:]]


def prepare(mode: str, folder: Path, steps: int | None = None) -> None:
    """Lines of code, prose and comments; our models, pretrained on another part of the same texts; what is fetched."""
    documentation, code = documentation_text(), library_source()
    tokenizer = CharTokenizer.from_text(documentation + code)
    tokenizer.save(folder / "characters.json")
    cut_prose, cut_code = len(documentation) * 7 // 10, len(code) * 7 // 10
    write_json(folder / "lines.json", _lines(documentation[cut_prose:], *code_and_comments(code, cut_code)))
    tokens = tokenizer.encode(documentation[:cut_prose] + code[:cut_code])
    steps = steps or (600 if mode == "full" else 200)
    for plan in PLANS[mode]:
        if plan.model == SMOLLM2:
            fetch("smollm2")
            fetch("sentiment")
            continue
        model = DecoderLM(DecoderConfig.gpt2(vocab_size=tokenizer.vocab_size, **SIZES[plan.model]), rng=0)
        batches = LanguageModelBatches(tokens, batch_size=4, length=448, seed=0)
        pretrain(model, batches, steps, folder / plan.model)


def code_and_comments(source: str, start: int) -> tuple[list[str], list[str]]:
    """Lines of code and comments (without their #) behind the character ``start``, as Python's tokenizer tells them.

    Lines inside strings of several lines are neither.
    """
    first = source.count("\n", 0, start) + 2
    lines = source.split("\n")
    comments, neither = [], set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#"):
            neither.add(token.start[0])
            if token.start[0] >= first:
                comments.append(token.string.lstrip("#:! "))
        elif token.type == tokenize.STRING and "\n" in token.string:
            neither.update(range(token.start[0], token.end[0] + 1))
    return [lines[i - 1] for i in range(first, len(lines)) if i not in neither], comments


def _lines(documentation: str, code: Sequence[str], comments: Sequence[str]) -> dict[str, dict[str, list[Example]]]:
    """The two domains of the lines task, each in three parts that share no line."""
    prose = documentation.split("\n")
    half = len(code) // 2
    domains = {HERE[LINES]: (prose, code[:half]), ELSEWHERE[LINES][0]: (comments, code[half:])}
    seen: set[str] = set()
    found = {}
    for domain, kinds in domains.items():
        parts: dict[str, list[Example]] = {"train": [], "val": [], "test": []}
        for label, texts in enumerate(kinds):
            plain = dict.fromkeys(t.strip() for t in texts)
            kept = [
                t
                for t in plain
                if SHORTEST_LINE <= len(t) <= LONGEST_LINE and t not in seen and sum(c.isalpha() for c in t) > 5
            ]
            seen.update(kept)
            order = np.random.default_rng(5).permutation(len(kept))
            ends = (len(kept) // 2, len(kept) * 6 // 10)
            for part, indices in zip(parts, np.split(order, ends), strict=True):
                parts[part] += [(kept[i], label) for i in indices]
        found[domain] = {part: _alternating(examples) for part, examples in parts.items()}
    return found


def results(rows: Sequence[Row], where: str, **wanted: Any) -> list[float]:
    """The test results ``where`` ("here", "elsewhere", "calibrated_…"), seeds in order; without diverged runs."""
    found = sorted(select(rows, split="test", **wanted), key=lambda r: r["seed"])
    return [r[where] for r in found if r["value"] is not None]


@dataclass(frozen=True)
class Cell:
    """One comparison of the lecture's table: both ways on one task, their examples drawn by the same seeds."""

    task: str
    where: str
    in_context: tuple[str, int]  # model, k
    tuned: tuple[str, int]
    difference: float  # fine-tuned minus in context
    p: float
    p_holm: float  # corrected for all cells of all grids

    @property
    def better(self) -> str:
        """The way that is significantly better at 5 %, uncorrected as in the lecture's table; or nothing."""
        return "" if self.p >= 0.05 else TUNED if self.difference > 0 else CONTEXT


def cells(rows: Sequence[Row]) -> list[Cell]:
    """Every way in context against every fine-tuned one on the same task, here and elsewhere; k = 0 has no seeds."""
    found = []
    for task in dict.fromkeys(r["task"] for r in rows if "task" in r):
        done = select(rows, task=task, split="test")
        pairs = {
            way: list(dict.fromkeys((r["model"], r["k"]) for r in select(done, way=way))) for way in (CONTEXT, TUNED)
        }
        for where in ("here", "elsewhere"):
            for a in pairs[CONTEXT]:
                for b in pairs[TUNED]:
                    x = results(done, where, way=CONTEXT, model=a[0], k=a[1])
                    y = results(done, where, way=TUNED, model=b[0], k=b[1])
                    if a[1] and min(len(x), len(y)) > 1:
                        test = welch(y, x)
                        found.append((task, where, a, b, test.difference, test.p))
    corrected = [float(h) for h in holm([c[-1] for c in found])] if found else []
    return [Cell(*c, h) for c, h in zip(found, corrected, strict=True)]


def _percent(values: Sequence[float]) -> str:
    if not values:
        return ""
    mean, spread = mean_and_spread(values)
    return f"{100 * mean:.1f}" + (f" ± {100 * spread:.1f}" if len(values) > 1 else "")


def tables(rows: Sequence[Row]) -> list[Table]:
    """Accuracies, the grid of tests, and the cost of a prompt."""
    found = []
    body = []
    keys = dict.fromkeys((r["task"], r["model"], r["way"], r["k"]) for r in rows if r.get("split") == "test")
    for task, model, way, k in keys:
        wanted = {"task": task, "model": model, "way": way, "k": k}
        wheres = ("here", "elsewhere", "calibrated_here", "calibrated_elsewhere")
        body.append((task, model, way, k, *(_percent(results(rows, w, **wanted)) for w in wheres)))
    if body:
        tuned = {r["model"]: r for r in rows if r.get("way") == TUNED and r.get("split") == "test"}
        budget = "; ".join(
            f"{m}: {r['steps']} steps of at most {r['batch_size']}, rate {r['rate']:g}, "
            + (f"LoRA r = 8 on q and v of the upper {TUNED_LAYERS} layers" if m == SMOLLM2 else "all parameters")
            for m, r in tuned.items()
        )
        seeds = {f"{m}: {len({r['seed'] for r in select(rows, model=m, split='test')})} seeds" for m in tuned}
        judged = {m: r["judged"] for m, r in tuned.items()}
        found.append(
            Table(
                "Right answers, %",
                ("task", "model", "way", "k", "here", "elsewhere", "here, calibrated", "elsewhere, calibrated"),
                body,
                f"Mean ± standard deviation over seeds ({', '.join(sorted(seeds))}). Questions here and in each place "
                f"elsewhere: {judged}. Fine-tuning: {budget}; rate chosen on validation at k = {TUNED_AT}.",
            )
        )
    tests = cells(rows)
    if tests:
        found.append(
            Table(
                "Fine-tuned minus in context, Welch's t-test",
                ("task", "where", "in context", "fine-tuned", "points", "p", "p, Holm", "better at 5 %"),
                [
                    (
                        c.task,
                        c.where,
                        _named(c.in_context),
                        _named(c.tuned),
                        100 * c.difference,
                        c.p,
                        c.p_holm,
                        c.better,
                    )
                    for c in tests
                ],
                f"p is for one cell, as in the lecture's table; Holm's corrects for all {len(tests)}.",
            )
        )
    costs = select(rows, kind=COST)
    if costs:
        found.append(
            Table(
                "One pass over a prompt of N tokens",
                (
                    "model",
                    "attention",
                    "N",
                    "seconds",
                    "peak beside the weights, MiB",
                    "scores of a layer, MiB",
                    "scores in all",
                ),
                [
                    (
                        r["model"],
                        r["attention"],
                        r["length"],
                        r["pass_seconds"],
                        r["peak_bytes"] / 2**20,
                        r["score_bytes"] / 2**20,
                        f"{r['scores']:,}",
                    )
                    for r in sorted(costs, key=lambda r: (r["model"], r["attention"], r["length"]))
                ],
                f"cost: {COST_SIZES}. Scores: layers x heads x N² (formula); seconds and peak are measured.",
            )
        )
    return found


def _named(arm: tuple[str, int]) -> str:
    return f"{arm[0]}, k={arm[1]}"


def _called(model: str) -> str:
    return "SmolLM2" if model == SMOLLM2 else "two layers, d = 64"


def exponent(rows: Sequence[Row], what: str) -> float:
    """b in cost ~ N^b between the two longest prompts."""
    a, b = sorted(rows, key=lambda r: r["length"])[-2:]
    return math.log(b[what] / a[what]) / math.log(b["length"] / a["length"])


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Does fine-tuning win with the same examples, and with more; does it hold elsewhere; is a prompt's cost O(N²)?"""
    found = []
    for model in dict.fromkeys(r["model"] for r in rows if "way" in r):
        for where, place in (("here", "where the examples come from"), ("elsewhere", "out of the domain")):
            x = results(rows, where, model=model, way=CONTEXT, k=16)
            y = results(rows, where, model=model, way=TUNED, k=16)
            if min(len(x), len(y)) < 2:
                continue
            test = welch(y, x)
            outcome = UNDECIDED if test.p >= 0.05 else REPRODUCED if test.difference > 0 else NOT_REPRODUCED
            said = f"{_percent(y)} % against {_percent(x)} %, p = {test.p:.2g}"
            claim = f"{model}: fine-tuning on 16 examples beats the same 16 in the prompt, {place}"
            found.append(Verdict(claim, outcome, said))
        most = max((r["k"] for r in select(rows, model=model, way=TUNED, split="test")), default=16)
        x = results(rows, "here", model=model, way=CONTEXT, k=16)
        y = results(rows, "here", model=model, way=TUNED, k=most)
        if most > 16 and min(len(x), len(y)) > 1:
            test = welch(y, x)
            outcome = UNDECIDED if test.p >= 0.05 else REPRODUCED if test.difference > 0 else NOT_REPRODUCED
            claim = f"{model}: with more examples ({most}) than a prompt holds, fine-tuning beats 16 in the prompt"
            found.append(Verdict(claim, outcome, f"{_percent(y)} % against {_percent(x)} %, p = {test.p:.2g}"))
        inside = results(rows, "here", model=model, way=TUNED, k=16)
        outside = results(rows, "elsewhere", model=model, way=TUNED, k=16)
        lost = results(rows, "here", model=model, way=CONTEXT, k=16)
        kept = results(rows, "elsewhere", model=model, way=CONTEXT, k=16)
        if min(map(len, (inside, outside, lost, kept))) > 1:
            a = [o - i for i, o in zip(inside, outside, strict=True)]
            b = [o - i for i, o in zip(lost, kept, strict=True)]
            test = welch([v + MARGIN for v in a], b)
            outcome = UNDECIDED if test.p >= 0.1 else REPRODUCED if test.difference > 0 else NOT_REPRODUCED
            found.append(
                Verdict(
                    f"{model}: out of the domain fine-tuning loses no more than a prompt (within {100 * MARGIN:.0f} "
                    "points)",
                    outcome,
                    f"it changes by {100 * float(np.mean(a)):+.1f} points, a prompt by {100 * float(np.mean(b)):+.1f}",
                )
            )
    for way in (WHOLE, TILED):
        costs = select(rows, kind=COST, model=COST, attention=way)
        if len(costs) < 2:
            continue
        memory, seconds = exponent(costs, "peak_bytes"), exponent(costs, "pass_seconds")
        longest = max(r["length"] for r in costs)
        said = f"up to N = {longest:,} memory grows as N^{memory:.2f} and time as N^{seconds:.2f} at the long end"
        if way == WHOLE:
            least = min(memory, seconds)
            outcome = REPRODUCED if least > 1.5 else NOT_REPRODUCED if least < 1.25 else UNDECIDED
            found.append(Verdict("A prompt of N tokens costs O(N²) memory and time", outcome, said))
        else:
            outcome = NOT_REPRODUCED if memory < 1.25 else REPRODUCED if memory > 1.5 else UNDECIDED
            found.append(Verdict("O(N²) memory even where the scores are computed in tiles", outcome, said))
    return found


def figures(rows: Sequence[Row], stem: Path) -> Mapping[Path, str]:
    """The coloured table of every task, and the cost of a prompt."""
    from minipeft.lab.framework import plots

    captions = {}
    tests = cells(rows)
    if tests:
        groups = dict.fromkeys((c.task, c.where) for c in tests)
        path = _draw_cells([(", ".join(g), [c for c in tests if (c.task, c.where) == g]) for g in groups], stem)
        captions[path] = (
            "Accuracy fine-tuned minus in context, in points. Blue and striped: fine-tuning is better, red and dotted: "
            "the prompt is, by Welch's t-test at 5 % (as in the lecture's table); a star: also after Holm's correction."
        )
    costs = select(rows, kind=COST)
    if costs:
        kinds = dict.fromkeys((r["model"], r["attention"]) for r in costs)
        by_model = {f"{_called(m)}, {a}": select(costs, model=m, attention=a) for m, a in kinds}
        time_lines = {m: {r["length"]: [r["pass_seconds"]] for r in c} for m, c in by_model.items()}
        memory = {m: {r["length"]: [r["peak_bytes"] / 2**20] for r in c} for m, c in by_model.items()}
        known = {
            f"{name.rpartition(',')[0]}: scores of a layer": {
                r["length"]: r["score_bytes"] / 2**20 for r in sorted(c, key=lambda r: r["length"])
            }
            for name, c in by_model.items()
        }
        path = plots.lines(
            [
                ("time of a pass", "prompt of N tokens", "seconds", time_lines, {}),
                ("memory beside the weights", "prompt of N tokens", "MiB", memory, known),
            ],
            stem.with_name(stem.name + "-cost"),
            log_base=2,
            log_y=True,
        )
        captions[path] = "What a prompt costs against its length: measured, and the attention scores by their formula."
    return captions


def _draw_cells(panels: Sequence[tuple[str, Sequence[Cell]]], stem: Path) -> Path:
    """Draw grids of comparisons: rows in context, columns fine-tuned; see the caption."""
    from minipeft.lab.framework import plots

    colours = {TUNED: ("#9ecae8", "//"), CONTEXT: ("#f2a99b", ".."), "": ("white", "")}
    n_rows = -(-len(panels) // 2)
    width = max(len({c.tuned for c in found}) for _, found in panels)
    heights = [
        max(len({c.in_context for c in found}) for _, found in panels[i : i + 2]) for i in range(0, len(panels), 2)
    ]
    size = (3.0 + 1.8 * width, sum(1.2 + 0.45 * h for h in heights))
    with plots.sheet(n_rows, 2, size, height_ratios=[1.2 + 0.45 * h for h in heights]) as (figure, axes):
        for ax in axes.flat[len(panels) :]:
            ax.set_axis_off()
        for ax, (title, found) in zip(axes.flat, panels, strict=False):
            rows = list(dict.fromkeys(c.in_context for c in found))
            columns = list(dict.fromkeys(c.tuned for c in found))
            for c in found:
                x, y = columns.index(c.tuned), rows.index(c.in_context)
                colour, hatch = colours[c.better]
                ax.fill([x, x + 1, x + 1, x], [y, y, y + 1, y + 1], fc=colour, ec="0.4", lw=0.6)
                if hatch:
                    ax.fill([x, x + 1, x + 1, x], [y, y, y + 1, y + 1], fill=False, ec="0.55", lw=0, hatch=hatch)
                star = "*" if c.p_holm < 0.05 and c.better else ""
                box = {"fc": "white", "ec": "none", "pad": 0.8, "alpha": 0.8}
                ax.text(
                    x + 0.5, y + 0.5, f"{100 * c.difference:+.0f}{star}", ha="center", va="center", fontsize=9, bbox=box
                )
            ax.set_xticks(np.arange(len(columns)) + 0.5, [f"{m}\nk={k}" for m, k in columns])
            ax.set_yticks(np.arange(len(rows)) + 0.5, [f"{m}, k={k}" for m, k in rows])
            ax.set_xlabel(TUNED)
            ax.set_ylabel(CONTEXT)
            ax.set_xlim(0, len(columns))
            ax.set_ylim(len(rows), 0)
            ax.grid(False)
            ax.set_title(title, fontsize=9)
        return plots.save(figure, stem)[0]


EXPERIMENT = Experiment(
    name="few_shot",
    title="A few examples: in the prompt, or to fine-tune on?",
    claim="With the same few examples fine-tuning beats in-context learning; a prompt of N tokens costs O(N²).",
    runs=runs,
    run=run,
    tables=tables,
    verdicts=verdicts,
    draw=figures,
    prepare=prepare,
    published=(
        Published(
            "GPT-3, validation accuracy in %",
            "Hu et al. 2021 and Brown et al. 2020, as in the lecture",
            ("method", "MNLI-m", "RTE"),
            (("few-shot", 40.6, 69.0), ("fine-tuned", 89.5, 85.4)),
        ),
        Published(
            "OPT 125M to 30B, 16 examples, 10 seeds",
            "Mosbach et al. 2023 (arXiv:2305.16938), abstract",
            ("finding",),
            (("both ways generalize similarly out of the domain, with a large variation",),),
        ),
    ),
    data=(
        "lines: lines of Python's source code, documentation and comments, models of our own pretrained on another "
        "part of them; reviews: sentences of at most 16 tokens about films, goods and restaurants "
        "(Kotzias et al. 2015), SmolLM2-135M with weights in 4 bits."
    ),
    needs=("smollm2", "sentiment"),
)
