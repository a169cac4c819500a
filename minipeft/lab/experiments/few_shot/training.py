"""The runs: answers with examples in the prompt or after fine-tuning on them, and what a prompt costs."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from minipeft.accounting.timing import seconds_of
from minipeft.autograd import no_grad
from minipeft.data.batches import Batches, LanguageModelBatches
from minipeft.data.bpe import BytePairs
from minipeft.data.fetch import fetch
from minipeft.data.text import CharTokenizer, documentation_text, library_source
from minipeft.few_shot import Encode, Example, Pattern, label_scores, pattern_batch, predict, prompt_scores
from minipeft.files.config import write_json
from minipeft.lab.experiments.few_shot import examples
from minipeft.lab.experiments.few_shot.examples import ELSEWHERE, HERE, LINES, REVIEWS
from minipeft.lab.framework.experiment import Config, Row, tuned
from minipeft.lab.framework.training import adapted, pretrain, train
from minipeft.models import DecoderConfig, DecoderLM
from minipeft.peft import LoraConfig
from minipeft.specialize import reference

CONTEXT, TUNED = "in context", "fine-tuned"
SMOLLM2, COST = "smollm2", "cost"
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"d_model": 48, "n_layers": 2, "n_heads": 4, "context": 512},
    "small": {"d_model": 96, "n_layers": 4, "n_heads": 4, "context": 512},
}
COST_SIZES = {"d_model": 64, "n_layers": 2, "n_heads": 4}
PATTERNS = {LINES: Pattern("{text} => ", ("p", "c"), "\n"), REVIEWS: Pattern()}
TUNED_LAYERS = 10  # of SmolLM2's 30, the upper ones: the lower 20 are not walked back through


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
    """Return the runs: prompts, rates on validation, fine-tuning at the best rate, and what a prompt costs."""
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
    """Return the cost of a prompt, or the share of right answers here and elsewhere; value is the share here.

    calibrated_…: with the scores of a question without content subtracted (`minipeft.few_shot.predict`).
    """
    if config.get("kind") == COST:
        return cost(config["model"], config["attention"], config["length"])
    model, encode = _model(config["model"], folder)
    pattern = PATTERNS[config["task"]]
    data = examples.load(config["task"], folder, encode)
    shots = examples.sample(data[HERE[config["task"]]]["train"], config["k"], config["seed"])
    if config["way"] == CONTEXT:
        return answers(model, encode, pattern, shots, data, config)
    lora = LoraConfig(r=8, lora_alpha=16, layers_to_transform=list(range(30 - TUNED_LAYERS, 30)))
    adapter: Any = adapted(model, lora if config["model"] == SMOLLM2 else None, config["seed"])
    batch = pattern_batch(encode, pattern, shots)
    batches = Batches(batch, min(config["k"], config["batch_size"]), config["seed"], trim="mask")
    try:
        if not train(adapter, batches, config["rate"], config["steps"], seed=config["seed"], max_norm=1.0):
            return {"value": None}
        return answers(adapter.eval(), encode, pattern, [], data, config)
    finally:
        if adapter is not model:
            adapter.unload()  # SmolLM2 is loaded once a process and is as it was


def answers(
    model: Any,
    encode: Encode,
    pattern: Pattern,
    shots: Sequence[Example],
    data: Mapping[str, Mapping[str, Sequence[Example]]],
    config: Config,
) -> Row:
    """Return shares of right answers in every domain, from the raw scores and from the calibrated ones."""
    task, split = config["task"], config["split"]
    before = encode(pattern.demonstrations(shots)) if shots else []
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
    """Return the cost of a pass over a prompt of ``length`` tokens: seconds, and peak bytes besides the weights.

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
    with no_grad(), reference() if attention == WHOLE else nullcontext():
        times = [seconds_of(partial(model.hidden, ids)) for _ in range(1 if model_name == SMOLLM2 else 3)]
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


def prepare(mode: str, folder: Path, steps: int | None = None) -> None:
    """Write the lines of code, prose and comments; pretrain our models on other parts of the texts; fetch the rest."""
    documentation, code = documentation_text(), library_source()
    tokenizer = CharTokenizer.from_text(documentation + code)
    tokenizer.save(folder / "characters.json")
    cut_prose, cut_code = len(documentation) * 7 // 10, len(code) * 7 // 10
    write_json(
        folder / "lines.json", examples.lines(documentation[cut_prose:], *examples.code_and_comments(code, cut_code))
    )
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
