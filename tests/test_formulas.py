"""The closed formulas of every method equal what is counted on the model, exactly."""

import numpy as np
import pytest
from families import masked_lm, vit
from hypothesis import assume, example, given
from hypothesis import strategies as st

import minipeft as mp
from minipeft.accounting import (
    count_flops,
    count_parameters,
    decoder_flops,
    decoder_parameters,
    memory,
    same_layers,
    saved_by,
    trained_parameters,
)
from minipeft.models import DecoderConfig, DecoderLM
from minipeft.nn.layers import random_stream
from minipeft.optim import AdamW
from minipeft.peft import (
    AdapterConfig,
    BitFitConfig,
    FacTConfig,
    IA3Config,
    IntrinsicConfig,
    LayerNormConfig,
    LNLoraConfig,
    LoraConfig,
    PeftConfig,
    PeftError,
    PrefixTuningConfig,
    PromptTuningConfig,
    TopLayersConfig,
    get_peft_model,
)
from minipeft.train import train_step

ATTENTION = ["q_proj", "k_proj", "v_proj", "out_proj"]
CONFIGS = {  # sizes pairwise distinct
    "gpt2": DecoderConfig.gpt2(vocab_size=31, d_model=12, n_layers=3, n_heads=2, context=23, d_ff=40),
    "gpt2, untied": DecoderConfig.gpt2(31, 12, 2, 3, 23, d_ff=19, tied=False),
    "gpt2, post-norm": DecoderConfig.gpt2(31, 12, 2, 3, 23, d_ff=19, norm_first=False),
    "gpt2, dropout": DecoderConfig.gpt2(31, 12, 2, 3, 23, d_ff=19, dropout=0.2),
    "llama": DecoderConfig.llama(vocab_size=31, d_model=24, n_layers=3, n_heads=6, n_kv_heads=2, d_ff=19, context=23),
    "llama, untied": DecoderConfig.llama(31, 24, 2, 4, 1, d_ff=40, context=23, tied=False),
    "llama, biases, post-norm": DecoderConfig.llama(31, 24, 2, 4, 2, 19, 23, bias=True, norm="layer", norm_first=False),
    "llama, LayerNorm": DecoderConfig.llama(31, 24, 2, 4, 4, 40, 23, norm="layer"),
}
METHODS = {
    "full": lambda: None,
    "top 1": lambda: TopLayersConfig(1),
    "top 2": lambda: TopLayersConfig(2),
    "BitFit": lambda: BitFitConfig(),
    "BitFit, no norms": lambda: BitFitConfig(norms=False),
    "LayerNorm": lambda: LayerNormConfig(),
    "AdapterH": lambda: AdapterConfig(r=5),
    "AdapterL": lambda: AdapterConfig(r=3, after=["feed_forward"], layer_norm=True),
    "adapter after attention": lambda: AdapterConfig(r=2, after=["attention"], layers_to_transform=[1], scale=4.0),
    "parallel adapter": lambda: AdapterConfig(r=3, parallel=True),
    "parallel adapter, feed-forward": lambda: AdapterConfig(r=5, after=["feed_forward"], parallel=True),
    "prompt": lambda: PromptTuningConfig(3),
    "prefix": lambda: PrefixTuningConfig(4),
    "projected prefix": lambda: PrefixTuningConfig(4, prefix_projection=True),
    "projected prefix, m": lambda: PrefixTuningConfig(3, prefix_projection=True, encoder_hidden_size=7),
    **{f"LoRA {t}": lambda t=t: LoraConfig(r=2, target_modules=[t]) for t in (*ATTENTION, "up_proj", "down_proj")},
    "LoRA qv": lambda: LoraConfig(r=3),
    "LoRA all attention": lambda: LoraConfig(r=1, target_modules=ATTENTION),
    "LoRA everywhere": lambda: LoraConfig(r=5, target_modules="all-linear", bias="all"),
    "LoRA, patterns": lambda: LoraConfig(r=2, rank_pattern={r"layers\.1\..*": 3}, target_modules=ATTENTION[1:3]),
    "LoRA, own biases": lambda: LoraConfig(r=2, bias="lora_only", target_modules=["k_proj", "down_proj"]),
    "LoRA, dropout": lambda: LoraConfig(r=2, lora_dropout=0.3, target_modules=["q_proj", "up_proj"]),
    "LoRA on the top": lambda: LoraConfig(r=2, layers_to_transform=1),
    "LoRA, expression": lambda: LoraConfig(
        r=2, target_modules=r".*layers\.1\..*(q|out)_proj", exclude_modules=["q_proj"]
    ),
    "LoRA on tokens": lambda: LoraConfig(r=2, target_modules=["tokens", "v_proj"]),
    "LoRA on the head": lambda: LoraConfig(r=2, target_modules=["lm_head"]),
    "LNLoRA": lambda: LNLoraConfig(r=2),
    "LNLoRA, more": lambda: LNLoraConfig(r=3, target_modules=["out_proj", "down_proj"], layers_to_transform=[0]),
    "FacT-TT": lambda: FacTConfig(r=2, target_modules=["q_proj", "out_proj"]),
    "FacT-TK": lambda: FacTConfig(r=3, factorization="tk", target_modules=["q_proj", "out_proj"]),
    "FacT-TT, blocks": lambda: FacTConfig(r=2, target_modules=["k_proj", "v_proj"]),
    "IA3": lambda: IA3Config(),
    "IA3, one": lambda: IA3Config(target_modules=["down_proj"]),
    "IA3, no feed-forward": lambda: IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=[]),
    "IA3, keys": lambda: IA3Config(target_modules=["k_proj"]),
    "IA3, inside": lambda: IA3Config(target_modules=["q_proj", "up_proj"], feedforward_modules=["up_proj"]),
    "DID dense": lambda: IntrinsicConfig(d=7, projection="dense"),
    "DID sparse": lambda: IntrinsicConfig(d=5, projection="sparse"),
    "DID fastfood": lambda: IntrinsicConfig(d=7),
    "SAID": lambda: IntrinsicConfig(d=97, said=True),
    "SAID dense": lambda: IntrinsicConfig(d=91, said=True, projection="dense"),
}
NO_BIASES = {(c, m) for c in CONFIGS if c.startswith("llama") for m in ("BitFit", "BitFit, no norms")} - {
    ("llama, biases, post-norm", "BitFit"),
    ("llama, biases, post-norm", "BitFit, no norms"),
    ("llama, LayerNorm", "BitFit"),
}
GRID = [(c, m) for c in CONFIGS for m in METHODS if (c, m) not in NO_BIASES]


