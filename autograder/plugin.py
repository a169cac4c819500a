"""``try``: a real, small model trained with the modules of a filled homework, and beside it with the library's own.

    python -m autograder try homework/hw6_lora

Two processes train the same model on the same batches from the same seeds: one has the student's files in place of the
library's modules, one has the library alone. Their losses are drawn into one picture. In a handout the library lacks
what is to be written, so there the student's curve stands alone, and has to fall. It runs one's own program, and
nothing confines it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from autograder.homework import ROOT, Homework, HomeworkError, load_homework

TOLERANCE = 0.05  # between the last losses: another order of the random numbers is no mistake
LAST = 5  # so many losses are averaged at the end
ALONE = "library"
YOURS = "yours"


@dataclass(frozen=True)
class Trial:
    """What is trained for a homework: a sentence for the picture, the function that trains, the methods' configs.

    methods: by name, the config class in ``mp.peft`` and its options; "" where there is no method.
    """

    story: str
    train: str
    methods: Mapping[str, tuple[str, Mapping[str, Any]]]
    steps: int = 100


SCRATCH: Mapping[str, tuple[str, Mapping[str, Any]]] = {"from scratch": ("", {})}
TRIALS = {
    "hw1_autograd": Trial("a character model on Python's documentation", "language", SCRATCH),
    "hw2_transformer": Trial("a character model on Python's documentation", "language", SCRATCH),
    "hw3_frozen_adapters": Trial(
        "a ViT pretrained on the digits 0 to 4, adapted to 5 to 9",
        "digits",
        {
            "adapters": ("AdapterConfig", {"r": 8}),
            "top layer": ("TopLayersConfig", {"n_layers": 1}),
        },
    ),
    "hw4_prefix": Trial(
        "a character model moved from Python's documentation to a page of its source code",
        "moved",
        {
            "prefix": ("PrefixTuningConfig", {"num_virtual_tokens": 8}),
            "prefix by an MLP": ("PrefixTuningConfig", {"num_virtual_tokens": 8, "prefix_projection": True}),
            "prompt": ("PromptTuningConfig", {"num_virtual_tokens": 8}),
        },
    ),
    "hw5_intrinsic": Trial(
        "a ViT pretrained on the digits 0 to 4, adapted to 5 to 9",
        "digits",
        {
            "d = 300, Fastfood": ("IntrinsicConfig", {"d": 300}),
            "d = 40, sparse": ("IntrinsicConfig", {"d": 40, "projection": "sparse"}),
        },
    ),
    "hw6_lora": Trial(
        "a character model moved from Python's documentation to a page of its source code",
        "moved",
        {"LoRA": ("LoraConfig", {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]})},
    ),
    "hw7_vision": Trial(
        "a ViT pretrained on the digits 0 to 4, adapted to 5 to 9",
        "digits",
        {
            "LNLoRA": ("LNLoraConfig", {"r": 4, "lora_alpha": 8}),
            "FacT-TT": ("FacTConfig", {"r": 4}),
            "FacT-TK": ("FacTConfig", {"r": 4, "factorization": "tk"}),
        },
    ),
    "hw8_few_shot": Trial("a character model asked whether a line is prose or code", "few_shot", SCRATCH),
}
RATES = {"language": 3e-3, "moved": 3e-2, "digits": 1e-2, "few_shot": 3e-3}
TEXT = {"d_model": 48, "n_layers": 2, "n_heads": 4, "context": 160}
DIGITS = {"image_size": 8, "patch_size": 2, "channels": 1, "n_classes": 5, "d_model": 32, "n_layers": 2, "n_heads": 4}


# In the process that trains; ``mp`` is the library with the student's modules in it.


def trained(mp: Any, model: Any, batches: Any, rate: float, steps: int) -> list[float]:
    """The losses of ``steps`` steps with AdamW."""
    optimizer = mp.optim.AdamW(model, lr=rate)
    losses: list[float] = []
    epoch = 0
    while len(losses) < steps:
        for batch in batches.epoch(epoch):
            losses.append(float(mp.train.train_step(model, batch, optimizer)))
            if len(losses) == steps:
                break
        epoch += 1
    return losses


def tokens() -> tuple[Any, Any, Any]:
    """A tokenizer, and Python's documentation and source code as ids."""
    text = import_module("minipeft.data.text")
    prose, code = text.documentation_text()[:200_000], text.library_source()[:200_000]
    tokenizer = text.CharTokenizer.from_text(prose + code)
    return tokenizer, tokenizer.encode(prose), tokenizer.encode(code)


def decoder(mp: Any) -> Any:
    """A small GPT-2 for characters."""
    return mp.models.DecoderLM(mp.models.DecoderConfig.gpt2(vocab_size=tokens()[0].vocab_size, **TEXT), rng=0)


