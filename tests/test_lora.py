"""LoRA in full: initializations, patterns, biases, embeddings, merging, and several adapters on one base."""

import copy

import numpy as np
import pytest
from families import encoder, gpt2, llama

import minipeft as mp
from minipeft import nn
from minipeft.optim import AdamW
from minipeft.peft import (
    AdapterConfig,
    FacTConfig,
    IA3Config,
    LoraConfig,
    PeftError,
    PeftModel,
    PrefixTuningConfig,
    add_weighted_adapter,
    get_peft_model,
    mixed_adapters,
)
from minipeft.train import train_step

EVERYWHERE = ["q_proj", "v_proj", "tokens", "down_proj"]


def outputs(model, batch):
    with mp.no_grad():
        return model(batch["ids"]).data.copy()


def shaken(peft, rng, scale=0.2):
    for p in peft.trained().values():
        p.data[...] += scale * rng.normal(size=p.shape)
    return peft


def deltas(peft):
    """ΔW of every wrapped module and every trained copy of the active adapter, by path."""
    found = {}
    for s in peft._active.swaps:
        path = s.path.replace(".base.", ".")  # where it stands on the base without wrappers
        found[path] = s.new.delta() if hasattr(s.new, "delta") else s.new.data - s.old.data
    return found


def test_initializations(rng):
    model, batch = gpt2(rng)
    base = outputs(model, batch)
    for init, exact in ((True, True), ("gaussian", True), (False, False)):
        peft = get_peft_model(model, LoraConfig(r=3, init_lora_weights=init, target_modules=EVERYWHERE))
        assert np.array_equal(outputs(peft, batch), base) == exact
        layer, table = peft.stack.layers[0].attention.q_proj, peft.input.tokens
        assert layer.lora_A.data.any()
        assert table.lora_embedding_B.data.any()
        assert bool(layer.lora_B.data.any()) == (init is False) == bool(table.lora_embedding_A.data.any())
        peft.unload()


def test_patterns_set_rank_and_scale_of_single_modules(rng):
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        rank_pattern={"v_proj": 2, r"stack\.layers\.1\.attention\.q_proj": 3},
        alpha_pattern={"v_proj": 32},
    )
    peft = get_peft_model(gpt2(rng)[0], config)
    q, v = (getattr(peft.stack.layers[0].attention, n) for n in ("q_proj", "v_proj"))
    assert (q.lora_A.shape[0], q.scale) == (4, 2.0)
    assert (v.lora_A.shape[0], v.scale) == (2, 16.0)
    assert peft.stack.layers[1].attention.q_proj.scale == 8 / 3
    for bad, message in (
        ({"x_proj": 2}, "matches none"),
        ({"(": 2}, "not a regular expression"),
        ({"v_proj": 99}, "r=99"),
    ):
        with pytest.raises(PeftError, match=message):
            get_peft_model(gpt2(rng)[0], LoraConfig(r=4, rank_pattern=bad))


def test_exclude_modules(rng):
    peft = get_peft_model(
        gpt2(rng)[0], LoraConfig(r=2, target_modules="all-linear", exclude_modules=["feed_forward.up_proj"])
    )
    assert sum(n.endswith("lora_A") for n in peft.trained()) == 15
    for config, message in (
        (LoraConfig(exclude_modules=["up_prj"]), "exclude_modules: 'up_prj'"),
        (LoraConfig(exclude_modules=".*"), "leaves nothing"),
    ):
        with pytest.raises(PeftError, match=message):
            get_peft_model(gpt2(rng)[0], config)


