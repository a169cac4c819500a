"""In-context learning and pattern-based fine-tuning: scores against a loop without a cache, batches by hand."""

import math

import numpy as np
import pytest

from minipeft.few_shot import (
    Pattern,
    continuation_scores,
    in_context,
    label_scores,
    pattern_batch,
    predict,
    prompt_scores,
)
from minipeft.models import DecoderConfig, DecoderLM
from minipeft.optim import AdamW
from minipeft.peft import LoraConfig, PrefixTuningConfig, get_peft_model
from minipeft.train import train_step

V = 61


def encode(text):
    return [ord(c) % V for c in text]


@pytest.fixture(params=["gpt2", "llama"])
def model(request):
    sizes = {"vocab_size": V, "d_model": 12, "n_layers": 2, "n_heads": 3, "context": 160}
    return DecoderLM(getattr(DecoderConfig, request.param)(**sizes), rng=0).eval()


def naive_score(model, ids, start):
    """log p of ids[start:], one token at a time, each from a pass of its own."""
    total = 0.0
    for t in range(start, len(ids)):
        s = model(np.array([ids[:t]])).data[0, -1].astype(np.float64)
        total += s[ids[t]] - math.log(sum(math.exp(v) for v in s))
    return total


def test_scores_equal_a_loop_without_a_cache(model):
    before, questions, labels = encode("a+ b- "), [encode("how?"), encode("w")], [encode(" no"), encode("y")]
    got = label_scores(model, before, questions, labels)
    naive = [[naive_score(model, before + q + c, len(before + q)) for c in labels] for q in questions]
    np.testing.assert_allclose(got, naive, rtol=2e-5)
    np.testing.assert_allclose(
        label_scores(model, [], questions, labels)[0, 0], naive_score(model, encode("how? no"), 4), rtol=2e-5
    )


@pytest.mark.parametrize("config", [LoraConfig(r=2, init_lora_weights=False), PrefixTuningConfig(num_virtual_tokens=3)])
def test_scores_of_an_adapted_model(model, config):
    adapted = get_peft_model(model, config, rng=1).eval()
    got = label_scores(adapted, encode("ab"), [encode("cd")], [encode("ef"), encode("g")])
    naive = [naive_score(adapted, encode("abcd") + c, 4) for c in (encode("ef"), encode("g"))]
    np.testing.assert_allclose(got[0], naive, rtol=2e-5)


def test_continuation_scores_are_log_probabilities():
    rng = np.random.default_rng(0)
    logits, ids = 1e3 * rng.standard_normal((2, 5, 7)), rng.integers(0, 7, (2, 5))
    got = continuation_scores(logits, ids, 3)
    for b in range(2):
        expected = 0.0
        for t in (3, 4):
            s = logits[b, t - 1]
            expected += s[ids[b, t]] - s.max() - math.log(np.exp(s - s.max()).sum())
        assert got[b] == pytest.approx(expected)
    one = np.log(np.full((1, 2, 4), 0.25))
    assert continuation_scores(one, np.array([[0, 3]]), 1)[0] == pytest.approx(math.log(0.25))
    with pytest.raises(ValueError, match="start lies between 1 and"):
        continuation_scores(one, np.array([[0, 3]]), 2)


def test_predict_takes_the_likeliest_and_can_subtract_what_is_preferred_anyway():
    scores = np.array([[-1.0, -2.0], [-1.0, -1.5]])
    assert predict(scores).tolist() == [0, 0]
    assert predict(scores, neutral=np.array([-1.0, -1.7])).tolist() == [0, 1]


def test_a_prompt_is_the_examples_answered_and_the_question():
    pattern = Pattern("Q: {text}\nA:", (" no", " yes"), "\n---\n")
    assert pattern.demonstrations([("x", 1), ("{text}", 0)]) == "Q: x\nA: yes\n---\nQ: {text}\nA: no\n---\n"
    with pytest.raises(ValueError, match="must hold"):
        Pattern("no place")
    with pytest.raises(ValueError, match="two labels or more, all different"):
        Pattern(labels=(" a", " a"))


def test_in_context_predicts_what_the_scores_say(model):
    pattern = Pattern("{text}=", ("a", "bc"), ";")
    texts, examples = ["u", "vw"], [("x", 0), ("y", 1)]
    got = in_context(model, encode, pattern, examples, texts)
    before = encode("x=a;y=bc;")
    naive = [
        int(
            np.argmax(
                [
                    naive_score(model, before + encode(f"{t}=") + encode(c), len(before) + len(t) + 1)
                    for c in ["a", "bc"]
                ]
            )
        )
        for t in texts
    ]
    assert got.tolist() == naive
    assert in_context(model, encode, pattern, examples, texts, calibrate=True).shape == (2,)


def test_a_prompt_beyond_the_context_says_so(model):
    with pytest.raises(ValueError, match="needs 201 tokens, but the model's context has 160"):
        label_scores(model, [1] * 200, [[2]], [[3], [4]])
    with pytest.raises(ValueError, match="at least one token"):
        label_scores(model, [], [[]], [[3]])


def test_a_batch_for_fine_tuning_asks_for_the_answer_alone():
    batch = pattern_batch(encode, Pattern("{text}?", ("n", "yz")), [("ab", 1), ("c", 0)])
    a, b, c, q, n, y, z = encode("abc?nyz")
    assert batch["ids"].tolist() == [[a, b, q, y], [c, q, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, y, z], [-100, n, -100, -100]]
    assert batch["mask"].tolist() == [[True] * 4, [True, True, False, False]]


def test_its_loss_is_what_in_context_scores_and_training_lowers_it(model):
    pattern = Pattern("{text}?", ("n", "yz"))
    examples = [("ab", 1), ("c", 0)]
    batch = pattern_batch(encode, pattern, examples)
    scores = label_scores(model, [], [encode("ab?"), encode("c?")], [encode("n"), encode("yz")])
    assert model.loss(**batch).item() == pytest.approx(-(scores[0, 1] + scores[1, 0]) / 3, rel=1e-5)
    optimizer = AdamW(model.requires_grad_(True), lr=1e-2)
    losses = [train_step(model, batch, optimizer) for _ in range(20)]
    assert losses[-1] < 0.5 * losses[0]


def test_scores_of_a_prompt_grow_with_its_square():
    assert prompt_scores(10, 2, 3) * 4 == prompt_scores(20, 2, 3)
    assert prompt_scores(7, 1, 1) == 49
