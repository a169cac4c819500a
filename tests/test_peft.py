"""Every method on every family: gradients, freezing, taking it back to the bit, saving exactly what was trained."""

import json
import math

import numpy as np
import pytest
import strict
from devices import comparison
from families import FAMILIES, encoder, encoder_decoder, gpt2, llama, mlp, vit

import minipeft as mp
from minipeft import nn
from minipeft.accounting import memory, recorded_nodes, saved_buffers
from minipeft.backend import to_numpy
from minipeft.files import FileError, read_safetensors, write_safetensors
from minipeft.optim import SGD, AdamW
from minipeft.peft import (
    AdapterConfig,
    BitFitConfig,
    FacTConfig,
    IA3Config,
    IntrinsicConfig,
    LayerNormConfig,
    LNLoraConfig,
    LoraConfig,
    PeftError,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    TopLayersConfig,
    get_peft_model,
)
from minipeft.peft.prefix import collapse
from minipeft.train import train_step

METHODS = {
    "LoRA": lambda: LoraConfig(r=2, lora_alpha=6),
    "LoRA everywhere": lambda: LoraConfig(
        r=2, target_modules="all-linear", use_rslora=True, init_lora_weights="gaussian"
    ),
    "adapters": lambda: AdapterConfig(r=3),
    "one adapter": lambda: AdapterConfig(r=3, after=["feed_forward"], activation="relu"),
    "prompt": lambda: PromptTuningConfig(num_virtual_tokens=4),
    "prefix": lambda: PrefixTuningConfig(num_virtual_tokens=4),
    "projected prefix": lambda: PrefixTuningConfig(num_virtual_tokens=4, prefix_projection=True, encoder_hidden_size=5),
    "top layer": lambda: TopLayersConfig(n_layers=1),
    "BitFit": lambda: BitFitConfig(),
    "AdapterL": lambda: AdapterConfig(r=3, after=["feed_forward"], layer_norm=True),
    "parallel adapter": lambda: AdapterConfig(r=3, after=["feed_forward"], parallel=True, scale=4.0, zero_up=True),
    "IA3": lambda: IA3Config(),
    "LayerNorm": lambda: LayerNormConfig(),
    "LNLoRA": lambda: LNLoraConfig(r=2),
    "DID": lambda: IntrinsicConfig(d=7, projection="dense"),
    "DID sparse": lambda: IntrinsicConfig(d=7, projection="sparse", modules_to_save=None),
    "DID fastfood": lambda: IntrinsicConfig(d=7),
    "SAID": lambda: IntrinsicConfig(d=130, said=True, seed=3),
    "FacT-TT": lambda: FacTConfig(r=2, target_modules=FACT_TARGETS),
    "FacT-TK": lambda: FacTConfig(r=2, factorization="tk", scale=3.0, target_modules=FACT_TARGETS),
}
FACT_TARGETS = ["attention.q_proj", "attention.out_proj"]
IMPOSSIBLE = {
    ("llama", "BitFit"),
    ("mlp", "SAID"),
    *(("mlp", m) for m in METHODS if m not in ("top layer", "BitFit", "LoRA everywhere") and "ID" not in m),
}
GRID = [(f, m) for f in FAMILIES for m in METHODS if (f, m) not in IMPOSSIBLE]
grid = pytest.mark.parametrize(("family", "method"), GRID, ids=[f"{m} on {f}" for f, m in GRID])


def made(family, method, rng):
    model, batch = FAMILIES[family](rng)
    return model, batch, get_peft_model(model, METHODS[method]())


def shaken(peft, rng, scale=0.1):
    for p in peft.trained().values():
        p.data[...] += scale * rng.normal(size=p.shape)


def outputs(model, batch):
    with mp.no_grad():
        return model.loss(**batch).data.copy()


@pytest.mark.parametrize(("family", "method"), sorted(IMPOSSIBLE))
def test_a_method_that_makes_no_sense_is_refused_and_changes_nothing(family, method, rng):
    model, batch = FAMILIES[family](rng)
    before = outputs(model, batch)
    with pytest.raises(PeftError):
        get_peft_model(model, METHODS[method]())
    assert np.array_equal(outputs(model, batch), before)
    assert all(p.requires_grad for p in model.parameters())


@grid
def test_gradients_of_all_that_is_trained(family, method, rng):
    model, batch = FAMILIES[family](rng)
    peft = get_peft_model(model.to(np.float64), METHODS[method]())
    shaken(peft, rng)
    mp.gradcheck_parameters(lambda: peft.loss(**batch), dict(peft.named_parameters()))