@pytest.mark.parametrize("bias", ["lora_only", "all"])
def test_biases_are_trained_as_copies_and_disabling_restores_the_base(bias, rng):
    model, batch = gpt2(rng)
    base = outputs(model, batch)
    peft = get_peft_model(model, LoraConfig(r=2, bias=bias))
    biases = [n for n in peft.trained() if n.endswith("bias")]
    assert len(biases) == (
        6 if bias == "lora_only" else len([n for n, _ in model.named_parameters() if n.endswith("bias")])
    )
    shaken(peft, rng)
    with peft.disable_adapter():
        assert np.array_equal(outputs(peft, batch), base)
    expected = outputs(peft, batch)
    peft.merge_adapter()
    np.testing.assert_allclose(outputs(peft, batch), expected, atol=1e-5)
    peft.unmerge_adapter()
    assert np.array_equal(outputs(peft, batch), expected)
    with pytest.raises(PeftError, match="bias is"):
        get_peft_model(peft.unload(), LoraConfig(bias="some"))


def test_embedding_gradients_and_a_tied_head_that_stays(rng):
    model, batch = gpt2(rng)
    model.to(np.float64)
    head = model.lm_head.weight.data.copy()
    peft = shaken(get_peft_model(model, LoraConfig(r=3, target_modules=["tokens"])), rng)
    mp.gradcheck_parameters(lambda: peft.loss(**batch), dict(peft.named_parameters()))
    expected = outputs(peft, batch)
    merged = peft.merge_and_unload()
    np.testing.assert_allclose(outputs(merged, batch), expected, rtol=1e-12)
    assert np.array_equal(merged.lm_head.weight.data, head)  # merging unties: only the lookup was adapted


def stored_in(dtype, model):
    """The model with its weights in ``dtype``: merging works in any, while calling it does not."""
    for p in model.parameters():
        p.data = p.data.astype(dtype)
    return model


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_hundred_merges_change_no_bit(dtype, rng):
    model = stored_in(dtype, gpt2(rng)[0])
    peft = shaken(get_peft_model(model, LoraConfig(r=2, target_modules=EVERYWHERE)), rng)
    start = {n: p.data.copy() for n, p in peft.named_parameters()}
    for _ in range(101):
        peft.merge_adapter()
        peft.unmerge_adapter()
    for n, p in peft.named_parameters():
        assert np.array_equal(p.data, start[n])
    arrays = {n: p.data for n, p in peft.unload().named_parameters()}
    assert all(x.dtype == dtype for x in arrays.values())


def test_the_merge_report_says_what_precision_was_lost(rng):
    model, batch = gpt2(rng)
    peft = shaken(get_peft_model(model, LoraConfig(r=2)), rng)
    report = peft.merge_adapter(ids=batch["ids"])
    assert set(report.layers) == {f"stack.layers.{i}.attention.{p}_proj" for i in range(3) for p in "qv"}
    assert 0 < report.absolute < 1e-6
    assert report.relative < 1e-5
    assert 0 <= report.output < 1e-4
    with pytest.raises(PeftError, match="unmerge_adapter"):
        peft.save_pretrained("nowhere")
    with pytest.raises(PeftError, match="unmerge_adapter"):
        peft.merge_adapter()
    peft.unmerge_adapter()
    with pytest.raises(PeftError, match="not merged"):
        peft.unmerge_adapter()
    half = stored_in(np.float16, gpt2(rng)[0])
    coarse = shaken(get_peft_model(half, LoraConfig(r=2)), rng).merge_adapter()
    assert coarse.absolute > 100 * report.absolute
    assert coarse.output is None


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=2, target_modules=["v_proj", "tokens"]),
        FacTConfig(r=2),
        FacTConfig(r=2, factorization="tk"),
        IA3Config(),
    ],
)
def test_the_error_of_a_merged_weight_is_its_distance_from_the_merge_in_float64(config, rng):
    peft = shaken(get_peft_model(gpt2(rng)[0], config), rng)
    base = {s.path: s.old.weight.data.astype(np.float64) for s in peft._active.swaps}
    exact = copy.deepcopy(peft).to("float64")
    report = peft.merge_adapter()
    exact.merge_adapter()
    assert report.layers.keys() == base.keys()
    for path, (absolute, relative) in report.layers.items():
        merged, wanted = (nn.find(m.base_model, path).weight.data for m in (peft, exact))
        assert absolute == np.abs(merged - wanted).max() > 0
        assert relative == absolute / np.abs(wanted - base[path]).max()


