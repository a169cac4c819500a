"""What a mask hides, a cache keeps or a prompt adds: the rest of a model's output does not notice."""

import numpy as np
import pytest

import minipeft as mp
from minipeft import nn
from minipeft.models import (
    Encoder,
    EncoderClassifier,
    EncoderConfig,
    EncoderDecoder,
    EncoderDecoderConfig,
    EncoderMaskedLM,
    ViT,
    ViTConfig,
    mask_tokens,
)

V = 17
ENCODER = EncoderConfig(vocab_size=V, d_model=12, n_layers=2, n_heads=3, d_ff=16, context=20)


def padded(rng, ids, side):
    """The ids between ids of padding, and the mask that hides these."""
    pads = rng.integers(0, V, (len(ids), 4))
    real, hidden = np.ones(ids.shape, bool), np.zeros(pads.shape, bool)
    order = (pads, ids) if side == "left" else (ids, pads)
    masks = (hidden, real) if side == "left" else (real, hidden)
    return np.concatenate(order, axis=1), np.concatenate(masks, axis=1)


def alike(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


sides = pytest.mark.parametrize("side", ["left", "right"])


@sides
@pytest.mark.parametrize("ours", [Encoder, EncoderMaskedLM])
def test_padding_changes_nothing_for_an_encoder(ours, side, rng):
    model = ours(ENCODER).to(np.float64)
    ids = rng.integers(0, V, (3, 5))
    longer, mask = padded(rng, ids, side)
    with mp.no_grad():
        alike(model(longer, mask).data[mask], model(ids).data.reshape(15, -1))


@sides
def test_padding_changes_nothing_for_the_mean_over_tokens(side, rng):
    model = EncoderClassifier(ENCODER, n_classes=4).to(np.float64)
    ids = rng.integers(0, V, (3, 5))
    longer, mask = padded(rng, ids, side)
    with mp.no_grad():
        alike(model.pooled(longer, mask).data, model.encoder(ids).data.mean(axis=1))
        alike(model(longer, mask).data, model(ids).data)


@pytest.mark.parametrize("pool", ["first", "pooler"])
def test_padding_on_the_right_changes_nothing_for_the_first_token(pool, rng):
    model = EncoderClassifier(ENCODER, pool=pool).to(np.float64)
    ids = rng.integers(0, V, (3, 5))
    longer, mask = padded(rng, ids, "right")
    with mp.no_grad():
        alike(model(longer, mask).data, model(ids).data)


def test_a_sentence_of_padding_alone_gives_finite_logits(rng):
    model = EncoderClassifier(ENCODER)
    mask = np.ones((2, 5), bool)
    mask[1] = False
    assert np.isfinite(model(rng.integers(0, V, (2, 5)), mask).data).all()


def test_token_types_are_zero_unless_given(rng):
    model = EncoderClassifier(ENCODER)
    ids = rng.integers(0, V, (3, 5))
    types = np.zeros((3, 5), int)
    assert np.array_equal(model(ids, token_types=types).data, model(ids).data)
    types[:, 3:] = 1
    assert not np.allclose(model(ids, token_types=types).data, model(ids).data)
    labels = np.array([0, 1, 1])
    assert model.loss(ids, labels, token_types=types).item() != model.loss(ids, labels).item()


def encoder_decoder():
    return EncoderDecoder(EncoderDecoderConfig(V, 12, 2, 3, 16, 20, start=3, pad=5)).to(np.float64)


@sides
def test_padding_of_the_source_changes_nothing(side, rng):
    model = encoder_decoder()
    ids, targets = rng.integers(0, V, (3, 5)), rng.integers(0, V, (3, 4))
    longer, mask = padded(rng, ids, side)
    with mp.no_grad():
        alike(model(longer, targets, mask).data, model(ids, targets).data)


@sides
def test_padding_of_the_targets_changes_nothing(side, rng):
    model = encoder_decoder()
    ids, targets = rng.integers(0, V, (3, 5)), rng.integers(0, V, (3, 4))
    longer, mask = padded(rng, targets, side)
    with mp.no_grad():
        alike(model(ids, longer, target_mask=mask).data[mask], model(ids, targets).data.reshape(12, -1))


def test_a_decoder_reads_its_memory_once_and_its_targets_in_parts(rng):
    model = encoder_decoder()
    ids, targets = rng.integers(0, V, (3, 5)), rng.integers(0, V, (3, 6))
    mask = np.arange(5) < np.array([[5], [3], [1]])
    with mp.no_grad():
        full = model(ids, targets, mask).data
        memory, memory_mask = model.encode(ids, mask)
        cache = nn.new_cache(2)
        parts = [model.decode(targets[:, :3], memory, memory_mask, cache=cache)]
        model.decoder.layers[0].cross_attention.k_proj.weight.data[...] = np.nan  # not needed any more
        parts += [model.decode(targets[:, i : i + 1], memory, memory_mask, cache=cache) for i in (3, 4, 5)]
        alike(np.concatenate([model.lm_head(x).data for x in parts], axis=1), full)


def test_targets_are_the_labels_moved_to_the_right_behind_the_start_token(rng):
    model = encoder_decoder()
    ids, labels = rng.integers(0, V, (2, 5)), np.array([[7, 8, 9], [6, -100, -100]])
    shifted = model.shifted(labels)
    assert shifted.tolist() == [[3, 7, 8], [3, 6, 5]]
    assert model.loss(ids, labels).item() == model.loss(ids, labels, target_ids=shifted).item()


def test_the_decoder_does_not_look_ahead_and_looks_at_all_of_the_source(rng):
    model = encoder_decoder()
    ids, targets = rng.integers(0, V, (2, 5)), rng.integers(0, V, (2, 4))
    later, other = targets.copy(), ids.copy()
    later[:, 2:] = (later[:, 2:] + 1) % V
    other[:, 4] = (other[:, 4] + 1) % V
    with mp.no_grad():
        before, after, elsewhere = model(ids, targets).data, model(ids, later).data, model(other, targets).data
    assert np.array_equal(before[:, :2], after[:, :2])
    assert (np.abs(before - elsewhere).max(axis=-1) > 1e-9).all()


class Rows(nn.Module):
    """Puts two constant rows in front, as prompt tuning does."""

    def forward(self, x):
        rows = mp.Tensor(np.full((x.shape[0], 2, x.shape[2]), 0.3, dtype=x.dtype))
        return mp.ops.concatenate([rows, x], axis=1)


def test_the_rows_of_a_prompt_are_seen_but_not_returned(rng):
    ids, targets, images = rng.integers(0, V, (2, 5)), rng.integers(0, V, (2, 4)), rng.normal(size=(2, 1, 8, 8))
    config = ViTConfig(8, 4, 1, 5, d_model=12, n_layers=1, n_heads=3, d_ff=16)
    for model, entries, inputs in (
        (Encoder(ENCODER), ["input"], (ids,)),
        (EncoderDecoder(encoder_decoder().config), ["encoder_input", "decoder_input"], (ids, targets)),
        (ViT(config), ["input"], (images,)),
    ):
        before = model(*inputs).data
        for entry in entries:
            getattr(model, entry).prompt = Rows()
            after = model(*inputs).data
            assert after.shape == before.shape
            assert not np.allclose(after, before)
            getattr(model, entry).prompt = None
        assert np.array_equal(model(*inputs).data, before)


def test_masking_always_chooses_a_token_where_it_may(rng):
    ids = rng.integers(5, V, (1, 4))
    keep = np.array([[True, False, True, True]])
    for seed in range(20):
        _, labels = mask_tokens(ids, 4, V, seed, keep)
        assert (labels != -100).tolist() == (~keep).tolist()
    masked, labels = mask_tokens(ids, 4, V, 0, np.ones((1, 4), bool))
    assert np.array_equal(masked, ids)
    assert (labels == -100).all()


def test_masking_repeats_with_its_seed_and_leaves_the_ids_alone(rng):
    ids = rng.integers(5, V, (6, 9))
    before = ids.copy()
    first, again, other = (mask_tokens(ids, 4, V, seed) for seed in (1, 1, 2))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])
    assert np.array_equal(ids, before)


def test_a_masked_language_model_learns_a_pattern():
    """Each token follows from its neighbours: the loss falls well below log 12, that of guessing."""
    rng = np.random.default_rng(0)
    config = EncoderConfig(vocab_size=V, d_model=24, n_layers=2, n_heads=3, d_ff=48, context=20)
    model = EncoderMaskedLM(config, rng=0)
    optimizer = mp.optim.AdamW(model, lr=5e-3)
    start = rng.integers(5, V, (64, 1))
    ids = 5 + (start - 5 + np.arange(8)) % (V - 5)
    losses = []
    for _ in range(200):
        masked, labels = mask_tokens(ids, 4, V, rng)
        losses.append(mp.train.train_step(model, {"ids": masked, "labels": labels}, optimizer))
    assert np.mean(losses[:5]) > 2.4
    assert np.mean(losses[-20:]) < 0.6