def language(mp: Any, base: Path, config: Any, steps: int) -> list[float]:
    """A character model from scratch."""
    batches = import_module("minipeft.data").LanguageModelBatches(tokens()[1], batch_size=16, length=64, seed=0)
    return trained(mp, decoder(mp), batches, RATES["language"], steps)


def moved(mp: Any, base: Path, config: Any, steps: int) -> list[float]:
    """The pretrained character model, adapted to a page of source code."""
    model = mp.peft.get_peft_model(mp.models.DecoderLM.from_pretrained(base), config, rng=0)
    batches = import_module("minipeft.data").LanguageModelBatches(tokens()[2][:1500], batch_size=16, length=64, seed=1)
    return trained(mp, model, batches, RATES["moved"], steps)


def digit_batches(mp: Any, new: bool) -> Any:
    """Images of the digits 0 to 4, or of 5 to 9 with labels 0 to 4."""
    images, labels = import_module("minipeft.data.digits").load_digits()
    chosen = (labels >= 5) == new
    return import_module("minipeft.data").Batches(
        {"images": images[chosen], "labels": labels[chosen] % 5}, batch_size=32, seed=int(new)
    )


def digits(mp: Any, base: Path, config: Any, steps: int) -> list[float]:
    """The pretrained ViT with a new head, adapted to the other digits."""
    model = mp.models.ViT.from_pretrained(base)
    model.classifier = mp.nn.Linear(DIGITS["d_model"], 5, rng=1)
    return trained(mp, mp.peft.get_peft_model(model, config, rng=0), digit_batches(mp, True), RATES["digits"], steps)


def few_shot(mp: Any, base: Path, config: Any, steps: int) -> list[float]:
    """A character model fine-tuned by a pattern on lines of prose and of code."""
    module = import_module("minipeft.few_shot")
    tokenizer, prose, code = tokens()
    pattern = module.Pattern("Line: {text}\nKind:", (" prose", " code"))
    lines = [
        (tokenizer.decode(ids[24 * i : 24 * i + 24]), label)
        for label, ids in enumerate((prose, code))
        for i in range(64)
    ]
    batch = module.pattern_batch(lambda text: list(tokenizer.encode(text)), pattern, lines)
    batches = import_module("minipeft.data").Batches(batch, batch_size=16, seed=0)
    return trained(mp, decoder(mp), batches, RATES["few_shot"], steps)


def pretrain(mp: Any, train: str, base: Path, steps: int) -> None:
    """The model that is adapted, into the folder ``base``."""
    if train == "moved":
        model = decoder(mp)
        batches = import_module("minipeft.data").LanguageModelBatches(tokens()[1], batch_size=16, length=64, seed=0)
    else:
        model = mp.models.ViT(mp.models.ViTConfig(d_ff=4 * DIGITS["d_model"], **DIGITS), rng=0)
        batches = digit_batches(mp, False)
    trained(mp, model, batches, 3e-3, steps)
    model.save_pretrained(base)


def child(request: Mapping[str, Any]) -> dict[str, Any]:
    """Train what is asked for: the losses by method, or what was raised, with the file and line of the student's."""
    from autograder.worker import StudentModules, raised

    files: dict[str, str] = request["files"]
    sys.meta_path.insert(0, StudentModules(files))
    try:
        mp = import_module("minipeft")
        trial, base = TRIALS[request["homework"]], Path(request["base"])
        if request["pretrain"]:
            pretrain(mp, trial.train, base, request["steps"])
            return {"losses": {}}
        train: Callable[[Any, Path, Any, int], list[float]] = globals()[trial.train]
        losses = {}
        for name, (config, options) in trial.methods.items():
            made = getattr(mp.peft, config)(**options) if config else None
            losses[name] = train(mp, base, made, request["steps"])
    except Exception as error:
        return {"raised": raised(error, files)}
    return {"losses": losses}


# In the process that was called.