def counted(config, method, B, T, rng, unlabelled=0):
    """The model after a step, its optimizer, the loss and what was counted while it was made and walked."""
    model = DecoderLM(config)
    if method is not None:
        model = get_peft_model(model, method)
    model.train()
    optimizer = AdamW(model)
    ids, labels = (rng.integers(0, config.vocab_size, (B, T)) for _ in range(2))  # each in a buffer of its own
    labels.reshape(-1)[:unlabelled] = -100
    batch = {"ids": ids, "labels": labels}
    train_step(model, batch, optimizer)
    with count_flops() as flops, random_stream(0):
        loss = model.loss(**batch)
        used = memory(model, optimizer, loss)
        by = saved_by(loss, model)
        loss.backward()
    return model, used, by, flops


@pytest.mark.parametrize(("name", "method"), GRID, ids=[f"{m} on {c}" for c, m in GRID])
def test_a_method_trains_as_many_parameters_as_the_formula_says(name, method, rng):
    config = CONFIGS[name]
    model, used, _, _ = counted(config, METHODS[method](), 2, 5, rng, unlabelled=3)
    trained = trained_parameters(config, METHODS[method]())
    assert trained == count_parameters(model).trainable
    assert (used.gradients, used.optimizer_state) == (4 * trained, 8 * trained)  # float32 and AdamW


@pytest.mark.parametrize("T", [5, 20])
def test_a_step_computes_and_keeps_what_the_two_questions_say(T, rng):
    """Does the input require a gradient (dX), is the matrix trained (dW)? Each costs as much as the product."""
    config = CONFIGS["gpt2"]
    B, L, d, d_ff, V, H = 2, config.n_layers, config.d_model, config.d_ff, config.vocab_size, config.n_heads
    R = B * T
    square, scores, head = 2 * R * d * d, 4 * B * T * T * d, 2 * R * d * V
    attention, feed_forward = 4 * square + scores, 4 * R * d * d_ff
    layer = attention + feed_forward
    forward = L * layer + head
    norms, P, r = R * d + R, 3, 5
    R_p = B * (P + T)
    kept = 2 * norms + 3 * R * d + B * H * T * T + R * d_ff  # by a layer: normalizations, Q, K, V, A, slope
    inputs = 3 * R * d + R * d_ff  # of the linear layers: of q, k and v together, of out_proj, up_proj and down_proj
    last = norms + R * d  # the last normalization; the gradient of the head's input
    expected = {  # FLOPs forward and backward, bytes
        "full": (forward, 2 * forward, 4 * (L * (kept + inputs) + last + V * d) + 8 * (R + T)),
        "top 2": (forward, head + 2 * 2 * layer, 4 * (2 * (kept + inputs) - R + last)),
        "BitFit": (forward, forward + L * scores, 4 * (L * kept - norms + last)),
        "LayerNorm": (forward, forward + L * scores, 4 * (L * kept - R + last)),
        "prompt": (
            L * R_p * (4 * 2 * d * d + 4 * d * d_ff) + L * 4 * B * (P + T) ** 2 * d + head,
            L * R_p * (4 * 2 * d * d + 4 * d * d_ff) + 2 * L * 4 * B * (P + T) ** 2 * d + head,
            None,
        ),
        "AdapterH": (  # nothing goes back through the first attention, nor out of the first adapter
            forward + 2 * L * 4 * R * d * r,
            forward - attention + (L - 1) * scores + (2 * L * 4 - 1) * 2 * R * d * r,
            None,
        ),
    }
    for method, (forward_flops, backward_flops, saved) in expected.items():
        _, used, by, flops = counted(config, METHODS[method](), B, T, rng)
        assert (method, flops.forward, flops.backward) == (method, forward_flops, backward_flops)
        assert saved is None or (method, used.activations) == (method, saved), by


