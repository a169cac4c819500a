"""The five families: gradients, freezing, padding, caches, devices, files."""

import json

import numpy as np
import pytest
import strict
from devices import comparison
from families import FAMILIES, TRANSFORMERS, gpt2, llama, vit

import minipeft as mp
from minipeft import models as M
from minipeft import nn
from minipeft.accounting import memory, recorded_nodes, saved_by
from minipeft.backend import to_numpy
from minipeft.files import FileError, write_safetensors

families = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


@families
def test_gradients_of_the_whole_model(family, rng):
    model, batch = family(rng)
    model.to(np.float64)
    mp.gradcheck_parameters(lambda: model.loss(**batch), dict(model.named_parameters()))


@families
def test_frozen_means_frozen_to_the_bit(family, rng):
    model, batch = family(rng)
    names = [n for n, _ in model.named_parameters()]
    trained = names[len(names) // 2]
    model.requires_grad_(False)
    dict(model.named_parameters())[trained].requires_grad_(True)
    before = {n: p.data.copy() for n, p in model.named_parameters()}
    optimizer = mp.optim.AdamW(model, lr=0.1, weight_decay=0.5)
    for _ in range(3):
        mp.train.train_step(model, batch, optimizer)
    assert list(optimizer.state) == [trained]
    for n, p in model.named_parameters():
        assert np.array_equal(p.data, before[n]) == (n != trained)


@pytest.mark.parametrize("family", TRANSFORMERS.values(), ids=TRANSFORMERS)
def test_below_the_first_trainable_parameter_nothing_is_recorded_or_saved(family, rng):
    model, batch = family(rng)
    model.requires_grad_(False)
    stacks = [m for _, m in model.named_modules() if isinstance(vars(m).get("layers"), list)]
    top = stacks[-1].layers[-1]
    top.feed_forward.down_proj.weight.requires_grad_(True)
    loss = model.loss(**batch)
    nodes = sorted(recorded_nodes(loss), key=lambda n: n.birth)
    assert nodes[0].function.__name__ == "Linear"  # the trained layer itself is the first that is recorded
    assert nodes[0].parents[1] is top.feed_forward.down_proj.weight
    assert "Attention" not in {n.function.__name__ for n in nodes}
    assert "Attention" not in saved_by(loss, model)


def test_saved_bytes_grow_with_the_layers_that_are_trained(rng):
    model, batch = gpt2(rng)
    sizes = []
    for k in range(4):
        model.requires_grad_(False)
        for layer in model.stack.layers[3 - k :]:
            layer.requires_grad_(True)
        model.stack.norm.requires_grad_(True)
        sizes.append(memory(model, None, model.loss(**batch)).activations)
    steps = np.diff(sizes)
    assert (steps > 0).all()
    assert steps[1] == steps[2]  # every further layer adds the same


@families
def test_a_device_gives_the_same_without_a_synchronization(family, other_device, rng):
    model, batch = family(rng)
    if other_device != "strict":
        model.to(np.float64)
    results = []
    for device in ("cpu", other_device):
        model.to(device)
        strict.Syncs.count = 0
        loss = model.loss(**batch)
        loss.backward()
        assert strict.Syncs.count == 0
        results.append([to_numpy(loss.data), *(to_numpy(p.grad) for p in model.parameters())])
    for a, b in zip(*results, strict=True):
        comparison(other_device)(b, a)


@pytest.mark.parametrize("family", [gpt2, llama])
def test_a_cache_changes_nothing(family, rng):
    model, batch = family(rng)
    model.to(np.float64)
    ids = batch["ids"]
    with mp.no_grad():
        full = model(ids).data
        cache = nn.new_cache(3)
        parts = [model(ids[:, i:j], cache=cache).data for i, j in ((0, 2), (2, 3), (3, 5))]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), full, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("family", [gpt2, llama])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(family, side, rng):
    model, batch = family(rng)
    model.to(np.float64)
    ids = batch["ids"]
    pads = np.full((3, 4), 7)
    mask = np.ones((3, 9), bool)
    rows = slice(4, 9) if side == "left" else slice(0, 5)
    mask[:, :] = False
    mask[:, rows] = True
    padded = np.concatenate([pads, ids] if side == "left" else [ids, pads], axis=1)
    with mp.no_grad():
        np.testing.assert_allclose(model(padded, mask=mask).data[:, rows], model(ids).data, rtol=1e-10, atol=1e-12)


def test_a_causal_model_does_not_look_ahead(rng):
    model, batch = gpt2(rng)
    changed = batch["ids"].copy()
    changed[:, 3:] = (changed[:, 3:] + 1) % 17
    with mp.no_grad():
        a, b = model(batch["ids"]).data, model(changed).data
    assert np.array_equal(a[:, :3], b[:, :3])
    assert not np.allclose(a[:, 3:], b[:, 3:])


def test_the_mnist_network_has_the_lectures_number_of_parameters():
    assert sum(p.size for p in M.MLP().parameters()) == 199_210


def test_a_sequence_longer_than_the_context_is_a_clear_error(rng):
    model, _ = gpt2(rng)
    with pytest.raises(ValueError, match="needs 21 positions, but the model's context has 20"):
        model(np.zeros((1, 21), dtype=int))
    with pytest.raises(ValueError, match=r"shape \(B, T\)"):
        model(np.zeros(5, dtype=int))
    with pytest.raises(ValueError, match=r"shape \(B, 2, 8, 8\)"):
        vit(rng)[0](np.zeros((1, 3, 8, 8)))


