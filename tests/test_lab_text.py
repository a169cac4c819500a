"""The studies on text: equal budgets, rows that depend on their config alone, verdicts that follow from the rows."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from minipeft.lab import experiments
from minipeft.lab.experiments import adapters, few_shot, low_data, rank, which_weights
from minipeft.lab.experiments.few_shot import examples, findings, training
from minipeft.lab.framework import study
from minipeft.lab.framework.experiment import NOT_REPRODUCED, REPRODUCED, UNDECIDED, select
from minipeft.models import DecoderConfig, DecoderLM, EncoderClassifier, EncoderConfig
from minipeft.peft import (
    AdapterConfig,
    BitFitConfig,
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from minipeft.peft.prefix import PrefixedCore

STUDIES = {"adapters": adapters, "low_data": low_data, "which_weights": which_weights, "rank": rank}
FOUR = ["few_shot", *STUDIES]


def decoder(**changes):
    sizes = {"vocab_size": 31, "d_model": 16, "n_layers": 2, "n_heads": 2, "context": 24, **changes}
    return DecoderLM(DecoderConfig.gpt2(**sizes), rng=0).eval()


def finished(module, mode, value, **more):
    """Every row of a study, its values from a function of the config: no training."""
    rows = []
    while True:
        wanted = [c for c in module.EXPERIMENT.runs(mode, rows) if c.get("kind") is None]
        if len(wanted) == len(rows):
            return rows
        rows = [{**c, "value": value(c), "trained": 100, "parameters": 1000, **more} for c in wanted]


def outcomes(module, rows):
    return {v.claim: v.outcome for v in module.EXPERIMENT.verdicts(rows)}


def noise(config):
    return 0.001 * (config["seed"] % 5)


@pytest.mark.parametrize("name", FOUR)
@pytest.mark.parametrize("mode", ["quick", "full"])
def test_every_arm_has_as_many_rates_seeds_and_steps(name, mode):
    plans = (training if name == "few_shot" else STUDIES[name]).PLANS[mode]
    for plan in plans:
        rates = {len(set(a.rates)) for a in plan.variants} if name != "few_shot" else {len(set(plan.rates))}
        assert len(rates) == 1
        assert not set(plan.seeds) & set(plan.tuning_seeds)


@pytest.mark.parametrize("name", STUDIES)
def test_test_runs_come_once_a_rate_is_chosen_and_are_as_many_for_every_arm(name):
    module = STUDIES[name]
    first = [c for c in module.EXPERIMENT.runs("full", []) if c.get("kind") is None]
    assert {c["split"] for c in first} == {"val"}
    rows = finished(module, "full", lambda c: 1.0 + c["rate"])
    for plan in module.PLANS["full"]:
        for n in plan.n:
            for variant in plan.variants:
                test = select(rows, task=plan.task, arm=variant.name, n=n, split="test")
                assert [r["seed"] for r in test] == list(plan.seeds)
                best = max(variant.rates) if plan.task == study.SENTIMENT else min(variant.rates)
                assert {r["rate"] for r in test} == {best}


def test_the_sets_of_weights_have_equal_budgets():
    trained = set()
    for variant in which_weights.PLANS["full"][0].variants:
        peft = get_peft_model(decoder(), study.from_json(study.as_json(variant.method)))
        trained.add(peft.trainable_counts()[0])
    assert trained == {2 * 8 * (16 + 16)}  # layers × r summed over the matrices × (d + k)


def test_every_rank_has_scale_one():
    variants = rank.variants((1e-2,))
    assert len(variants) == 3 * 5
    assert {a.method.lora_alpha / a.method.r for a in variants} == {1.0}


@pytest.mark.parametrize(
    "method",
    [None, LoraConfig(r=3, target_modules=["q_proj"]), AdapterConfig(r=2), PrefixTuningConfig(num_virtual_tokens=4)],
)
def test_a_method_comes_back_from_json(method):
    assert study.from_json(json.loads(json.dumps(study.as_json(method)))) == method


@pytest.mark.parametrize("family", ["decoder", "encoder"])
def test_a_prefix_from_words_is_what_the_model_computes_for_them(family):
    """Attention behind the prefix then equals attention behind the words: the text sees what it would have seen."""
    if family == "encoder":
        config = EncoderConfig(vocab_size=31, d_model=16, n_layers=2, n_heads=2, d_ff=32, context=24)
        model = EncoderClassifier(config, n_classes=2, pool="mean", rng=0).eval()
    else:
        model = decoder()
    words, text = [3, 5, 7], np.array([[2, 4, 6, 8]])
    whole = model.encoder(np.array([words + text[0].tolist()])) if family == "encoder" else None
    if family == "decoder":
        whole = model.hidden(np.array([words + text[0].tolist()]))
    seen = study.keys_and_values(model, np.array(words))
    peft = study.adapt(model, PrefixTuningConfig(num_virtual_tokens=3), 0, words)
    cores = [m for _, m in peft.base_model.named_modules() if isinstance(m, PrefixedCore)]
    for core, (k, v) in zip(cores, seen, strict=True):
        np.testing.assert_array_equal(core.prefix.values.data[0].swapaxes(0, 1), k[0])
        np.testing.assert_array_equal(core.prefix.values.data[1].swapaxes(0, 1), v[0])
    if family == "decoder":  # causal: the words see no more with the text behind them than alone
        np.testing.assert_allclose(peft.base_model.hidden(text).data, whole.data[:, 3:], atol=1e-5)


def test_a_prompt_from_words_is_their_embeddings():
    peft = study.adapt(decoder(), PromptTuningConfig(num_virtual_tokens=5), 0, [3, 5])
    table = peft.base_model.input.tokens.weight.data
    np.testing.assert_array_equal(peft.base_model.input.prompt.rows.data, table[[3, 5, 3, 5, 3]])


def test_only_prompts_and_prefixes_start_from_words():
    with pytest.raises(ValueError, match="only a prompt or a flat prefix starts from words"):
        study.adapt(decoder(), BitFitConfig(), 0, [1])


@pytest.mark.parametrize(("task", "sign"), [(study.PROSE, -1), (study.SENTIMENT, 1)])
def test_at_least_needs_more_than_the_spread(task, sign):
    a, b = [sign * x for x in (1.0, 1.1, 1.2)], [sign * x for x in (0.0, 0.1, 0.2)]
    assert study.at_least(task, a, b) == REPRODUCED
    assert study.at_least(task, b, a) == NOT_REPRODUCED
    assert study.at_least(task, a, [sign * x for x in (0.0, 1.1, 2.2)]) == UNDECIDED
    assert study.at_least(task, b, a, margin=2.0) == REPRODUCED
    assert study.at_least(task, a[:1], b) == UNDECIDED


SETS_OF = {name: w for w in which_weights.SETS for name in [which_weights.name_of(w)]}


@pytest.mark.parametrize(
    ("best", "outcome"), [("qv", REPRODUCED), ("k", NOT_REPRODUCED), (None, UNDECIDED)], ids=["qv", "k", "equal"]
)
def test_verdicts_which_weights(best, outcome):
    rows = finished(which_weights, "quick", lambda c: 2.0 - 0.5 * (SETS_OF[c["arm"]] == best) + noise(c))
    found = outcomes(which_weights, rows)
    assert found["prose: W_q with W_v is the best place for a given number of parameters"] == outcome


@pytest.mark.parametrize(("by_rank", "outcome"), [(0.0, REPRODUCED), (0.5, NOT_REPRODUCED)])
def test_verdicts_rank(by_rank, outcome):
    rows = finished(rank, "quick", lambda c: 2.0 + by_rank * c["arm"].endswith("r=1") + noise(c))
    rows.append({"kind": "base", "task": "prose", "value": 3.0})
    claims = [o for c, o in outcomes(rank, rows).items() if "a rank of 1 suffices" in c]
    assert claims == [outcome] * 3


def test_the_first_directions_agree_or_not():
    def pair(first, later):
        at = {f"{w}_{i}": first if i == 1 else later for w in ("q_proj", "v_proj") for i in rank.DIRECTIONS}
        return {"kind": "subspaces", "k": 96, **at}

    for pairs, outcome in (
        ([pair(0.9, 0.2), pair(0.8, 0.2)], REPRODUCED),
        ([pair(0.1, 0.5), pair(0.2, 0.5)], NOT_REPRODUCED),
        ([pair(0.9, 0.2), pair(0.1, 0.8)], UNDECIDED),
    ):
        assert list(outcomes(rank, pairs).values()) == [outcome]


def test_similarity_of_subspaces():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((4, 50))
    assert rank.similarity(a, np.linalg.qr(rng.standard_normal((4, 4)))[0] @ a, 4, 4) == pytest.approx(1.0)
    orthogonal = np.zeros((1, 50))
    orthogonal[0] = rng.standard_normal(50)
    orthogonal[0] -= a.T @ np.linalg.lstsq(a.T, orthogonal[0], rcond=None)[0]
    assert rank.similarity(a, orthogonal, 4, 1) == pytest.approx(0.0, abs=1e-12)
    chance = [rank.similarity(rng.standard_normal((3, 50)), rng.standard_normal((5, 50)), 3, 5) for _ in range(300)]
    assert np.mean(chance) == pytest.approx(5 / 50, rel=0.1)


@pytest.mark.parametrize(
    ("adapter", "near", "beats"), [(2.0, REPRODUCED, REPRODUCED), (3.0, NOT_REPRODUCED, NOT_REPRODUCED)]
)
def test_verdicts_adapters(adapter, near, beats):
    def value(c):
        return {"adapters": adapter, "full": 2.0, "top": 2.5}[c["arm"].split()[0]] + noise(c)

    rows = finished(adapters, "quick", value)
    claims = list(outcomes(adapters, rows).values())
    assert claims == [near, beats]


@pytest.mark.parametrize(("lora", "prompt", "outcome"), [(1.0, 2.0, REPRODUCED), (2.0, 1.0, NOT_REPRODUCED)])
def test_verdicts_low_data(lora, prompt, outcome):
    def value(c):
        return {"full": 1.5, "LoRA": lora}.get(c["arm"], prompt) + noise(c)

    found = outcomes(low_data, finished(low_data, "quick", value))
    for claim in (
        "prose: with n = 100 LoRA is as good as full fine-tuning (within 0.02 nats/char)",
        "prose: with n = 100 a prompt is worse than LoRA",
        "prose: with n = 100 a prefix is worse than LoRA",
    ):
        assert found[claim] == outcome
    starts = [o for c, o in found.items() if "starts from words" in c]
    assert starts == [UNDECIDED] * 2  # the same values whatever the start


def shot_rows(tuned, prompt, spread=0.01):
    rows = finished(few_shot, "quick", lambda c: 0.5)
    for r in rows:
        x = (tuned if r["way"] == training.TUNED else prompt) + spread * (r["seed"] % 5 - 2)
        wheres = ("value", "here", "elsewhere", "calibrated_here", "calibrated_elsewhere")
        r.update(dict.fromkeys(wheres, x))
    return rows


@pytest.mark.parametrize(
    ("tuned", "prompt", "spread", "outcome", "better"),
    [
        (0.9, 0.5, 0.01, REPRODUCED, training.TUNED),
        (0.5, 0.9, 0.01, NOT_REPRODUCED, training.CONTEXT),
        (0.6, 0.59, 0.1, UNDECIDED, ""),
    ],
)
def test_verdicts_and_cells_few_shot(tuned, prompt, spread, outcome, better):
    rows = shot_rows(tuned, prompt, spread)
    claims = [o for c, o in outcomes(few_shot, rows).items() if "beats" in c]
    assert claims == [outcome] * 3
    found = findings.cells(rows)
    assert len(found) == 2 * 2 * 3  # here and elsewhere, two k in context, three fine-tuned on
    assert {c.better for c in found} == {better}
    assert all(c.p_holm >= c.p for c in found)


def test_the_cost_of_a_prompt_is_told_from_its_growth():
    def rows(power):
        return [
            {"kind": "cost", "model": "cost", "attention": training.WHOLE, "length": n, "pass_seconds": n**power}
            | {"peak_bytes": n**power}
            for n in (100, 200, 400)
        ]

    assert list(outcomes(few_shot, rows(2.0)).values()) == [REPRODUCED]
    assert list(outcomes(few_shot, rows(1.0)).values()) == [NOT_REPRODUCED]
    assert list(outcomes(few_shot, rows(1.4)).values()) == [UNDECIDED]


def test_a_longer_prompt_costs_more_than_its_length():
    short, long = (training.cost("cost", training.WHOLE, n) for n in (256, 1024))
    assert long["scores"] == 16 * short["scores"]
    assert long["peak_bytes"] > 8 * short["peak_bytes"]
    assert long["peak_bytes"] > long["score_bytes"]
    assert training.cost("cost", training.TILED, 1024)["peak_bytes"] < long["score_bytes"]


def test_examples_are_balanced_and_differ_by_seed():
    pool = [(f"text {i}", i % 2) for i in range(60)]
    first = examples.sample(pool, 16, 0)
    assert sorted(label for _, label in first) == [0] * 8 + [1] * 8
    assert len(set(first)) == 16
    assert first == examples.sample(pool, 16, 0)
    assert first != examples.sample(pool, 16, 1)


def test_lines_of_code_and_comments_are_told_apart():
    source = 'x = 1\n# first\ny = 2  # second\nz = """\nneither\n"""\n    \n# third words\nw = 3\n'
    code, comments = examples.code_and_comments(source, 0)
    assert [line.strip() for line in code if line.strip()] == ["y = 2  # second", "w = 3"]
    assert comments == ["first", "third words"]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Bases of a few steps for every study."""
    folder = tmp_path_factory.mktemp("bases")
    study.pretrain("tiny", folder / "tiny", steps=3)
    training.prepare("quick", folder / "few", steps=2)
    return folder