@grid
def test_training_changes_the_trained_tensors_and_nothing_else(family, method, rng):
    model, batch = FAMILIES[family](rng)
    before = {n: (p, p.data.copy()) for n, p in model.named_parameters()}
    base = outputs(model, batch)
    peft = get_peft_model(model, METHODS[method]())
    start = {n: p.data.copy() for n, p in peft.trained().items()}
    optimizer = AdamW(peft, lr=0.05, weight_decay=0.1)
    for _ in range(3):
        train_step(peft, batch, optimizer)
    assert {n.removeprefix("base_model.") for n in optimizer.state} == set(start)
    for n, p in peft.trained().items():
        assert not np.array_equal(p.data, start[n]), n
    for n, (p, x) in before.items():
        assert np.array_equal(p.data, x), n
    assert not np.array_equal(outputs(peft, batch), base)
    with peft.disable_adapter():
        assert np.array_equal(outputs(peft, batch), base)
    assert not np.array_equal(outputs(peft, batch), base)
    assert peft.unload() is model
    assert np.array_equal(outputs(model, batch), base)
    assert dict(model.named_parameters()) == {n: p for n, (p, _) in before.items()}
    assert all(p.requires_grad for p in model.parameters())


@grid
def test_what_is_saved_is_what_was_trained_and_loads_to_the_same_bits(family, method, rng, tmp_path):
    model, batch, peft = made(family, method, rng)
    shaken(peft, rng)
    expected = outputs(peft, batch)
    peft.save_pretrained(tmp_path / "adapter")
    tensors, _ = read_safetensors(tmp_path / "adapter" / "minipeft_model.safetensors")
    assert set(tensors) == set(peft.trained())
    ours = {"minipeft_model.safetensors", "minipeft_config.json"}
    theirs = {"adapter_model.safetensors", "adapter_config.json"}
    assert {f.name for f in (tmp_path / "adapter").iterdir()} in (ours, ours | theirs)
    config = peft.peft_config
    again = PeftModel.from_pretrained(peft.unload(), tmp_path / "adapter")
    assert np.array_equal(outputs(again, batch), expected)
    assert again.peft_config == config


@grid
def test_a_device_gives_the_same_without_a_synchronization(family, method, other_device, rng):
    results = []
    for device in ("cpu", other_device):
        model, batch, peft = made(family, method, np.random.default_rng(0))
        shaken(peft, np.random.default_rng(1))
        if other_device != "strict":
            peft.to(np.float64)
        peft.to(device)
        strict.Syncs.count = 0
        loss = peft.loss(**batch)
        loss.backward()
        AdamW(peft).step()
        assert strict.Syncs.count == 0
        results.append([to_numpy(loss.data), *(to_numpy(p.data) for p in peft.trained().values())])
    for a, b in zip(*results, strict=True):
        comparison(other_device)(b, a, rtol=1e-7, atol=1e-9)


@grid
def test_a_frozen_parameter_costs_nothing(family, method, rng):
    model, batch, peft = made(family, method, rng)
    loss = peft.loss(**batch)
    frozen = [p for p in peft.parameters() if not p.requires_grad]
    leaves = {id(parent) for node in recorded_nodes(loss) for parent in node.parents if isinstance(parent, mp.Tensor)}
    assert not leaves & {id(p) for p in frozen}
    used = memory(peft, AdamW(peft), loss)
    trainable, total = peft.trainable_counts()
    assert used.gradients == 4 * trainable
    assert used.parameters == 4 * total
    loss.backward()
    assert all(p.grad is None for p in frozen)
    assert sum(p.grad.nbytes for p in peft.parameters() if p.grad is not None) == used.gradients


@pytest.mark.parametrize("method", ["LoRA", "LoRA everywhere", "top layer", "BitFit", "IA3", "FacT-TK", "LayerNorm"])
def test_merging_gives_plain_layers_with_the_same_outputs(method, rng):
    model, batch = gpt2(rng)
    model.to(np.float64)
    base = {n: p.data.copy() for n, p in model.named_parameters()}
    arrays = {n: p.data for n, p in model.named_parameters()}
    peft = get_peft_model(model, METHODS[method]())
    shaken(peft, rng)
    expected = outputs(peft, batch)
    merged = peft.merge_and_unload()
    assert merged is model
    assert {type(m).__name__ for _, m in merged.named_modules()} <= {
        *(
            "DecoderLM",
            "TextInput",
            "Embedding",
            "Dropout",
            "TransformerStack",
            "TransformerLayer",
            "MultiHeadAttention",
        ),
        *("Linear", "ScaledDotProduct", "LayerNorm", "FeedForward"),
    }
    np.testing.assert_allclose(outputs(merged, batch), expected, rtol=1e-12)
    for n, x in arrays.items():
        assert np.array_equal(x, base[n])  # the base's own arrays were not written


@pytest.mark.parametrize("method", ["adapters", "prompt", "prefix", "LNLoRA", "AdapterL"])
def test_what_a_plain_layer_cannot_compute_is_not_merged(method, rng):
    _, _, peft = made("gpt2", method, rng)
    with pytest.raises(PeftError, match="cannot be merged"):
        peft.merge_and_unload()


def test_lora_starts_at_the_base_model_and_scales_as_its_paper_says(rng):
    model, batch = gpt2(rng)
    base = outputs(model, batch)
    peft = get_peft_model(model, LoraConfig(r=2, lora_alpha=6))
    assert np.array_equal(outputs(peft, batch), base)
    layer = nn.find(model, "stack.layers.0.attention.q_proj")
    assert not layer.lora_B.data.any()
    assert np.abs(layer.lora_A.data).max() <= 12**-0.5
    assert layer.scale == 3.0
    assert (
        get_peft_model(gpt2(rng)[0], LoraConfig(r=4, lora_alpha=6, use_rslora=True))
        .stack.layers[0]
        .attention.q_proj.scale
        == 3.0
    )