@st.composite
def configurations(draw):
    heads, per_group, pairs = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    return DecoderConfig(
        vocab_size=draw(st.integers(2, 30)),
        d_model=heads * per_group * 2 * pairs,
        n_layers=draw(st.integers(1, 3)),
        n_heads=heads * per_group,
        d_ff=draw(st.integers(1, 9)),
        context=draw(st.integers(4, 9)),
        n_kv_heads=draw(st.sampled_from([None, heads])),
        **{name: draw(st.booleans()) for name in ("rotary", "norm_first", "gated", "bias", "tied")},
        norm=draw(st.sampled_from(["layer", "rms"])),
    )


@given(configurations(), st.integers(1, 3), st.integers(1, 4), st.integers(0, 2**32 - 1))
@example(DecoderConfig.llama(5, 8, 1, 4, 2, d_ff=3, context=4, bias=True, tied=False), 2, 3, 0)
@example(DecoderConfig(5, 8, 2, 4, 3, 4, n_kv_heads=2, norm_first=False), 2, 3, 0)
def test_the_formulas_of_a_decoder_equal_what_is_counted(config, B, T, seed):
    model = DecoderLM(config)
    assert decoder_parameters(config) == count_parameters(model).total
    rng = np.random.default_rng(seed)
    ids, labels = rng.integers(0, config.vocab_size, (2, B, T))
    labels[rng.random((B, T)) < 0.3] = -100
    labels[0, 0] = 0
    with count_flops() as flops:
        model.loss(ids, labels).backward()
    assert flops == decoder_flops(config, B, T, int((labels != -100).sum()))
    with mp.no_grad(), count_flops() as flops:
        model(ids)
    assert (flops.forward, flops.backward) == (decoder_flops(config, B, T).forward, 0)


@given(configurations(), st.sampled_from(list(METHODS)))
def test_a_method_trains_as_many_parameters_of_any_decoder_as_the_formula_says(config, method):
    try:
        model = DecoderLM(config) if METHODS[method]() is None else get_peft_model(DecoderLM(config), METHODS[method]())
    except ValueError:  # a rank above d, no biases, no such layer, a prompt longer than the context
        assume(False)
    assert trained_parameters(config, METHODS[method]()) == count_parameters(model).trainable


INSIDE = [
    m for m in METHODS if m.startswith(("Adapter", "parallel", "prefix", "projected", "LoRA", "LNLoRA", "IA3", "FacT"))
]
ELSEWHERE = {"LoRA everywhere", "LoRA, patterns", "LoRA, expression", "LoRA on tokens", "LoRA on the head"}


@pytest.mark.parametrize("family", [masked_lm, vit])
@pytest.mark.parametrize("method", [m for m in INSIDE if m not in ELSEWHERE])
def test_what_stands_inside_the_layers_counts_the_same_in_other_models(family, method, rng):
    model, _ = family(rng)
    expected = trained_parameters(same_layers(model.config), METHODS[method]())
    made = METHODS[method]()
    made.modules_to_save = []
    assert count_parameters(get_peft_model(model, made)).trainable == expected


def test_what_has_no_formula_is_refused():
    class Other(PeftConfig):
        """A method of somebody else's."""

    with pytest.raises(ValueError, match="no formula for Other"):
        trained_parameters(CONFIGS["gpt2"], Other())
    with pytest.raises(ValueError, match="modules_to_save"):
        trained_parameters(CONFIGS["gpt2"], LoraConfig(modules_to_save=["lm_head"]))


def test_a_target_that_matches_nothing_is_refused_by_the_formula_as_by_the_method():
    with pytest.raises(PeftError, match="'q_porj' matches no module; did you mean"):
        trained_parameters(CONFIGS["gpt2"], LoraConfig(target_modules=["q_porj"]))


def test_lora_of_gpt3_has_the_numbers_of_its_paper():
    """Hu et al. 2021, Table 4: 4.7 M at r = 1 and 37.7 M at r = 8 on all queries and values of 175 billion."""
    gpt3 = DecoderConfig.gpt2(d_model=12288, n_layers=96, n_heads=96, context=2048)
    assert trained_parameters(gpt3, LoraConfig(r=1)) == 4_718_592
    assert trained_parameters(gpt3, LoraConfig(r=8)) == 37_748_736
    assert trained_parameters(gpt3, PromptTuningConfig(256)) == pytest.approx(3.2e6, rel=0.02)
