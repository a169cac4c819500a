"""Generation equals a plain loop without a cache, whatever stands before the text; samples come from the right set."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import minipeft as mp
from minipeft.generate import choose, generate, probabilities, stream
from minipeft.models import (
    DecoderConfig,
    DecoderLM,
    EncoderClassifier,
    EncoderConfig,
    EncoderDecoder,
    EncoderDecoderConfig,
)

V, CONTEXT = 37, 30


def decoder(kind, **changes):
    """A decoder whose weights are large enough that its tokens vary."""
    if kind == "gpt2":
        config = DecoderConfig.gpt2(V, 24, 2, 4, CONTEXT, **changes)
    else:
        config = DecoderConfig.llama(V, 24, 2, 4, 2, 40, CONTEXT, **changes)  # grouped queries: 4 heads on 2
    return louder(DecoderLM(config, rng=1))


def louder(model):
    for p in model.parameters():
        p.data *= 5
    return model


def encoder_decoder():
    return louder(EncoderDecoder(EncoderDecoderConfig(V, 24, 2, 4, 40, CONTEXT), rng=1))


METHODS = {
    "plain": None,
    "prompt": mp.peft.PromptTuningConfig(num_virtual_tokens=3),
    "prefix": mp.peft.PrefixTuningConfig(num_virtual_tokens=3, init_std=1.0),
    "lora": mp.peft.LoraConfig(r=2),
}


def adapted(model, name):
    config = METHODS[name]
    if config is None:
        return model
    peft = mp.peft.get_peft_model(model, config, rng=2)
    rng = np.random.default_rng(3)
    for p in peft.trained().values():
        p.data += rng.standard_normal(p.shape) * 0.3
    return peft


def left_padded(rng, B=3, T=6):
    ids = rng.integers(0, V, (B, T))
    mask = np.arange(T) >= np.array([0, 2, 5])[:, None]
    return ids, mask


def by_a_plain_loop(model, ids, mask, n):
    with mp.no_grad():
        for _ in range(n):
            new = mp.to_numpy(model(ids, mask).data)[:, -1].argmax(axis=1)
            ids = np.concatenate([ids, new[:, None]], axis=1)
            mask = None if mask is None else np.pad(mask, ((0, 0), (0, 1)), constant_values=True)
    return ids


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("padded", [False, True])
def test_greedy_generation_equals_a_plain_loop(kind, method, padded, rng):
    model = adapted(decoder(kind), method)
    ids, mask = left_padded(rng)
    mask = mask if padded else None
    expected = by_a_plain_loop(model, ids, mask, 12)
    assert len(np.unique(expected[:, 6:])) > 5  # otherwise the comparison would say little
    assert np.array_equal(generate(model, ids, mask, 12), expected)
    assert np.array_equal(generate(model, ids, mask, 12, use_cache=False), expected)


@pytest.mark.parametrize("method", METHODS)
def test_an_encoder_decoder_generates_what_a_plain_loop_does(method, rng):
    model = adapted(encoder_decoder(), method)
    ids = rng.integers(0, V, (3, 6))
    mask = np.arange(6) < np.array([6, 4, 1])[:, None]  # padding on the right: it is the source
    targets = np.full((3, 1), model.config.start)
    draws = np.random.default_rng(4)
    with mp.no_grad():
        for _ in range(9):
            logits = model(ids, targets, mask).data[:, -1].astype(np.float64)
            targets = np.concatenate([targets, choose(logits, 20.0, None, None, draws)[:, None]], axis=1)
    assert len(np.unique(targets[:, 1:])) > 5
    assert np.array_equal(generate(model, ids, mask, 9, temperature=20.0, rng=4), targets)
    assert np.array_equal(generate(model, ids, mask, 9, temperature=20.0, rng=4, use_cache=False), targets)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_each_row_of_a_left_padded_batch_is_generated_as_if_alone(kind, rng):
    model = decoder(kind)
    ids, mask = left_padded(rng)
    together = generate(model, ids, mask, 8)
    for row in range(3):
        alone = generate(model, ids[row : row + 1, mask[row]], None, 8)
        assert np.array_equal(together[row, 6:], alone[0, mask[row].sum() :])


def test_generation_gives_the_same_tokens_on_every_device(device, rng):
    ids, mask = left_padded(rng)
    expected = generate(decoder("llama"), ids, mask, 6)
    assert np.array_equal(generate(decoder("llama").to(device), ids, mask, 6), expected)
    drawn = generate(decoder("gpt2"), ids, mask, 6, temperature=1.0, top_k=9, top_p=0.9, rng=3)
    assert np.array_equal(generate(decoder("gpt2").to(device), ids, mask, 6, 1.0, 9, 0.9, rng=3), drawn)


def test_sampling_is_the_same_with_and_without_the_cache_and_repeats_with_its_seed(rng):
    model = decoder("gpt2")
    ids, mask = left_padded(rng)
    first = generate(model, ids, mask, 10, temperature=0.8, top_k=20, rng=5)
    assert np.array_equal(first, generate(model, ids, mask, 10, temperature=0.8, top_k=20, rng=5, use_cache=False))
    assert not np.array_equal(first, generate(model, ids, mask, 10, temperature=0.8, top_k=20, rng=6))
    source = np.random.default_rng(5)
    assert np.array_equal(first, generate(model, ids, mask, 10, temperature=0.8, top_k=20, rng=source))


def test_a_row_is_padded_after_its_end_and_generation_stops_when_all_have_ended(rng):
    model = decoder("gpt2")
    ids = rng.integers(0, V, (3, 4))
    free = generate(model, ids, max_new_tokens=12)[:, 4:]
    eos = int(free[0, 2])
    ended = generate(model, ids, max_new_tokens=12, eos=eos, pad=7)[:, 4:]
    for row in range(3):
        places = np.flatnonzero(free[row] == eos)
        end = min(places[0] + 1 if len(places) else 12, ended.shape[1])
        assert np.array_equal(ended[row, :end], free[row, :end])
        assert (ended[row, end:] == 7).all()
    alone = generate(model, ids[:1], max_new_tokens=12, eos=eos)[:, 4:]
    assert alone.shape[1] == np.flatnonzero(free[0] == eos)[0] + 1


def test_a_stream_yields_the_tokens_of_generate_one_by_one(rng):
    model = decoder("gpt2")
    ids, mask = left_padded(rng)
    columns = list(stream(model, ids, mask, 5))
    assert [c.shape for c in columns] == [(3,)] * 5
    assert np.array_equal(np.stack(columns, axis=1), generate(model, ids, mask, 5)[:, 6:])


def test_a_stream_left_half_read_leaves_recording_and_modes_as_they_were(rng):
    model = decoder("gpt2", dropout=0.5)
    model.stack.layers[0].eval()
    modes = [m.training for _, m in model.named_modules()]
    tokens = stream(model, rng.integers(0, V, (2, 3)), max_new_tokens=5)
    next(tokens)
    assert [m.training for _, m in model.named_modules()] == modes
    assert (model.input.tokens.weight * 2.0).requires_grad


def test_generation_in_training_mode_drops_nothing_out(rng):
    ids = rng.integers(0, V, (2, 3))
    assert np.array_equal(generate(decoder("gpt2", dropout=0.5), ids), generate(decoder("gpt2"), ids))


logit_rows = arrays(
    np.float64,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12),
    elements=st.floats(-30, 30, allow_subnormal=False),
)


@given(logit_rows, st.floats(0.05, 5.0), st.none() | st.integers(1, 15), st.none() | st.floats(0.01, 1.0))
def test_probabilities_keep_the_likeliest_and_their_proportions(logits, temperature, top_k, top_p):
    p = probabilities(logits, temperature, top_k, top_p)
    full = probabilities(logits, temperature)
    assert p.shape == logits.shape
    assert p.dtype == np.float64
    assert np.allclose(p.sum(axis=1), 1.0)
    for kept, all_of_them in zip(p, full, strict=True):
        chosen = kept > 0
        assert chosen.any()
        if top_k is not None:
            assert chosen.sum() <= top_k
        assert all_of_them[chosen].min() >= all_of_them[~chosen].max(initial=0.0)
        assert np.allclose(kept[chosen], all_of_them[chosen] / all_of_them[chosen].sum())


@given(logit_rows, st.floats(0.01, 1.0))
def test_top_p_keeps_the_fewest_tokens_that_reach_it(logits, top_p):
    full = probabilities(logits, 1.0)
    for kept, row in zip(probabilities(logits, 1.0, top_p=top_p) > 0, full, strict=True):
        assert row[kept].sum() >= top_p - 1e-12
        assert row[kept].sum() - row[kept].min() < top_p + 1e-12


@given(logit_rows, st.integers(0, 1000))
def test_a_drawn_token_has_positive_probability(logits, seed):
    p = probabilities(logits, 0.7, 3, 0.8)
    tokens = choose(logits, 0.7, 3, 0.8, np.random.default_rng(seed))
    assert (np.take_along_axis(p, tokens[:, None], axis=1) > 0).all()


class Always(np.random.Generator):
    """A generator that draws one number."""

    def __init__(self, value):
        super().__init__(np.random.PCG64(0))
        self.value = value

    def random(self, size):
        return np.full(size, self.value)


@pytest.mark.parametrize("u", [0.0, np.nextafter(1.0, 0.0)])
def test_the_ends_of_the_unit_interval_draw_no_excluded_token(u):
    logits = np.array([[-np.inf, 1.0, 2.0, 0.5, -np.inf]] * 2) + np.array([[0.0], [0.1]])
    assert set(choose(logits, 0.3, None, None, Always(u))) <= {1, 2, 3}


def test_drawn_tokens_follow_the_probabilities(rng):
    logits = np.tile(np.array([[1.0, 0.0, 2.0, -1.0]]), (20000, 1))
    p = probabilities(logits[:1], 1.5)[0]
    counts = np.bincount(choose(logits, 1.5, None, None, rng), minlength=4)
    assert np.abs(counts / 20000 - p).max() < 5 * np.sqrt(0.25 / 20000)


def test_top_k_1_and_a_tiny_temperature_are_greedy(rng):
    logits = rng.standard_normal((50, 9))
    greedy = logits.argmax(axis=1)
    assert np.array_equal(choose(logits, 2.0, 1, None, rng), greedy)
    assert np.array_equal(choose(logits, 1e-308, None, None, rng), greedy)
    assert np.array_equal(choose(logits, 0.0, None, None, rng), greedy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"temperature": -0.1}, "temperature must be 0 .* got -0.1"),
        ({"temperature": float("nan")}, "temperature must be 0 .* got nan"),
        ({"temperature": 1.0, "top_k": 0}, "top_k must be at least 1, got 0"),
        ({"temperature": 1.0, "top_p": 0.0}, r"top_p must lie in \(0, 1\], got 0.0"),
        ({"temperature": 1.0, "top_p": 1.5}, r"top_p must lie in \(0, 1\], got 1.5"),
        ({"eos": V}, f"eos must be a token id in 0 … {V - 1}, got {V}"),
        ({"pad": -1}, f"pad must be a token id in 0 … {V - 1}, got -1"),
        ({"mask": np.ones((2, 3), bool)}, r"the mask must have one entry for each token, shape \(2, 4\), got \(2, 3\)"),
        ({"mask": np.where(np.ones((2, 4)), 0.0, -np.inf)}, "the mask must be boolean, .* give mask == 0"),
        ({"mask": np.arange(4) < np.array([[4], [3]])}, "pad on the left"),
        ({"ids": np.zeros((2, 0), int)}, "T at least 1"),
        ({"ids": np.zeros(4, int)}, r"integers \(B, T\)"),
        ({"ids": np.zeros((2, 4))}, "integers .* got float64"),
    ],
)
def test_bad_arguments_are_errors_at_the_call(changes, message):
    arguments = {"ids": np.zeros((2, 4), int), **changes}
    with pytest.raises(ValueError, match=message):
        stream(decoder("gpt2"), **arguments)


def test_a_model_that_generates_nothing_is_an_error():
    model = EncoderClassifier(EncoderConfig(V, 12, 1, 2, 20, 16))
    with pytest.raises(TypeError, match="DecoderLM or an EncoderDecoder, got EncoderClassifier"):
        generate(model, np.zeros((1, 3), int))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize(("method", "before"), [("plain", 0), ("prompt", 3), ("prefix", 3)])
def test_more_tokens_than_the_context_holds_are_an_error_before_anything_is_run(kind, method, before, rng):
    model = adapted(decoder(kind), method)
    ids = rng.integers(0, V, (2, 6))
    fits = CONTEXT - before - 6 + 1  # the last token is made but not read
    assert generate(model, ids, max_new_tokens=fits).shape == (2, 6 + fits)
    with pytest.raises(ValueError, match=rf"need {CONTEXT + 1} positions.* has {CONTEXT}; at most {fits} new"):
        generate(model, ids, max_new_tokens=fits + 1)


def test_padding_takes_no_room_in_the_context(rng):
    ids = rng.integers(0, V, (2, 6))
    mask = np.tile(np.arange(6) >= 4, (2, 1))
    assert generate(decoder("gpt2"), ids, mask, CONTEXT - 2 + 1).shape == (2, 6 + CONTEXT - 1)


def test_logits_that_are_not_finite_are_an_error(rng):
    model = decoder("gpt2")
    model.stack.norm.weight.data[3] = np.nan
    with pytest.raises(FloatingPointError, match="NaN or infinity"):
        generate(model, rng.integers(0, V, (1, 3)))
