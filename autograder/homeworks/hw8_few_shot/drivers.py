"""How the cases of hw8_few_shot call what was written."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from autograder.homeworks.driver import refusal


def _encode(text: str) -> list[int]:
    """A tokenizer of one token a character."""
    return [ord(c) % 97 for c in text]


def _pattern(p: dict[str, Any]) -> Any:
    return import_module("minipeft.few_shot").Pattern(p["template"], tuple(p["labels"]), p["separator"])


def _unchanged(call: Any, *arrays: np.ndarray | None) -> dict[str, Any]:
    before = [None if x is None else x.copy() for x in arrays]
    out = {"z": call()}
    pairs = zip(before, arrays, strict=True)
    out["changed"] = [
        i for i, (b, x) in enumerate(pairs) if b is not None and x is not None and not np.array_equal(b, x)
    ]
    return out


def texts(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """The three texts of a pattern."""
    pattern = _pattern(p)
    examples = [tuple(e) for e in p["examples"]]
    return {
        "question": pattern.question(p["text"]),
        "answered": [pattern.answered(text, label) for text, label in examples],
        "demonstrations": pattern.demonstrations(examples),
    }


def continuation(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """continuation_scores of drawn logits and ids."""
    f = import_module("minipeft.few_shot").continuation_scores
    return _unchanged(lambda: f(a["logits"], a["ids"], p["start"]), a["logits"], a["ids"])


def refused(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """Whether a start outside of 1 … T - 1 is a ValueError."""
    f = import_module("minipeft.few_shot").continuation_scores
    return {"answers": [refusal(partial(f, a["logits"], a["ids"], start)) for start in p["starts"]]}


def predict(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """predict, with or without neutral scores."""
    f = import_module("minipeft.few_shot").predict
    neutral = a.get("neutral")
    return _unchanged(lambda: f(a["scores"]) if neutral is None else f(a["scores"], neutral), a["scores"], neutral)


def _decoder(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> Any:
    """A small decoder with the drawn parameters."""
    make = getattr(mp.models.DecoderConfig, p["layout"])
    model = mp.models.DecoderLM(make(**p["sizes"]), rng=0).eval()
    flat, start = a["weights"], 0
    for _, x in model.named_parameters():
        x.data = flat[start : start + x.size].reshape(x.shape).astype(np.float64)
        start += x.size
    return model


def labels(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """label_scores with a model; "read", how many tokens the model was given (each counted as often as it was read)."""
    model = _decoder(mp, a, p)
    read = [0]
    embed = model.input.tokens.forward

    def counted(ids: Any) -> Any:
        read[0] += int(np.asarray(ids).size)
        return embed(ids)

    model.input.tokens.forward = counted
    z = import_module("minipeft.few_shot").label_scores(model, p["before"], p["questions"], p["labels"])
    found = {"z": z, "few tokens read": bool(read[0] <= p["most"])}
    found["again"] = import_module("minipeft.few_shot").label_scores(
        model, p["before"], p["questions"][:1], p["labels"]
    )
    for x in model.parameters():
        x.data *= 0.7
    found["changed model"] = import_module("minipeft.few_shot").label_scores(
        model, p["before"], p["questions"], p["labels"]
    )
    return found


def unfit(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """Which questions and labels label_scores refuses."""
    model = _decoder(mp, a, p)
    f = import_module("minipeft.few_shot").label_scores
    return {"answers": [refusal(partial(f, model, *arguments)) for arguments in p["tried"]]}


def batch(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """pattern_batch with one token a character: of each row, what is there up to its last label."""
    examples = [tuple(e) for e in p["examples"]]
    got = import_module("minipeft.few_shot").pattern_batch(_encode, _pattern(p), examples)
    ids, labels, mask = (np.asarray(got[name]) for name in ("ids", "labels", "mask"))
    if not ids.shape == labels.shape == mask.shape:
        raise ValueError(f"ids, labels and mask have shapes {ids.shape}, {labels.shape} and {mask.shape}")
    lengths = [int(np.flatnonzero(row != -100).max(initial=-1)) + 1 for row in labels]
    return {
        "labels": [row[:n] for row, n in zip(labels, lengths, strict=True)],
        "ids": [row[:n] for row, n in zip(ids, lengths, strict=True)],
        "mask": [row[:n].astype(bool) for row, n in zip(mask, lengths, strict=True)],
        "padding": [
            bool(row[n + 1 :].any()) for row, n in zip(mask, lengths, strict=True)
        ],  # the last token may be read
        "sorted names": sorted(got),
    }


def statistic(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """welch_statistic of two groups, given as arrays or as lists."""
    f = import_module("minipeft.lab.framework.welch").welch_statistic
    x, y = a["x"], a["y"]
    if p.get("lists"):
        t, nu = f(x.tolist(), y.tolist())
        return {"t": np.float64(t), "nu": np.float64(nu), "changed": []}
    out = _unchanged(lambda: f(x, y), x, y)
    t, nu = out.pop("z")
    return {"t": np.float64(t), "nu": np.float64(nu), **out}


def small_groups(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """Which sizes of two groups welch_statistic refuses."""
    f = import_module("minipeft.lab.framework.welch").welch_statistic
    return {"answers": [refusal(partial(f, a["x"][:n], a["y"][:m])) for n, m in p["sizes"]]}


def holm(mp: Any, a: dict[str, Any], p: dict[str, Any]) -> dict[str, Any]:
    """holm of drawn p-values."""
    return _unchanged(lambda: import_module("minipeft.lab.framework.welch").holm(a["p"]), a["p"])