def two(rng, family=gpt2, **kwargs):
    model, batch = family(rng)
    peft = shaken(get_peft_model(model, LoraConfig(r=2, lora_alpha=6, **kwargs), adapter_name="one"), rng)
    peft.add_adapter("two", LoraConfig(r=3, target_modules=["q_proj", "k_proj"]), rng=1)
    return shaken(peft, rng), batch


def test_switching_adapters_is_exact_and_each_trains_alone(rng):
    peft, batch = two(rng)
    second = outputs(peft, batch)
    peft.set_adapter("one")
    first = outputs(peft, batch)
    assert not np.allclose(first, second)
    assert peft.adapters == ["one", "two"]
    assert peft.active_adapter == "one"
    train_step(peft, batch, AdamW(peft, lr=0.1))
    assert not np.array_equal(outputs(peft, batch), first)
    peft.set_adapter("two")
    assert np.array_equal(outputs(peft, batch), second)
    assert {n.split(".")[-2] for n in peft.trained()} == {"q_proj", "k_proj"}
    with pytest.raises(PeftError, match="no adapter 'three'; there are"):
        peft.set_adapter("three")
    with pytest.raises(PeftError, match="is the active adapter"):
        peft.delete_adapter("two")
    with pytest.raises(PeftError, match="already"):
        peft.add_adapter("one", LoraConfig())
    peft.delete_adapter("one")
    assert peft.adapters == ["two"]


def test_adapters_of_different_methods_live_on_one_base(rng):
    model, batch = gpt2(rng)
    base = outputs(model, batch)
    peft = shaken(get_peft_model(model, LoraConfig(r=2), adapter_name="lora"), rng)
    lora = outputs(peft, batch)
    peft.add_adapter("prefix", PrefixTuningConfig(num_virtual_tokens=3))
    peft.add_adapter("adapter", AdapterConfig(r=3))
    peft.set_adapter("lora")
    assert np.array_equal(outputs(peft, batch), lora)
    with pytest.raises(PeftError, match="no room"):
        peft.add_adapter("long", PrefixTuningConfig(num_virtual_tokens=30))
    assert peft.adapters == ["lora", "prefix", "adapter"]
    assert np.array_equal(outputs(peft, batch), lora)
    assert np.array_equal(outputs(peft.unload(), batch), base)


def test_adapters_are_loaded_beside_each_other(rng, tmp_path):
    peft, batch = two(rng)
    expected = {}
    for name in peft.adapters:
        peft.set_adapter(name)
        expected[name] = outputs(peft, batch)
        peft.save_pretrained(tmp_path / name)
    again = PeftModel.from_pretrained(peft.unload(), tmp_path / "one")
    again.load_adapter(tmp_path / "two", "two")
    assert np.array_equal(outputs(again, batch), expected["two"])
    again.set_adapter("default")
    assert np.array_equal(outputs(again, batch), expected["one"])
    (tmp_path / "two" / "minipeft_model.safetensors").unlink()
    with pytest.raises(ValueError, match="no such file"):
        again.load_adapter(tmp_path / "two", "broken")
    assert again.adapters == ["default", "two"]
    assert np.array_equal(outputs(again, batch), expected["one"])


@pytest.mark.parametrize("family", [gpt2, llama])
def test_a_mixed_batch_gives_each_example_what_its_adapter_gives_alone(family, rng):
    peft, batch = two(rng, family)
    peft.to(np.float64)
    names = ["two", "__base__", "one"]
    expected = []
    for i, name in enumerate(names):
        row = {"ids": batch["ids"][i : i + 1]}
        if name == "__base__":
            with peft.disable_adapter():
                expected.append(outputs(peft, row))
        else:
            peft.set_adapter(name)
            expected.append(outputs(peft, row))
    with mixed_adapters(peft, names):
        together = outputs(peft, batch)
    np.testing.assert_allclose(together, np.concatenate(expected), rtol=1e-10, atol=1e-12)
    assert peft.active_adapter == "one"
    assert np.array_equal(outputs(peft, {"ids": batch["ids"][2:]}), expected[2])