def test_lora_gaussian_has_the_standard_deviation_one_over_r(rng):
    model = mp.models.MLP((400, 300, 2))
    peft = get_peft_model(model, LoraConfig(r=5, target_modules=["layers.0"], init_lora_weights="gaussian"))
    assert peft.layers[0].lora_A.data.std() == pytest.approx(1 / 5, rel=0.05)


def test_lora_on_the_top_layer_saves_nothing_below_it(rng):
    model, batch = gpt2(rng)
    peft = get_peft_model(model, LoraConfig(r=2, layers_to_transform=[2]))
    loss = peft.loss(**batch)
    nodes = sorted(recorded_nodes(loss), key=lambda n: n.birth)
    assert nodes[0].function.__name__ == "LoRALinear"
    first = nodes[0].birth
    below = [n for node, n in saved_buffers(loss, list(peft.parameters())) if node.birth < first]
    assert below == []
    whole = get_peft_model(gpt2(rng)[0], LoraConfig(r=2)).loss(**batch)
    assert len(nodes) < len(list(recorded_nodes(whole))) / 2


def test_lora_dropout_touches_its_own_path_alone(rng):
    model, batch = gpt2(rng)
    base = outputs(model, batch)
    peft = get_peft_model(model, LoraConfig(r=2, lora_dropout=0.5))
    with nn.random_stream(0):
        assert outputs(peft, batch) == pytest.approx(base, rel=1e-6)  # B = 0: whatever is dropped, nothing is added
    shaken(peft, rng)
    with nn.random_stream(0):
        dropped = outputs(peft, batch)
    assert not np.allclose(dropped, outputs(peft.eval(), batch))


def test_the_counts_are_those_of_the_closed_formulas(rng):
    d, layers, V, ff, P = 12, 3, 17, 48, 4
    counts = {
        "LoRA": layers * 2 * 2 * (d + d),
        "LoRA everywhere": layers * 2 * (4 * (d + d) + 2 * (d + ff)),
        "adapters": layers * 2 * (2 * d * 3 + 3 + d),
        "one adapter": layers * (2 * d * 3 + 3 + d),
        "prompt": P * d,
        "prefix": P * layers * 2 * d,
        "projected prefix": P * d + d * 5 + 5 + layers * (5 * 2 * d + 2 * d),
        "top layer": 4 * d * d + 4 * d + 2 * d * ff + ff + d + 4 * d + 2 * d,
        "BitFit": layers * (4 * d + ff + d + 2 * d) + d,
        "AdapterL": layers * (2 * d * 3 + 3 + d + 2 * d),
        "parallel adapter": layers * (2 * d * 3 + 3 + d),
        "IA3": layers * (2 * d + ff),
        "LayerNorm": (2 * layers + 1) * 2 * d,
        "LNLoRA": layers * 2 * (2 * d + 2 * d + 2 * d),
        "DID": 7,
        "SAID": 130,
        "FacT-TT": 2 * d * 2 + layers * 2 * 2 * 2,
        "FacT-TK": 2 * d * 2 + layers * 2 * 2 + 2**3,
    }
    for method, expected in counts.items():
        _, _, peft = made("gpt2", method, rng)
        assert peft.trainable_counts()[0] == expected, method
    assert V == 17


def test_printed_counts(rng, capsys):
    _, _, peft = made("gpt2", "LoRA", rng)
    peft.print_trainable_parameters()
    trainable, total = peft.trainable_counts()
    assert capsys.readouterr().out == (
        f"trainable params: {trainable} || all params: {total:,} || trainable%: {100 * trainable / total:.4f}\n"
    )


def test_adapters_start_near_the_identity(rng):
    model, batch = gpt2(rng)
    base = outputs(model, batch)
    peft = get_peft_model(model, AdapterConfig(r=3))
    assert np.allclose(outputs(peft, batch), base, rtol=1e-3)
    down = peft.stack.layers[0].attention.adapter.down.data
    assert np.abs(down).max() <= 0.02  # cut at two standard deviations


