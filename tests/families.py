"""One tiny model of each family, and a batch for it."""

import numpy as np

from minipeft import models as M

V = 17


def text(rng, T=5):
    ids = rng.integers(0, V, (3, T))
    mask = np.ones((3, T), bool)
    mask[1, 3:] = False
    labels = rng.integers(0, V, (3, T))
    labels[0, :2] = -100
    labels[~mask] = -100
    return ids, mask, labels


def gpt2(rng):
    ids, mask, labels = text(rng)
    config = M.DecoderConfig.gpt2(vocab_size=V, d_model=12, n_layers=3, n_heads=3, context=20)
    return M.DecoderLM(config), {"ids": ids, "labels": labels, "mask": mask}


def llama(rng):
    ids, mask, labels = text(rng)
    config = M.DecoderConfig.llama(V, 24, 3, 4, 2, d_ff=20, context=20)
    return M.DecoderLM(config), {"ids": ids, "labels": labels, "mask": mask}


def encoder(rng):
    ids, mask, _ = text(rng)
    config = M.EncoderConfig(vocab_size=V, d_model=12, n_layers=3, n_heads=3, d_ff=16, context=20)
    return M.EncoderClassifier(config, n_classes=4), {"ids": ids, "labels": np.array([1, 3, 0]), "mask": mask}


def masked_lm(rng):
    ids, mask, labels = text(rng)
    config = M.EncoderConfig(vocab_size=V, d_model=12, n_layers=3, n_heads=3, d_ff=16, context=20)
    return M.EncoderMaskedLM(config), {"ids": ids, "labels": labels, "mask": mask}


def encoder_decoder(rng):
    ids, mask, _ = text(rng)
    config = M.EncoderDecoderConfig(vocab_size=V, d_model=12, n_layers=2, n_heads=3, d_ff=16, context=20)
    labels = rng.integers(0, V, (3, 4))
    labels[2, 3:] = -100
    return M.EncoderDecoder(config), {"ids": ids, "labels": labels, "mask": mask}


def vit(rng):
    config = M.ViTConfig(8, 4, 2, 5, d_model=12, n_layers=3, n_heads=3, d_ff=16)
    return M.ViT(config), {"images": rng.normal(size=(3, 2, 8, 8)), "labels": np.array([1, 4, 0])}


def mlp(rng):
    return M.MLP((6, 5, 4, 3)), {"x": rng.normal(size=(3, 6)), "labels": np.array([1, 2, 0])}


FAMILIES = {f.__name__: f for f in (gpt2, llama, encoder, masked_lm, encoder_decoder, vit, mlp)}
TRANSFORMERS = {name: f for name, f in FAMILIES.items() if name != "mlp"}
