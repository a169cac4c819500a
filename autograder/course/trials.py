"""What ``try`` trains for each homework, and the process that trains it.

    python -m autograder.course.trials REQUEST.json

The process reads its request, puts a student's files in place of the library's modules, trains, and writes the losses.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

Methods = Mapping[str, tuple[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Trial:
    """What is trained for a homework.

    Args:
        story: the title of the figure.
        train: the name of the function of this module that trains.
        methods: by title, a config class of ``mp.peft`` and its options; "" to train without a method.
        packages: what it imports besides NumPy, by the names that pip knows.
        composed: whether the student's run has linear layers, LayerNorm and loss composed of smaller operations.
        steps: the number of training steps.
    """

    story: str
    train: str
    methods: Methods
    packages: tuple[str, ...] = ("matplotlib",)
    composed: bool = False
    steps: int = 100


def language_trial(composed: bool = False) -> Trial:
    """Return the trial of a homework whose functions every model needs."""
    story = "a character model trained on Python's documentation"
    return Trial(story, "language", SCRATCH, composed=composed)


def moved_trial(methods: Methods) -> Trial:
    """Return the trial of methods for language models."""
    story = "a character model, pretrained on Python's documentation, adapted to a page of its source code"
    return Trial(story, "moved", methods, packages=("matplotlib", "safetensors"))


def digits_trial(methods: Methods) -> Trial:
    """Return the trial of methods for image models. The images come with scikit-learn."""
    story = "a ViT, pretrained on the digits 0 to 4, adapted to 5 to 9"
    return Trial(story, "digits", methods, packages=("matplotlib", "safetensors", "scikit-learn"))


SCRATCH: Methods = {"from scratch": ("", {})}
TRIALS = {
    "hw1_autograd": language_trial(composed=True),
    "hw2_transformer": language_trial(),
    "hw3_frozen_adapters": digits_trial(
        {
            "adapters": ("AdapterConfig", {"r": 8}),
            "top layer": ("TopLayersConfig", {"n_layers": 1}),
        }
    ),
    "hw4_prefix": moved_trial(
        {
            "prefix": ("PrefixTuningConfig", {"num_virtual_tokens": 8}),
            "prefix by an MLP": ("PrefixTuningConfig", {"num_virtual_tokens": 8, "prefix_projection": True}),
            "prompt": ("PromptTuningConfig", {"num_virtual_tokens": 8}),
        }
    ),
    "hw5_intrinsic": digits_trial(
        {
            "d = 300, Fastfood": ("IntrinsicConfig", {"d": 300}),
            "d = 40, sparse": ("IntrinsicConfig", {"d": 40, "projection": "sparse"}),
        }
    ),
    "hw6_lora": moved_trial(
        {"LoRA": ("LoraConfig", {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]})},
    ),
    "hw7_vision": digits_trial(
        {
            "LNLoRA": ("LNLoraConfig", {"r": 4, "lora_alpha": 8}),
            "FacT-TT": ("FacTConfig", {"r": 4}),
            "FacT-TK": ("FacTConfig", {"r": 4, "factorization": "tk"}),
        }
    ),
    "hw8_few_shot": Trial("a character model asked whether a line is prose or code", "few_shot", SCRATCH),
}
PRETRAINED = ("moved", "digits")  # these adapt a model that is trained first
RATES = {"language": 3e-3, "moved": 3e-2, "digits": 1e-2, "few_shot": 3e-3}
TEXT = {"d_model": 48, "n_layers": 2, "n_heads": 4, "context": 160}
DIGITS = {"image_size": 8, "patch_size": 2, "channels": 1, "n_classes": 5, "d_model": 32, "n_layers": 2, "n_heads": 4}


def compose(mp: Any) -> None:
    """Replace three fused operations of the library by compositions of smaller ones.

    The smaller ones are the functions of homework 1. Without this a model would hardly use them: its linear layers,
    LayerNorms and loss each have one Function with a backward of its own, and in a handout `Linear` has no body.
    """
    ops, np = mp.ops, import_module("numpy")

    def linear(x: Any, weight: Any, bias: Any = None) -> Any:
        z = x @ ops.transpose(weight)
        return z if bias is None else z + bias

    def layer_norm(x: Any, gamma: Any, beta: Any, eps: float = 1e-5) -> Any:
        centred = x - ops.mean(x, axis=-1, keepdims=True)
        variance = ops.mean(centred * centred, axis=-1, keepdims=True)
        return centred / ops.sqrt(variance + eps) * gamma + beta

    def linear_cross_entropy(x: Any, weight: Any, labels: Any, bias: Any = None) -> Any:
        s = ops.reshape(linear(x, weight, bias), labels.size, weight.shape[0])
        s = s - ops.max(s, axis=1, keepdims=True)
        at_label = ops.index(s, (np.arange(labels.size), labels.reshape(-1)))
        return ops.mean(ops.log(ops.sum(ops.exp(s), axis=1)) - at_label)

    for function in (linear, layer_norm, linear_cross_entropy):
        setattr(ops, function.__name__, function)


def trained(mp: Any, model: Any, batches: Any, rate: float, steps: int) -> list[float]:
    """Train with AdamW and return the loss of each step."""
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
    """Return a tokenizer, and Python's documentation and source code as ids."""
    text = import_module("minipeft.data.text")
    prose, code = text.documentation_text()[:200_000], text.library_source()[:200_000]
    tokenizer = text.CharTokenizer.from_text(prose + code)
    return tokenizer, tokenizer.encode(prose), tokenizer.encode(code)