@pytest.mark.parametrize("family", ["gpt2", "encoder"])
@pytest.mark.parametrize("kind", ["AdapterH", "AdapterL", "parallel"])
def test_adapters_stand_where_their_papers_put_them(family, kind, rng):
    """Behind (or beside) a sublayer and before its residual, whether the layer normalizes first or last."""
    model, _ = FAMILIES[family](rng)
    layer = next(m for _, m in model.to(np.float64).named_modules() if isinstance(m, nn.TransformerLayer))
    x = mp.Tensor(rng.normal(size=(2, 5, 12)))
    attention, feed_forward = layer.attention, layer.feed_forward
    config = {
        "AdapterH": AdapterConfig(r=3),
        "AdapterL": AdapterConfig(r=3, after=["feed_forward"], layer_norm=True),
        "parallel": AdapterConfig(r=3, after=["feed_forward"], parallel=True, scale=4.0),
    }[kind]
    peft = get_peft_model(model, config)
    shaken(peft, rng)

    def bottleneck(a, h):
        return a.scale * (gelu(h @ a.down.data.T + a.down_bias.data) @ a.up.data.T + a.up_bias.data)

    def gelu(g):
        return g / 2 * (1 + np.vectorize(math.erf)(g / 2**0.5))

    def behind(sublayer, plain, h):
        z = plain(mp.Tensor(h)).data
        if not hasattr(sublayer, "adapter"):
            return z
        if kind == "parallel":
            return z + bottleneck(sublayer.adapter, h)
        return z + bottleneck(sublayer.adapter, z if kind == "AdapterH" else normalized(sublayer.adapter.norm, z))

    def normalized(norm, z):
        return norm(mp.Tensor(z)).data

    h = x.data
    for sublayer, plain, norm in (
        (layer.attention, attention, layer.attention_norm),
        (layer.feed_forward, feed_forward, layer.feed_forward_norm),
    ):
        if layer.norm_first:
            h = h + behind(sublayer, plain, normalized(norm, h))
        else:
            h = normalized(norm, h + behind(sublayer, plain, h))
    with mp.no_grad():
        np.testing.assert_allclose(layer(x).data, h, rtol=1e-10, atol=1e-12)
    assert hasattr(layer.attention, "adapter") == (kind == "AdapterH")


def test_prefix_positions_start_at_the_prefix_length(rng):
    model, batch = gpt2(rng)
    peft = get_peft_model(model, PrefixTuningConfig(num_virtual_tokens=4))
    assert np.array_equal(model.input(batch["ids"]).positions, np.arange(4, 9))
    peft.unload()
    assert np.array_equal(model.input(batch["ids"]).positions, np.arange(5))


def test_prefix_scores_are_not_square_and_every_query_sees_the_prefix(rng):
    model, batch = gpt2(rng)
    peft = get_peft_model(model, PrefixTuningConfig(num_virtual_tokens=4, init_std=1.0))
    with mp.reference():
        loss = peft.loss(batch["ids"], batch["labels"])
    node = min((n for n in recorded_nodes(loss) if n.function.__name__ == "PrefixAttention"), key=lambda n: n.birth)
    A = node.ctx.saved[0]  # (B, Hk, G, N, P + S)
    assert A.shape == (3, 3, 1, 5, 9)
    assert (A[..., :4] > 0).all()
    assert not np.triu(A[0, 0, 0, :, 4:], k=1).any()


def test_a_zero_prefix_is_no_no_op(rng):
    model, batch = gpt2(rng)
    base = outputs(model, batch)
    peft = get_peft_model(model, PrefixTuningConfig(num_virtual_tokens=4, init_std=0.0))
    assert not np.allclose(outputs(peft, batch), base, rtol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "llama", "encoder", "vit", "encoder_decoder"])
def test_collapsing_the_reparametrization_changes_nothing(family, rng, tmp_path):
    model, batch = FAMILIES[family](rng)
    model.to(np.float64)
    peft = get_peft_model(model, METHODS["projected prefix"]())
    shaken(peft, rng)
    expected = outputs(peft, batch)
    collapse(peft)
    np.testing.assert_allclose(outputs(peft, batch), expected, rtol=1e-12)
    assert all(n.endswith(("prefix.values", "classifier.weight", "classifier.bias")) for n in peft.trained())
    peft.save_pretrained(tmp_path / "flat")
    again = PeftModel.from_pretrained(peft.unload(), tmp_path / "flat")
    np.testing.assert_allclose(outputs(again, batch), expected, rtol=1e-12)


@pytest.mark.parametrize("family", ["gpt2", "encoder_decoder"])
def test_a_reparametrized_prefix_goes_on_training_from_its_file_and_then_collapses(family, rng, tmp_path):
    """What is saved is Q_θ and the network, not only the prefix that they compute."""
    model, batch = FAMILIES[family](rng)

    def steps(peft, n):
        optimizer = SGD(peft, lr=0.5)
        for _ in range(n):
            train_step(peft, batch, optimizer)

    peft = get_peft_model(model, METHODS["projected prefix"]())
    hidden = {n.rpartition("shared.")[0] for n in peft.trained() if "shared.embedding" in n}
    assert len(hidden) == (3 if family == "encoder_decoder" else 1), "one network a side"
    steps(peft, 2)
    peft.save_pretrained(tmp_path / "half")
    steps(peft, 2)
    expected = {n: p.data.copy() for n, p in peft.trained().items()}
    again = PeftModel.from_pretrained(peft.unload(), tmp_path / "half")
    steps(again, 2)
    assert {n: p.data.tobytes() for n, p in again.trained().items()} == {n: x.tobytes() for n, x in expected.items()}
    before = outputs(again, batch)
    collapse(again)
    assert outputs(again, batch) == pytest.approx(before, rel=1e-6)
    assert again.trainable_counts()[0] < sum(x.size for x in expected.values())