def test_a_mixed_batch_trains_each_adapter_with_its_own_examples(rng):
    peft, batch = two(rng)
    peft.to(np.float64)
    with mixed_adapters(peft, ["two", "two", "one"]):
        mp.gradcheck_parameters(lambda: peft.base_model.loss(**batch), dict(peft.named_parameters()))


def test_a_mixed_batch_generates_for_each_example_what_its_adapter_does_alone(rng):
    peft, batch = two(rng)
    names = ["two", "__base__", "one"]
    with mixed_adapters(peft, names):
        together = mp.generate(peft, batch["ids"], max_new_tokens=6)
    with peft.disable_adapter():
        assert np.array_equal(mp.generate(peft, batch["ids"][1:2], max_new_tokens=6), together[1:2])
    for name in ("two", "one"):
        peft.set_adapter(name)
        i = names.index(name)
        assert np.array_equal(mp.generate(peft, batch["ids"][i : i + 1], max_new_tokens=6), together[i : i + 1])


def test_a_mixed_batch_needs_an_adapter_for_each_example(rng):
    peft, batch = two(rng)
    with mixed_adapters(peft, ["one", "two"]), pytest.raises(PeftError, match="mixed batch of 2 adapters got 3 exampl"):
        peft(batch["ids"])


def test_a_mixed_batch_refuses_what_belongs_to_no_single_example(rng):
    model, batch = encoder(rng)
    peft = get_peft_model(model, LoraConfig(r=2))
    with pytest.raises(PeftError, match=r"\(LORA\) changes classifier"), mixed_adapters(peft, ["default"] * 3):
        pass
    peft.add_adapter("adapter", AdapterConfig(r=2))
    with pytest.raises(PeftError, match=r"'adapter' \(ADAPTER\) changes"), mixed_adapters(peft, ["adapter"] * 3):
        pass


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"bias": "all"}, {"rank_pattern": {"v_proj": 1}}])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.3, -1.7)])
def test_the_weighted_sum_is_exactly_the_sum_of_the_changes(options, weights, rng):
    model, batch = gpt2(rng)
    model.to(np.float64)
    peft = shaken(get_peft_model(model, LoraConfig(r=2, target_modules=EVERYWHERE, **options), adapter_name="one"), rng)
    first = deltas(peft)
    peft.add_adapter("two", LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "k_proj"]), rng=1)
    second = deltas(shaken(peft, rng))
    add_weighted_adapter(peft, ["one", "two"], weights, "sum")
    assert peft.active_adapter == "sum"
    combined = deltas(peft)
    assert combined.keys() == first.keys() | second.keys()
    for path, change in combined.items():
        expected = sum(w * d[path] for w, d in zip(weights, (first, second), strict=True) if path in d)
        np.testing.assert_allclose(change, expected, rtol=1e-10, atol=1e-12)
    add_weighted_adapter(peft, ["one"], [1.0], "itself")
    expected = outputs(peft, batch)
    peft.set_adapter("one")
    np.testing.assert_allclose(outputs(peft, batch), expected, rtol=1e-10)


