"""notebooks/lora_in_one_file.py computes what the library computes."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import minipeft as mp
from minipeft.models import DecoderConfig, DecoderLM
from minipeft.peft import LoraConfig, get_peft_model

PATH = Path(__file__).parents[1] / "notebooks" / "lora_in_one_file.py"
V, D, LAYERS, HEADS, CONTEXT, R, S = 11, 12, 2, 3, 9, 2, 1.5
TARGETS = ("q_proj", "v_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module")
def one_file():
    spec = importlib.util.spec_from_file_location("lora_in_one_file", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def both(one_file):
    """Its model and LoRA, the library's with the same numbers in float64, and a batch."""
    rng = np.random.default_rng(5)
    model = one_file.new_model(V, D, LAYERS, CONTEXT, rng)
    config = DecoderConfig(V, D, LAYERS, HEADS, 4 * D, CONTEXT, norm="rms", activation="relu", bias=False)
    library = DecoderLM(config).to("float64")
    library.load_state_dict({name: value.data.copy() for name, value in model.items()})
    ids = rng.integers(0, V, (4, 8))
    return model, library, {"ids": ids[:, :-1], "labels": ids[:, 1:]}


def with_lora(one_file, model, library):
    rng = np.random.default_rng(6)
    lora = one_file.new_lora(model, tuple(f"{t}.weight" for t in TARGETS), R, rng)
    peft = get_peft_model(library, LoraConfig(r=R, lora_alpha=S * R, target_modules=list(TARGETS)))
    for name, (A, B) in lora.items():
        B.data += rng.standard_normal(B.data.shape)
        layer = mp.nn.find(library, name)
        layer.lora_A.data[...], layer.lora_B.data[...] = A.data, B.data
    return lora, peft


def close(x, y):
    np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12)


def test_it_is_short_and_imports_numpy_only():
    lines = PATH.read_text("utf-8").splitlines()
    assert len(lines) <= 250
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    assert imports == ["from pathlib import Path", "import numpy as np"]


def test_the_loss_and_every_gradient_are_those_of_the_library(one_file, both):
    model, library, batch = both
    loss, logits = one_file.loss_of(model, batch["ids"], batch["labels"], HEADS)
    loss.backward()
    expected = library.loss(**batch)
    expected.backward()
    close(loss.data, expected.data)
    close(logits.data, library(batch["ids"]).data)
    named = dict(library.named_parameters())
    assert set(named) == set(model)
    for name, value in model.items():
        close(value.grad, named[name].grad)


def test_lora_has_the_gradients_of_the_library_and_none_for_the_frozen_model(one_file, both):
    model, library, batch = both
    lora, peft = with_lora(one_file, model, library)
    loss, _ = one_file.loss_of(model, batch["ids"], batch["labels"], HEADS, lora, S)
    loss.backward()
    expected = peft.loss(**batch)
    expected.backward()
    close(loss.data, expected.data)
    for name, (A, B) in lora.items():
        layer = mp.nn.find(library, name)
        close(A.grad, layer.lora_A.grad)
        close(B.grad, layer.lora_B.grad)
    assert all(value.grad is None for value in model.values())


def test_ten_steps_of_adamw_have_the_losses_of_the_library(one_file, both):
    model, library, batch = both
    lora, peft = with_lora(one_file, model, library)
    mine = one_file.AdamW([p for pair in lora.values() for p in pair], lr=0.01, decay=0.1)
    other = mp.optim.AdamW(peft, lr=0.01, weight_decay=0.1)
    for _ in range(10):
        loss, _ = one_file.loss_of(model, batch["ids"], batch["labels"], HEADS, lora, S)
        loss.backward()
        mine.step()
        close(loss.data, mp.train.train_step(peft, batch, other))


def test_a_merge_computes_the_same_and_leaves_the_base(one_file, both):
    model, library, batch = both
    lora, _ = with_lora(one_file, model, library)
    base = {name: value.data.copy() for name, value in model.items()}
    _, adapted = one_file.loss_of(model, batch["ids"], batch["labels"], HEADS, lora, S)
    _, plain = one_file.loss_of(one_file.merged(model, lora, S), batch["ids"], batch["labels"], HEADS)
    close(plain.data, adapted.data)
    assert all(np.array_equal(base[name], value.data) for name, value in model.items())


def test_its_program_learns_in_both_phases_and_says_so(one_file, capsys):
    one_file.main(pretraining=25, adapting=25, d=24)
    lines = capsys.readouterr().out.splitlines()
    losses = [line.split() for line in lines if "loss" in line]
    assert len(losses) == 2
    assert all(float(words[3]) < float(words[1]) for words in losses), lines
    assert "the base is unchanged to the bit: True" in lines
