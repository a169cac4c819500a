"""SmolLM2 out of its GGUF file, against transformers on the same dequantized weights."""

import numpy as np
import pytest

from minipeft.data import BytePairs
from minipeft.data.fetch import FetchError, fetch
from minipeft.generate import generate
from minipeft.models import DecoderLM

pytestmark = [pytest.mark.parity, pytest.mark.network]
TEXTS = ("The capital of France is", "def fibonacci(n):\n    ", "It is a truth universally acknowledged, that 2 + 2 =")


@pytest.fixture(scope="module")
def folder():
    import os

    try:
        return fetch("smollm2", progress=False)
    except FetchError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def reference(folder):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, gguf_file="model.gguf", dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def ours(folder):
    return DecoderLM.from_pretrained(folder), BytePairs.from_gguf(folder)


def test_smollm2_logits_equal_the_references_to_a_thousandth_of_their_scale(reference, ours):
    import torch

    model, tokenizer = ours
    for text in TEXTS:
        ids = np.array([tokenizer.encode(text)])
        with torch.no_grad():
            expected = reference(torch.tensor(ids)).logits.numpy()
        got = model(ids).data
        scale = np.abs(expected).max()
        print(f"{np.abs(got - expected).max():.2e} of {scale:.1f}")
        assert np.abs(got - expected).max() <= 1e-3 * scale
        assert np.array_equal(got.argmax(-1), expected.argmax(-1))


def test_smollm2_writes_the_references_greedy_text(reference, ours):
    import torch

    model, tokenizer = ours
    for text in TEXTS:
        ids = np.array([tokenizer.encode(text)])
        expected = reference.generate(
            torch.tensor(ids),
            max_new_tokens=20,
            do_sample=False,
            eos_token_id=tokenizer.eos,
            pad_token_id=tokenizer.eos,
        ).numpy()
        got = generate(model, ids, max_new_tokens=20, eos=tokenizer.eos)
        assert tokenizer.decode(got[0]) == tokenizer.decode(expected[0])


def test_the_tokenizer_equals_the_references_with_its_way_of_cutting(folder, ours):
    import random

    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = ours[1]
    reference = AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf")
    reference.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    rng = random.Random(0)
    pool = "abc XYZ 019 \n\t'sd.,-éΩ日½\u00a0\u2003😀_"
    for _ in range(300):
        text = "".join(rng.choice(pool) for _ in range(40))
        assert tokenizer.encode(text) == reference(text, add_special_tokens=False)["input_ids"], text
    messages = [{"role": "user", "content": "Hi <b>"}]
    expected = reference.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert tokenizer.chat(messages) == expected