def test_prompt_initializations(rng):
    model, _ = gpt2(rng)
    table = model.input.tokens.weight.data
    for std, expected in ((None, table.std()), (1.0, 1.0)):
        drawn = get_peft_model(model, PromptTuningConfig(19, prompt_tuning_init="RANDOM", init_std=std), rng=5)
        assert drawn.input.prompt.rows.data.std() == pytest.approx(expected, rel=0.15)
        drawn.unload()
    text = get_peft_model(model, PromptTuningConfig(4, prompt_tuning_init="TEXT", prompt_tuning_init_ids=[3, 5]))
    assert np.array_equal(text.input.prompt.rows.data, table[[3, 5, 3, 5]])
    text.unload()
    sampled = get_peft_model(model, PromptTuningConfig(4), rng=3).input.prompt.rows.data
    assert all(any(np.array_equal(row, t) for t in table) for row in sampled)


def test_a_classification_head_is_trained_beside_the_method_and_saved_with_it(rng, tmp_path):
    model, batch = encoder(rng)
    peft = get_peft_model(model, LoraConfig(r=2))
    assert {n for n in peft.trained() if "lora" not in n} == {"classifier.weight", "classifier.bias"}
    assert len(get_peft_model(peft.unload(), LoraConfig(r=2, modules_to_save=[])).trained()) == 12


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LoraConfig(target_modules=["q_prj"]), r"'q_prj' matches no Linear or Embedding; did you mean 'q_proj'"),
        (LoraConfig(target_modules=["q_proj", "query"]), "'query' matches no Linear or Embedding"),
        (LoraConfig(target_modules=r".*\.wat"), "matches no Linear or Embedding; there are: down_proj"),
        (LoraConfig(target_modules="("), "not a regular expression"),
        (LoraConfig(target_modules=[]), "empty"),
        (LoraConfig(layers_to_transform=[1, 7]), r"\[7\] chooses no layer; the targets are in \[0, 1, 2\]"),
        (LoraConfig(r=0), "r must be at least 1, got 0"),
        (LoraConfig(r=13), r"rank r=13 of .* between 1 and min\(d, k\) = 12"),
        (LoraConfig(r=2.0), "r must be int, got 2.0"),
        (LoraConfig(r=True), "r must be int, got True"),
        (LoraConfig(rank_pattern={"q_proj": 0}), "rank r=0 of"),
        (LoraConfig(rank_pattern={"q_proj": 1.5}), "rank_pattern must be dict"),
        (LoraConfig(lora_alpha="8"), "lora_alpha must be float, got '8'"),
        (LoraConfig(lora_alpha=0), "lora_alpha is 0, so that nothing would be changed"),
        (LoraConfig(alpha_pattern={"q_proj": math.nan}), "alpha_pattern must be finite"),
        (LoraConfig(lora_dropout=1.0), "dropout: p must lie in"),
        (LoraConfig(target_modules=["q_proj", 3]), "target_modules must be list"),
        (LoraConfig(layers_to_transform=[True]), "layers_to_transform must be list"),
        (LoraConfig(modules_to_save="lm_head"), "modules_to_save must be list"),
        (LoraConfig(init_lora_weights="zeros"), "True, False or 'gaussian'"),
        (LNLoraConfig(lora_alpha=0), "lora_alpha is 0"),
        (FacTConfig(scale=0.0), "scale is 0"),
        (AdapterConfig(scale=math.inf), "scale must be finite"),
        (AdapterConfig(init_std=-1.0), "init_std must be at least 0"),
        (AdapterConfig(after="attention"), "after must be list"),
        (PromptTuningConfig(4, init_std=-1.0), "init_std must be at least 0"),
        (PromptTuningConfig(4, prompt_tuning_init="TEXT", prompt_tuning_init_ids=[17]), r"in 0 … 16, got \[17\]"),
        (PrefixTuningConfig(4, init_std=math.nan), "init_std must be finite"),
        (BitFitConfig(norms="no"), "norms must be bool"),
        (TopLayersConfig(n_layers=1.5), "n_layers must be int"),
        (AdapterConfig(r=13), "no bottleneck"),
        (AdapterConfig(activation="gelo"), "unknown activation"),
        (AdapterConfig(after=["output"]), "sublayers"),
        (PromptTuningConfig(num_virtual_tokens=20), "leaves no room for text in a context of 20"),
        (PromptTuningConfig(4, prompt_tuning_init="TEXT"), "prompt_tuning_init_ids"),
        (PromptTuningConfig(4, prompt_tuning_init="VOCAB"), "SAMPLE_VOCAB or TEXT"),
        (PrefixTuningConfig(num_virtual_tokens=0), "at least 1"),
        (PrefixTuningConfig(num_virtual_tokens=25), "leaves no room"),
        (PrefixTuningConfig(4, prefix_projection=True, encoder_hidden_size=0), "at least 1"),
        (TopLayersConfig(n_layers=4), "n_layers=4, but the model has 3"),
        (TopLayersConfig(n_layers=0), "leaves nothing to train"),
        (LoraConfig(modules_to_save=["head"]), "modules_to_save: 'head'"),
    ],
)
def test_a_configuration_that_does_not_fit_says_what_would_and_changes_nothing(config, message, rng):
    model, batch = gpt2(rng)
    before = outputs(model, batch)
    parts = dict(model.named_modules())
    with pytest.raises(PeftError, match=message):
        get_peft_model(model, config)
    assert dict(model.named_modules()) == parts
    assert np.array_equal(outputs(model, batch), before)
    assert all(p.requires_grad for p in model.parameters())