def short(config):
    changes = {"steps": 3, "judged": [8, 8] if isinstance(config.get("judged"), list) else 8}
    return {**config, **{k: v for k, v in changes.items() if k in config}}


@pytest.mark.parametrize("name", FOUR)
def test_the_same_row_for_the_same_config(name, bases):
    experiment = experiments.load(name)
    folder = bases / "few" if name == "few_shot" else bases
    configs = {c.get("way", c.get("arm")): short(c) for c in experiment.runs("quick", []) if c.get("kind") is None}
    for config in list(configs.values())[:3]:
        json.dumps(config)
        first = dict(experiment.run(config, folder))
        assert first == dict(experiment.run(config, folder))
        assert first["value"] is not None
        json.dumps(first)


def test_base_and_subspaces_of_rank(bases):
    base = rank.run({"kind": "base", "task": "prose", "size": "tiny", "judged": 8}, bases)
    assert 1.0 < base["value"] < 8.0
    config = {"kind": "subspaces", "task": "prose", "size": "tiny", "steps": 2, "seed": 0, "rate_8": 1e-2}
    pair = rank.run({**config, "rate_64": 1e-2, "batch_size": 2}, bases)
    assert all(0.0 <= pair[f"{w}_{i}"] <= 1.0 for w in ("q_proj", "v_proj") for i in rank.DIRECTIONS)