def main(folder: Path, quick: bool = False, out: Path | None = None, say: Callable[[str], None] = print) -> int:
    """Train, draw, and compare. out: the picture, ``try-NAME.png`` in the current folder by default.

    Returns 1 where a function is not written yet, something raises, or the last losses differ by more than 5 % (in a
    handout: where the loss does not fall).
    HomeworkError for a homework without a trial.
    """
    from autograder.handout import is_handout
    from autograder.intake import take
    from autograder.submit import unwritten

    homework = load_homework(folder)
    if homework.name not in TRIALS:
        raise HomeworkError(f"nothing is trained for {homework.name}; there is something for {', '.join(TRIALS)}")
    submission = take(homework.folder, homework)
    number = homework.name.partition("_")[0][:2]
    missing = unwritten(homework, submission.sources)
    if missing:
        for problem, names in missing.items():
            say(f"not written yet: {number}{problem} {', '.join(names)}")
        return 1
    trial, start = TRIALS[homework.name], time.perf_counter()
    steps = 8 if quick else trial.steps
    others = [] if is_handout(homework) else [ALONE]
    with tempfile.TemporaryDirectory(prefix="minipeft-try-") as name:
        place = Path(name)
        base = place / "base"
        told: dict[str, dict[str, Any]] = {}
        if trial.train in ("moved", "digits"):
            told = train_all(homework, place, base, others or [YOURS], steps if quick else 200, pretraining=True)
        if not any("raised" in one for one in told.values()):
            told = train_all(homework, place, base, [YOURS, *others], steps)
    if "raised" in told.get(ALONE, {}):
        raise RuntimeError(f"the library itself raised {told[ALONE]['raised']}")
    if "raised" in told[YOURS]:
        say(in_words(homework, told[YOURS]["raised"]))
        return 1
    mine = told[YOURS]["losses"]
    right = told[ALONE]["losses"] if others else None
    picture = out or Path(f"try-{homework.name}.png")
    draw(trial, mine, right, picture)
    code = 0
    for method, losses in mine.items():
        line, well = judged(losses, None if right is None else right[method])
        code = code if well else 1
        say(f"{method}: {line}")
    say(f"{steps} steps in {time.perf_counter() - start:.1f} s; the curves are in {picture}")
    return code


def judged(mine: Sequence[float], right: Sequence[float] | None) -> tuple[str, bool]:
    """What is said of a curve, and whether it is as it should be."""
    got = last(mine)
    if right is None:
        before = last(mine[:LAST])
        falls = got < before
        return f"loss {before:.4f} at first, {got:.4f} at last{'' if falls else ': it does not fall'}", falls
    expected = last(right)
    same = abs(got - expected) <= TOLERANCE * abs(expected)
    differ = "" if same else f": they differ by more than {TOLERANCE:.0%}"
    return f"loss {got:.4f} with yours, {expected:.4f} with the library's{differ}", same


def last(losses: Sequence[float]) -> float:
    """The mean of the last few."""
    tail = losses[-LAST:]
    return sum(tail) / len(tail)


def in_words(homework: Homework, raised: Mapping[str, Any]) -> str:
    """What a training with the student's modules raised."""
    stub = next((f.stub for f in homework.files if f.module == raised["module"]), "")
    where = f" in {stub}, line {raised['line']}" if stub else ""
    return f"training raised {raised['type']}{where}: {raised['message']}"


def train_all(
    homework: Homework, place: Path, base: Path, whose: Sequence[str], steps: int, pretraining: bool = False
) -> dict[str, dict[str, Any]]:
    """Train in one process each, side by side; what each says."""
    running = []
    for name in whose:
        files = {f.module: str(homework.folder / f.stub) for f in homework.files} if name == YOURS else {}
        answer = place / f"{name}.json"
        request = {
            "homework": homework.name,
            "files": files,
            "base": str(base),
            "steps": steps,
            "pretrain": pretraining,
            "out": str(answer),
        }
        asked = place / f"{name}-request.json"
        asked.write_text(json.dumps(request), "utf-8")
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        command = [sys.executable, "-m", "autograder.plugin", str(asked)]
        process = subprocess.Popen(command, env={**os.environ, **threads, "PYTHONPATH": path})
        running.append((name, process, answer))
    told: dict[str, dict[str, Any]] = {}
    for name, process, answer in running:
        code = process.wait()
        if code != 0 or not answer.is_file():
            message = f"the process ended with code {code} before it had trained"
            told[name] = {"raised": {"type": "an end", "message": message, "module": "", "line": 0}}
        else:
            told[name] = json.loads(answer.read_text("utf-8"))
    return told


def draw(
    trial: Trial, mine: Mapping[str, Sequence[float]], right: Mapping[str, Sequence[float]] | None, picture: Path
) -> None:
    """The losses of each method: the library's as a broad grey line, the student's as a thin one on top."""
    plots = import_module("minipeft.lab.plots")
    plt = plots.plt
    with plt.rc_context(plots.STYLE):
        figure, axes = plt.subplots(1, len(mine), figsize=(4.2 * len(mine), 3.2), squeeze=False, sharey=True)
        for ax, (method, losses) in zip(axes[0], mine.items(), strict=True):
            if right is not None:
                ax.plot(right[method], color="0.75", lw=5, label="the library's")
            ax.plot(losses, color="C3", lw=1.2, label="yours")
            ax.set_title(method, fontsize=9)
            ax.set_xlabel("step")
        axes[0][0].set_ylabel("loss (nats)")
        axes[0][-1].legend(frameon=False)
        figure.suptitle(trial.story, fontsize=10)
        figure.tight_layout()
        figure.savefig(picture, dpi=150)
        plt.close(figure)


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    Path(asked["out"]).write_text(json.dumps(child(asked)), "utf-8")
