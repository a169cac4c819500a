"""Few examples or many: full fine-tuning, prompts, prefixes and LoRA (the lecture's table; Hu et al. 2021, Table 16).

A prompt is trained as embeddings before the text (PrefixEmbed), a prefix as keys and values in every layer
(PrefixLayer). Where they start matters, so both are tried from random numbers and from words: a prompt from the words'
embeddings, a prefix from the keys and values that the model computes for the words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from minipeft.lab.framework import study
from minipeft.lab.framework.experiment import UNDECIDED, Experiment, Published, Row, Table, Verdict, select
from minipeft.lab.framework.study import FROM_WORDS, PROSE, RANDOM, SENTIMENT, Plan, Variant
from minipeft.peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig

P = 8  # tokens of a prompt or prefix
FULL, LORA = "full", "LoRA"
PROMPTS, PREFIXES = ("prompt, random", "prompt, words"), ("prefix, random", "prefix, words")
METHODS = (FULL, *PROMPTS, *PREFIXES, LORA)


def variants(
    full: tuple[float, ...], lora: tuple[float, ...], prompt: tuple[float, ...], prefix: tuple[float, ...]
) -> tuple[Variant, ...]:
    """Return the six variants, each kind with its rates."""
    return (
        Variant(FULL, None, full),
        Variant(PROMPTS[0], PromptTuningConfig(num_virtual_tokens=P, prompt_tuning_init="RANDOM"), prompt, RANDOM),
        Variant(PROMPTS[1], PromptTuningConfig(num_virtual_tokens=P), prompt, FROM_WORDS),
        Variant(PREFIXES[0], PrefixTuningConfig(num_virtual_tokens=P), prefix, RANDOM),
        Variant(PREFIXES[1], PrefixTuningConfig(num_virtual_tokens=P), prefix, FROM_WORDS),
        Variant(LORA, LoraConfig(r=4, lora_alpha=4), lora),
    )


_PROSE = variants((1e-3, 3e-3, 1e-2), (1e-2, 3e-2, 1e-1), (1e-2, 3e-2, 1e-1), (1e-1, 3e-1, 1.0))
_PROSE_LONG = variants((1e-3, 3e-3), (1e-2, 3e-2), (3e-2, 1e-1), (3e-1, 1.0))  # two rates each: the runs are long
_SENTIMENT = variants((1e-4, 5e-4), (2e-3, 1e-2), (1e-2, 5e-2), (1e-2, 5e-2))
PLANS = {
    "quick": (
        Plan(PROSE, _PROSE, 50, 8, (0, 1, 2), size="tiny", n=(100,)),
        Plan(PROSE, _PROSE, 125, 8, (0, 1, 2), size="tiny", n=(1000,)),
    ),
    "full": (
        Plan(PROSE, _PROSE, 60, 8, (0, 1, 2, 3, 4), size="tiny", n=(100,)),
        Plan(PROSE, _PROSE, 125, 8, (0, 1, 2, 3, 4), size="tiny", n=(1000,)),
        Plan(PROSE, _PROSE_LONG, 625, 16, (0, 1, 2), size="tiny", n=(10000,)),
        Plan(SENTIMENT, _SENTIMENT, 20, 16, (0, 1, 2), n=(100, 1000), judged={"val": 60, "test": 200}),
    ),
}


def sizes_of(rows: Sequence[Row], task: str) -> list[int]:
    """Return the n of a task, from few to many."""
    return sorted({r["n"] for r in select(rows, task=task)})


def tables(rows: Sequence[Row]) -> list[Table]:
    """Return a table for each task, in the form of the published one: a row for each method, n in the columns."""
    found = []
    for task in study.tasks_of(rows):
        ns = sizes_of(rows, task)
        body = []
        for variant in METHODS:
            cells = [study.shown(task, study.values(rows, task=task, arm=variant, n=n)) for n in ns]
            rates = ", ".join(study.at_edge(rows, task=task, arm=variant, n=n) for n in ns)
            body.append((variant, f"{select(rows, task=task, arm=variant)[0]['trained']:,}", *cells, rates))
        what = "windows of 64 characters" if task == PROSE else "sentences"
        steps = ", ".join(
            f"{r['steps']} of {r['batch_size']} at n = {n:,}"
            for n in ns
            for r in select(rows, task=task, n=n, arm=FULL)[:1]
        )
        found.append(
            Table(
                f"n examples: {task}, test, {study.UNITS[task]}",
                ("method", "trained", *(f"n = {n:,}" for n in ns), "rates"),
                body,
                f"n {what}. Steps: {steps}. {study.note(rows, task)}",
            )
        )
    return found


def better_start(rows: Sequence[Row], task: str, n: int, kind: Sequence[str]) -> str:
    """Return which of the two starts does better on validation, at its best rate."""
    return study.best_on_validation(select(rows, n=n), task, kind) or kind[0]


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Compare LoRA with full, with prompts and with prefixes, their starts, and the gap as n grows."""
    found = []
    for task in study.tasks_of(rows):
        ns = sizes_of(rows, task)
        of = {(a, n): study.values(rows, task=task, arm=a, n=n) for a in METHODS for n in ns}
        if min(map(len, of.values())) < 2:
            found.append(Verdict(f"{task}: few examples or many", UNDECIDED, "too few finished runs"))
            continue
        few, many = ns[0], ns[-1]
        for n in dict.fromkeys((few, many)):
            text = f"with n = {n:,} LoRA is as good as full fine-tuning (within {study.nearly(task)})"
            found.append(study.claim(task, text, of[LORA, n], of[FULL, n], "it gains {}", study.MARGIN[task]))
        best = {n: [better_start(rows, task, n, kind) for kind in (PROMPTS, PREFIXES)] for n in ns}
        with_few = f"with n = {few:,} a"
        for variant in best[few]:
            text = f"{with_few} {variant.partition(',')[0]} is worse than LoRA"
            why = f"LoRA against {variant} (the better start on validation): {{}}"
            found.append(study.claim(task, text, of[LORA, few], of[variant, few], why))
        for random, words in (PROMPTS, PREFIXES):
            kind = random.partition(",")[0]
            text = f"{with_few} {kind} that starts from words is better than one that starts at random"
            found.append(study.claim(task, text, of[words, few], of[random, few], "words gain {}"))
        if few != many:
            gaps = {n: study.gain(task, of[LORA, n], of[best[n][0], n]) for n in (few, many)}
            a, b = ([-g for g in _differences(task, of[LORA, n], of[best[n][0], n])] for n in (few, many))
            found.append(
                Verdict(
                    f"{task}: the prompt's gap to LoRA is smaller with n = {many:,} than with n = {few:,}",
                    study.at_least(SENTIMENT, b, a),  # differences, already signed: higher is better
                    f"{study.in_words(task, gaps[few])} with n = {few:,}, {study.in_words(task, gaps[many])} with "
                    f"n = {many:,}",
                )
            )
    return found