def test_targets_by_suffix_path_and_regular_expression(rng):
    def targets(t, **kwargs):
        peft = get_peft_model(gpt2(rng)[0], LoraConfig(r=2, target_modules=t, **kwargs))
        return [n.removesuffix(".lora_A") for n in peft.trained() if n.endswith("lora_A")]

    assert targets(["attention.q_proj"]) == [f"stack.layers.{i}.attention.q_proj" for i in range(3)]
    assert targets(["stack.layers.1.attention.k_proj"]) == ["stack.layers.1.attention.k_proj"]
    assert targets(r"stack\.layers\.[02]\..*_proj", layers_to_transform=[2]) == [
        *(f"stack.layers.2.attention.{p}_proj" for p in ("q", "k", "v", "out")),
        *(f"stack.layers.2.feed_forward.{p}_proj" for p in ("up", "down")),
    ]
    assert len(targets("all-linear")) == 18
    assert targets(["q_proj"], layers_to_transform=1) == targets(["q_proj"], layers_to_transform=range(1, 2))


def test_two_methods_at_once_and_a_wrong_type_are_refused(rng):
    _, _, peft = made("gpt2", "LoRA", rng)
    with pytest.raises(PeftError, match="unload"):
        get_peft_model(peft, LoraConfig())
    with pytest.raises(TypeError, match="LoraConfig"):
        get_peft_model(gpt2(rng)[0], {"r": 8})
    with pytest.raises(AttributeError):
        peft.no_such_thing  # noqa: B018


def test_an_adapter_for_another_base_is_refused_and_changes_nothing(rng, tmp_path):
    model, batch, peft = made("gpt2", "LoRA", rng)
    peft.save_pretrained(tmp_path / "a")
    other, _ = gpt2(rng)
    other.input.tokens.weight.data[0, 0] += 1e-3
    before = outputs(other, batch)
    with pytest.raises(PeftError, match="other base weights"):
        PeftModel.from_pretrained(other, tmp_path / "a")
    assert np.array_equal(outputs(other, batch), before)
    assert all(p.requires_grad for p in other.parameters())


def test_a_broken_adapter_is_refused(rng, tmp_path):
    model, batch, peft = made("gpt2", "LoRA", rng)
    shaken(peft, rng)
    folder = tmp_path / "a"
    peft.save_pretrained(folder)
    base = peft.unload()
    weights, config = folder / "minipeft_model.safetensors", folder / "minipeft_config.json"
    good_weights, good_config = weights.read_bytes(), config.read_text()
    tensors, metadata = read_safetensors(weights)
    first = next(iter(tensors))

    def refused(error, message):
        with pytest.raises(error, match=message):
            PeftModel.from_pretrained(base, folder)
        weights.write_bytes(good_weights)
        config.write_text(good_config)

    weights.write_bytes(good_weights[:-5])
    refused(FileError, "truncated")
    write_safetensors(weights, {k: v for k, v in tensors.items() if k != first}, metadata)
    refused(PeftError, "missing")
    write_safetensors(weights, {**tensors, "x": np.ones(2)}, metadata)
    refused(PeftError, "unknown")
    write_safetensors(weights, {**tensors, first: np.ones((3, 3))}, metadata)
    refused(PeftError, "the model needs")
    write_safetensors(weights, {**tensors, first: tensors[first] * np.nan}, metadata)
    refused(PeftError, "not finite")
    config.write_text(json.dumps({**json.loads(good_config), "rank": 3}))
    refused(FileError, "no field 'rank'")
    config.write_text(json.dumps({**json.loads(good_config), "peft_type": "DORA"}))
    refused(PeftError, "unknown peft_type 'DORA'")
    config.unlink()
    (folder / "adapter_config.json").unlink()
    refused(FileError, "no such file")
    assert PeftModel.from_pretrained(base, folder).trained()


@pytest.mark.parametrize("form", ["ours", "theirs"])
def test_an_adapter_that_changes_nothing_is_refused_unless_told(form, rng, tmp_path):
    """A fresh LoRA has B = 0, one whose weights were lost A = B = 0: both would pass for trained ones in silence."""
    _, batch, peft = made("gpt2", "LoRA", rng)
    folder = tmp_path / "a"
    peft.save_pretrained(folder)
    base = peft.unload()
    before = outputs(base, batch)
    if form == "theirs":
        for name in ("minipeft_model.safetensors", "minipeft_config.json"):
            (folder / name).unlink()
    with pytest.raises(PeftError, match=r"this adapter changes nothing.*allow_zero=True"):
        PeftModel.from_pretrained(base, folder)
    assert np.array_equal(outputs(base, batch), before)
    assert np.array_equal(outputs(PeftModel.from_pretrained(base, folder, allow_zero=True), batch), before)