def test_a_rate_that_diverges_is_a_result(bases):
    config = {**short(low_data.EXPERIMENT.runs("quick", [])[0]), "rate": 1e30}
    with np.errstate(all="ignore"):
        assert low_data.EXPERIMENT.run(config, bases)["value"] is None


@pytest.mark.parametrize("name", FOUR)
def test_tables_and_figures_from_made_up_rows(name, tmp_path):
    module = few_shot if name == "few_shot" else STUDIES[name]
    rows = shot_rows(0.9, 0.5) if name == "few_shot" else finished(module, "full", lambda c: 0.6 + noise(c), loss=0.5)
    experiment = module.EXPERIMENT
    for table in experiment.tables(rows):
        assert {len(row) for row in table.rows} == {len(table.header)}
    assert experiment.verdicts(rows)
    for path, caption in experiment.draw(rows, tmp_path / name).items():
        assert path.stat().st_size > 5000
        assert path.with_suffix(".svg").is_file()
        assert caption


@pytest.mark.network
def test_the_sentiment_task_trains(minilm, sentences):
    plan = dataclasses.replace(which_weights.PLANS["full"][1], steps=2, judged={"val": 8, "test": 8})
    config = study.runs([plan], [])[0]
    row = study.run({**config, "n": 32}, Path())
    assert 0.0 <= row["value"] <= 1.0
    assert row["trained"] < row["parameters"]