def _differences(task: str, a: Sequence[float], b: Sequence[float]) -> list[float]:
    """Return by how much a is better, seed by seed."""
    return [study.gain(task, [x], [y]) for x, y in zip(a, b, strict=False)]


def draw(rows: Sequence[Row], stem: Path) -> Mapping[Path, str]:
    """Draw quality against n, one panel for each task."""
    from minipeft.lab.framework import plots

    panels: list[plots.Panel] = []
    for task in study.tasks_of(rows):
        ns = sizes_of(rows, task)
        lines = {variant: {n: study.scaled(rows, task, variant, n=n) for n in ns} for variant in METHODS}
        panels.append((task, "training examples n", study.axis(task), lines, {}))
    path = plots.lines(panels, stem)
    return {path: "Few examples or many: six ways to adapt; mean ± standard deviation over seeds."}


EXPERIMENT = Experiment(
    name="low_data",
    title="Few examples or many",
    claim="LoRA is as good as full fine-tuning with few and with many examples; prompts and prefixes need many.",
    runs=study.runs_of(PLANS),
    run=study.run,
    tables=tables,
    verdicts=verdicts,
    draw=draw,
    prepare=study.preparation(PLANS),
    published=(
        Published(
            "Table 16, GPT-3 on MNLI-n, validation accuracy in % (±0.3)",
            "Hu et al. 2021 (arXiv:2106.09685v2), as in the lecture",
            ("method", "n = 100", "n = 1k", "n = 10k", "n = 392k"),
            (
                ("full", 60.2, 85.8, 88.9, 89.5),
                ("PrefixEmbed (prompt)", 37.6, 75.2, 79.5, 88.6),
                ("PrefixLayer (prefix)", 48.3, 82.5, 85.9, 89.6),
                ("LoRA", 63.8, 85.6, 89.2, 91.7),
            ),
        ),
    ),
    data=study.DATA,
    needs=("minilm", "sentiment"),
)