def test_one_pair_that_is_not_zero_is_enough(rng, tmp_path):
    _, _, peft = made("gpt2", "LoRA", rng)
    last = [p for n, p in peft.trained().items() if n.endswith("lora_B")][-1]
    last.data[0, 0] = 1e-30
    peft.save_pretrained(tmp_path / "a")
    assert PeftModel.from_pretrained(peft.unload(), tmp_path / "a").trained()


def test_an_interrupted_save_leaves_the_old_adapter(rng, tmp_path, monkeypatch):
    _, batch, peft = made("gpt2", "LoRA", rng)
    peft.save_pretrained(tmp_path / "a")
    kept = (tmp_path / "a" / "minipeft_model.safetensors").read_bytes()
    shaken(peft, rng)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("minipeft.peft.saving.write_json", interrupted)
    with pytest.raises(KeyboardInterrupt):
        peft.save_pretrained(tmp_path / "a")
    assert [f.name for f in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "minipeft_model.safetensors").read_bytes() == kept


def test_the_first_step_of_lora_moves_b_and_not_a(rng):
    _, batch, peft = made("gpt2", "LoRA", rng)
    peft.loss(**batch).backward()
    for n, p in peft.trained().items():
        assert bool(np.any(p.grad)) == n.endswith("lora_B"), n


@pytest.mark.parametrize("family", [llama, vit, encoder_decoder])
def test_prefixes_stand_before_every_attention(family, rng):
    model, batch = family(rng)
    peft = get_peft_model(model, PrefixTuningConfig(num_virtual_tokens=4))
    attentions = [m for _, m in model.named_modules() if isinstance(m, nn.MultiHeadAttention)]
    assert {m.core.prefix.values.shape for m in attentions} == {
        (2, 4, attentions[0].n_kv_heads, attentions[0].head_dim)
    }
    assert sum("prefix.values" in n for n in peft.trained()) == len(attentions)


def test_top_layers_of_the_mlp_and_bitfit_without_norms(rng):
    model, batch = mlp(rng)
    assert set(get_peft_model(model, TopLayersConfig(n_layers=2)).trained()) == {
        f"layers.{i}.{k}" for i in (1, 2) for k in ("weight", "bias")
    }
    peft = get_peft_model(gpt2(rng)[0], BitFitConfig(norms=False))
    assert not any("norm" in n for n in peft.trained())
    assert math.prod(next(iter(peft.trained().values())).shape) > 0


@pytest.mark.parametrize(
    ("factorization", "expected"), [("tt", 2 * 12 * 2 + 12 * 3 * 4), ("tk", 2 * 12 * 2 + 12 * 3 * 2 + 8)]
)
def test_fact_counts_of_its_paper_and_its_tensor_written_out(factorization, expected, rng):
    model, batch = gpt2(rng)
    model.to(np.float64)
    weights = {
        p: nn.find(model, p).weight.data.copy() for p in (f"stack.layers.{i}.feed_forward.up_proj" for i in range(3))
    }
    peft = get_peft_model(model, FacTConfig(r=2, factorization=factorization, scale=0.5))
    assert peft.trainable_counts()[0] == expected
    shaken(peft, rng)
    expected_output = outputs(peft, batch)
    layer = nn.find(model, "stack.layers.1.feed_forward.up_proj")
    U, V, sigma = layer.fact_U.data, layer.fact_V.data, layer.core().data
    blocks = np.concatenate([0.5 * V @ core @ U for core in sigma])
    np.testing.assert_allclose(layer.delta(), blocks, rtol=1e-12)
    merged = peft.merge_and_unload()
    np.testing.assert_allclose(outputs(merged, batch), expected_output, rtol=1e-12)
    path = "stack.layers.1.feed_forward.up_proj"
    np.testing.assert_allclose(nn.find(merged, path).weight.data, weights[path] + blocks, rtol=1e-12)


def vit_of_four_blocks(rng):
    """A ViT as its paper has it, d_ff = 4 d: twelve matrices of d x d in every layer."""
    config = mp.models.ViTConfig(8, 4, 2, 5, d_model=6, n_layers=2, n_heads=2, d_ff=24)
    return mp.models.ViT(config).to(np.float64), {
        "images": rng.normal(size=(3, 2, 8, 8)),
        "labels": np.array([1, 4, 0]),
    }