def decoder(mp: Any) -> Any:
    """Return a small GPT-2 for characters."""
    return mp.models.DecoderLM(mp.models.DecoderConfig.gpt2(vocab_size=tokens()[0].vocab_size, **TEXT), rng=0)


def language(mp: Any, base: Path, config: Any, steps: int) -> list[float]:
    """Train a character model from scratch."""
    batches = import_module("minipeft.data").LanguageModelBatches(tokens()[1], batch_size=16, length=64, seed=0)
    return trained(mp, decoder(mp), batches, RATES["language"], steps)


def moved(mp: Any, base: Path, config: Any, steps: int) -> list[float]:
    """Adapt the pretrained character model to a page of source code."""
    model = mp.peft.get_peft_model(mp.models.DecoderLM.from_pretrained(base), config, rng=0)
    batches = import_module("minipeft.data").LanguageModelBatches(tokens()[2][:1500], batch_size=16, length=64, seed=1)
    return trained(mp, model, batches, RATES["moved"], steps)


def digit_batches(mp: Any, new: bool) -> Any:
    """Return images of the digits 0 to 4, or of 5 to 9 with labels 0 to 4."""
    images, labels = import_module("minipeft.data.digits").load_digits()
    chosen = (labels >= 5) == new
    return import_module("minipeft.data").Batches(
        {"images": images[chosen], "labels": labels[chosen] % 5}, batch_size=32, seed=int(new)
    )


def digits(mp: Any, base: Path, config: Any, steps: int) -> list[float]:
    """Adapt the pretrained ViT, with a new head, to the other digits."""
    model = mp.models.ViT.from_pretrained(base)
    model.classifier = mp.nn.Linear(DIGITS["d_model"], 5, rng=1)
    return trained(mp, mp.peft.get_peft_model(model, config, rng=0), digit_batches(mp, True), RATES["digits"], steps)


def few_shot(mp: Any, base: Path, config: Any, steps: int) -> list[float]:
    """Fine-tune a character model with a pattern, on lines of prose and of code."""
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
    """Train the model that is adapted later, and save it in the folder ``base``."""
    if train == "moved":
        model = decoder(mp)
        batches = import_module("minipeft.data").LanguageModelBatches(tokens()[1], batch_size=16, length=64, seed=0)
    else:
        model = mp.models.ViT(mp.models.ViTConfig(d_ff=4 * DIGITS["d_model"], **DIGITS), rng=0)
        batches = digit_batches(mp, False)
    trained(mp, model, batches, 3e-3, steps)
    model.save_pretrained(base)


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Train as requested. Return the losses by method, or the exception with its line in the student's file."""
    from autograder.sandbox.child import StudentModules, raised

    files: dict[str, str] = request["files"]
    sys.meta_path.insert(0, StudentModules(files))
    try:
        mp = import_module("minipeft")
        trial, base = TRIALS[request["homework"]], Path(request["base"])
        if trial.composed and files:
            compose(mp)
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


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command, which ends this process
    asked = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    Path(asked["out"]).write_text(json.dumps(answer(asked)), "utf-8")