def test_the_truncated_sum_is_the_nearest_of_its_rank_and_the_factors_average_is_not_the_sum(rng):
    model, _ = gpt2(rng)
    model.to(np.float64)
    peft = shaken(get_peft_model(model, LoraConfig(r=2), adapter_name="one"), rng, 1.0)
    peft.add_adapter("two", LoraConfig(r=2), rng=1)
    shaken(peft, rng, 1.0)
    add_weighted_adapter(peft, ["one", "two"], [1.0, 0.5], "exact")
    exact = deltas(peft)
    add_weighted_adapter(peft, ["one", "two"], [1.0, 0.5], "full", "svd", svd_rank=4)
    for path, change in deltas(peft).items():
        np.testing.assert_allclose(change, exact[path], rtol=1e-9, atol=1e-10)
    add_weighted_adapter(peft, ["one", "two"], [1.0, 0.5], "cut", "svd", svd_rank=2)
    for path, change in deltas(peft).items():
        sigma = np.linalg.svd(exact[path], compute_uv=False)
        assert np.linalg.norm(change - exact[path]) == pytest.approx(np.sqrt((sigma[2:] ** 2).sum()), rel=1e-9)
    add_weighted_adapter(peft, ["one", "two"], [1.0, 0.5], "factors", "average_factors")
    for path, change in deltas(peft).items():
        assert np.linalg.norm(change - exact[path]) > 0.1 * np.linalg.norm(exact[path])


def test_the_weighted_sum_is_a_method_of_the_model_too(rng):
    peft, batch = two(rng)
    add_weighted_adapter(peft, ["one", "two"], [0.3, -1.7], "function")
    expected = outputs(peft, batch)
    peft.add_weighted_adapter(adapters=["one", "two"], weights=[0.3, -1.7], adapter_name="method")
    assert peft.active_adapter == "method"
    assert np.array_equal(outputs(peft, batch), expected)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((["one"], [1.0, 2.0], "s"), "a weight for each"),
        (([], [], "s"), "a weight for each"),
        ((["one", "one"], [1.0, 2.0], "s"), "different adapters"),
        ((["one", "three"], [1.0, 2.0], "s"), "no adapter 'three'"),
        ((["one", "two"], [1.0, 2.0], "one"), "already"),
        ((["one", "two"], [1.0, 2.0], "s", "linear"), "combination_type .* average_factors"),
        ((["one", "two"], [1.0, 2.0], "s", "svd"), "svd_rank"),
        ((["one", "two"], [1.0, 2.0], "s", "svd", 99), "svd_rank must lie between"),
        ((["one", "two"], [1.0, 2.0], "s", "average_factors"), "equal ranks"),
    ],
)
def test_sums_that_make_no_sense_change_nothing(args, message, rng):
    peft, batch = two(rng)
    before = outputs(peft, batch)
    with pytest.raises(PeftError, match=message):
        add_weighted_adapter(peft, *args)
    assert peft.adapters == ["one", "two"]
    assert np.array_equal(outputs(peft, batch), before)


def test_a_sum_is_saved_and_loaded_like_any_adapter(rng, tmp_path):
    peft, batch = two(rng)
    add_weighted_adapter(peft, ["one", "two"], [0.5, 0.5], "sum")
    expected = outputs(peft, batch)
    peft.save_pretrained(tmp_path / "sum")
    assert np.array_equal(outputs(PeftModel.from_pretrained(peft.unload(), tmp_path / "sum"), batch), expected)


def test_moving_the_model_moves_every_adapter_and_what_it_hides(rng):
    peft, batch = two(rng, bias="all")
    peft.to("strict")
    peft.set_adapter("one")
    assert {type(p.data).__name__ for p in peft.parameters()} == {"StrictArray"}
    peft.to("cpu")
    assert {type(p.data) for p in peft.unload().parameters()} == {np.ndarray}


def test_nothing_can_be_switched_or_saved_while_disabled(rng, tmp_path):
    peft, _ = two(rng)
    with peft.disable_adapter():
        for action in (
            lambda: peft.set_adapter("one"),
            lambda: peft.save_pretrained(tmp_path / "x"),
            peft.merge_adapter,
        ):
            with pytest.raises(PeftError, match="disabled"):
                action()
    assert nn.find(peft.base_model, "stack.layers.0.attention.q_proj").lora_A is not None