def test_masking_tokens_keeps_to_its_fractions(rng):
    ids = rng.integers(5, 50, (200, 50))
    keep = np.zeros(ids.shape, bool)
    keep[:, 0] = True
    masked, labels = M.mask_tokens(ids, 4, 50, rng, keep)
    chosen = labels != -100
    assert not chosen[:, 0].any()
    assert chosen[:, 1:].mean() == pytest.approx(0.15, abs=0.01)
    assert (masked[chosen] == 4).mean() == pytest.approx(0.8, abs=0.03)
    assert np.array_equal(labels[chosen], ids[chosen])
    assert np.array_equal(masked[~chosen], ids[~chosen])


@families
def test_save_and_load_give_the_same_model(family, rng, tmp_path):
    model, batch = family(rng)
    if isinstance(model, M.EncoderClassifier):
        model = model.encoder
        batch = None
    model.save_pretrained(tmp_path / "saved")
    again = type(model).from_pretrained(tmp_path / "saved")
    assert again.config == model.config
    for (n, p), (m, q) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert n == m
        assert np.array_equal(p.data, q.data)
    assert not again.training
    if batch is not None:
        assert again.loss(**batch).item() == model.eval().loss(**batch).item()


def test_a_folder_that_does_not_fit_is_a_clear_error(rng, tmp_path):
    model, _ = gpt2(rng)
    folder = tmp_path / "saved"
    with pytest.raises(FileError, match="minipeft fetch"):
        M.DecoderLM.from_pretrained(folder)
    model.save_pretrained(folder)
    with pytest.raises(FileError, match="holds a DecoderLM"):
        M.ViT.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    for change, message in (
        ({"d_modle": 3}, "did you mean 'd_model"),
        ({"d_model": "wide"}, "must be int"),
        ({"d_model": 24}, "shape"),
        ({"model_type": "mamba"}, "'mamba' is not a DecoderLM"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(FileError, match=message):
            M.DecoderLM.from_pretrained(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(FileError, match="expected JSON"):
        M.DecoderLM.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileError, match="no such file"):
        M.DecoderLM.from_pretrained(folder)


GPT2_SETTINGS = {
    **{"model_type": "gpt2", "vocab_size": 9, "n_embd": 6, "n_layer": 1, "n_head": 2, "n_positions": 8},
    **{"layer_norm_epsilon": 1e-5, "activation_function": "gelu_new"},
}


def huggingface_folder(tmp_path, settings, arrays):
    (tmp_path / "config.json").write_text(json.dumps(settings))
    write_safetensors(tmp_path / "model.safetensors", arrays)
    return tmp_path


def gpt2_arrays(rng):
    d = 6
    shapes = {"wte.weight": (9, d), "wpe.weight": (8, d), "ln_f.weight": (d,), "ln_f.bias": (d,)}
    for name, shape in (("ln_1", (d,)), ("ln_2", (d,)), ("attn.c_attn", (d, 18)), ("attn.c_proj", (d, d))):
        shapes |= {f"h.0.{name}.weight": shape, f"h.0.{name}.bias": shape[-1:]}
    shapes |= {"h.0.mlp.c_fc.weight": (d, 24), "h.0.mlp.c_fc.bias": (24,)}
    shapes |= {"h.0.mlp.c_proj.weight": (24, d), "h.0.mlp.c_proj.bias": (d,)}
    return {f"transformer.{n}": rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}


def test_the_fused_projection_of_gpt2_is_split_and_transposed(rng, tmp_path):
    arrays = gpt2_arrays(rng)
    model = M.DecoderLM.from_pretrained(huggingface_folder(tmp_path, GPT2_SETTINGS, arrays))
    fused = arrays["transformer.h.0.attn.c_attn.weight"]
    attention = model.stack.layers[0].attention
    assert np.array_equal(attention.k_proj.weight.data, fused[:, 6:12].T)
    assert np.array_equal(attention.v_proj.bias.data, arrays["transformer.h.0.attn.c_attn.bias"][12:])
    assert attention.k_proj.weight.data.flags.c_contiguous


@pytest.mark.parametrize(
    ("settings", "arrays", "message"),
    [
        ({"scale_attn_by_inverse_layer_idx": True}, {}, "only False is implemented"),
        ({"activation_function": "mish"}, {}, "activation_function is 'mish'"),
        ({"n_embd": None}, {}, "n_embd"),
        ({}, {"transformer.h.0.ln_1.bias": None}, "'h.0.ln_1.bias' is missing"),
        ({}, {"transformer.h.7.ln_1.bias": np.ones(6)}, "have no place in this model"),
        ({}, {"transformer.wte.weight": np.ones((8, 6))}, "shape"),
    ],
)
def test_a_foreign_folder_that_does_not_fit_names_what_is_wrong(settings, arrays, message, rng, tmp_path):
    full = {**GPT2_SETTINGS, **settings}
    full = {k: v for k, v in full.items() if v is not None}
    tensors = {**gpt2_arrays(rng), **arrays}
    folder = huggingface_folder(tmp_path, full, {k: v for k, v in tensors.items() if v is not None})
    with pytest.raises(FileError, match=message):
        M.DecoderLM.from_pretrained(folder)


def test_shards_are_read_together_and_never_from_outside(rng, tmp_path):
    arrays = gpt2_arrays(rng)
    names = sorted(arrays)
    (tmp_path / "config.json").write_text(json.dumps(GPT2_SETTINGS))
    index = {n: f"part-{i % 2}.safetensors" for i, n in enumerate(names)}
    for part in set(index.values()):
        write_safetensors(tmp_path / part, {n: arrays[n] for n in names if index[n] == part})
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    model = M.DecoderLM.from_pretrained(tmp_path)
    assert np.array_equal(model.input.tokens.weight.data, arrays["transformer.wte.weight"])
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))
    with pytest.raises(FileError, match="plain file name"):
        M.DecoderLM.from_pretrained(tmp_path)