@pytest.mark.parametrize("factorization", ["tt", "tk"])
def test_fact_on_a_vit_is_one_tensor_of_12_l_matrices(factorization, rng):
    d, r, layers, s = 6, 3, 2, 0.7
    model, batch = vit_of_four_blocks(rng)
    base = {n: p.data.copy() for n, p in model.named_parameters()}
    peft = get_peft_model(model, FacTConfig(r=r, factorization=factorization, scale=s))
    n = 12 * layers
    core = n * r * r if factorization == "tt" else n * r + r**3
    assert peft.trainable_counts()[0] == 2 * d * r + core + 5 * d + 5  # and the head
    shaken(peft, rng, 0.5)
    mp.gradcheck_parameters(lambda: peft.loss(**batch), dict(peft.named_parameters()))
    swapped = [(x.path, x.new) for x in peft._active.swaps if hasattr(x.new, "fact_U")]
    first = swapped[0][1]
    U, V = first.fact_U.data, first.fact_V.data  # (r, d), (d, r)
    if factorization == "tt":
        sigma = np.concatenate([layer.core.sigma.data for _, layer in swapped])
        tensor = s * np.einsum("ia,nab,bj->nij", V, sigma, U)
    else:
        tensor = s * np.einsum("pn,pab,ia,bj->nij", first.core.P.data, first.core.C.data, V, U)
    assert tensor.shape == (n, d, d)
    expected = outputs(peft, batch)
    merged = dict(peft.merge_and_unload().named_parameters())
    at = 0
    for path, _ in swapped:
        change = merged[f"{path}.weight"].data - base[f"{path}.weight"]
        m = change.size // d**2
        blocks = tensor[at : at + m]
        axis = 0 if change.shape[0] > d else 1  # up_proj has its blocks below each other, down_proj side by side
        np.testing.assert_allclose(change, np.concatenate(list(blocks), axis=axis), rtol=1e-10, atol=1e-13)
        at += m
    assert at == n
    np.testing.assert_allclose(outputs(model, batch), expected, rtol=1e-10)


def test_fact_refuses_matrices_that_are_no_blocks(rng):
    with pytest.raises(PeftError, match="does not divide"):
        get_peft_model(llama(rng)[0], FacTConfig(r=2))
    with pytest.raises(PeftError, match="'tt' or 'tk'"):
        get_peft_model(gpt2(rng)[0], FacTConfig(r=2, factorization="cp"))
    with pytest.raises(PeftError, match="exceeds d=12"):
        get_peft_model(gpt2(rng)[0], FacTConfig(r=13))


@pytest.mark.parametrize("method", ["LoRA", "IA3", "LNLoRA", "parallel adapter", "FacT-TT", "FacT-TK", "LayerNorm"])
def test_methods_that_start_at_the_base_model(method, rng):
    model, batch = gpt2(rng)
    base = outputs(model, batch)
    assert outputs(get_peft_model(model, METHODS[method]()), batch) == pytest.approx(base, rel=1e-6)


def test_ia3_rescales_keys_values_and_the_feed_forwards_input(rng):
    model, batch = gpt2(rng)
    peft = get_peft_model(model, IA3Config())
    layer = peft.stack.layers[0]
    assert [m.inside for m in (layer.attention.k_proj, layer.attention.v_proj, layer.feed_forward.down_proj)] == [
        *(False, False, True)
    ]
    assert layer.feed_forward.down_proj.ia3_l.shape == (48,)
    peft.unload()
    outside = get_peft_model(model, IA3Config(feedforward_modules=[]))
    assert outside.stack.layers[0].feed_forward.down_proj.ia3_l.shape == (12,)
    outside.unload()
    with pytest.raises(PeftError, match="not among the target modules"):
        get_peft_model(model, IA3Config(target_modules=["k_proj"], feedforward_modules=["down_proj"]))


def test_a_parallel_adapter_has_no_layer_norm_of_its_own(rng):
    with pytest.raises(PeftError, match="not in parallel"):
        get_peft_model(gpt2(rng)[0], AdapterConfig(parallel=True, layer_norm=True))


@pytest.mark.parametrize("config", [PromptTuningConfig, PrefixTuningConfig])
def test_sides_of_an_encoder_decoder(config, rng):
    counts = {}
    known = ["encoder", "decoder", "cross"] if config is PrefixTuningConfig else ["encoder", "decoder"]
    for sides in (None, *([s] for s in known)):
        model, batch = FAMILIES["encoder_decoder"](rng)
        peft = get_peft_model(model, config(3, sides=sides))
        paths = list(peft.trained())
        counts[None if sides is None else sides[0]] = len(paths)
        if sides is not None:
            want = {"encoder": "encoder", "decoder": "decoder", "cross": "decoder"}[sides[0]]
            assert all(p.startswith(want) and ("cross" in p) == (sides == ["cross"]) for p in paths)
        peft.loss(**batch).backward()
        assert all(np.abs(p.grad).max() > 0 for p in peft.trained().values())
        offsets = [model.encoder_input.position_offset, model.decoder_input.position_offset]
        if config is PrefixTuningConfig and sides is not None:
            assert offsets == [3 * (sides == ["encoder"]), 3 * (sides == ["decoder"])], (
                "only where the text has company"
            )
    assert counts[None] == sum(counts[s] for s in known)
    for sides in (["middle"], []):
        with pytest.raises(PeftError, match="sides holds some of encoder, decoder"):
            get_peft_model(FAMILIES["encoder_decoder"](rng)[0], config(3, sides=sides))
    with pytest.raises(PeftError, match="no side 'decoder'; they are an encoder-decoder's"):
        get_peft_model(FAMILIES["gpt2"](rng)[0], config(3, sides=["decoder"]))
