"""Agreement with Hugging Face's implementation without PyTorch: the golden files hold what it computes in float64."""

import numpy as np
import pytest
from reference import REFERENCES, golden, projected, write_folder

import minipeft as mp
from minipeft.models import Encoder

references = pytest.mark.parametrize("name", REFERENCES)


def loaded(name, folder):
    expected = golden(name)
    shapes = {key: shape for key, (shape, _) in expected["tensors"].items()}
    reference = REFERENCES[name]
    model = reference.ours.from_pretrained(write_folder(folder / name, reference.settings, shapes))
    return reference, model, expected, shapes


@references
def test_outputs_are_those_of_the_reference_implementation(name, tmp_path):
    reference, model, expected, _ = loaded(name, tmp_path)
    output = reference.output(model)
    assert output.dtype == np.float32
    np.testing.assert_allclose(output.ravel(), expected["output"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in REFERENCES if name != "bert"])
def test_loss_and_gradients_are_those_of_the_reference_implementation(name, tmp_path):
    reference, model, expected, shapes = loaded(name, tmp_path)
    loss = model.loss(**reference.batch)
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-6)
    gradients = projected(model, shapes)
    theirs = {key: g for key, (_, g) in expected["tensors"].items() if g is not None}
    assert gradients.keys() - theirs.keys() <= {"final_logits_bias"}  # theirs is a constant
    for key, g in theirs.items():
        assert gradients[key] == pytest.approx(g, rel=1e-5, abs=1e-5), key


@references
def test_a_float64_model_agrees_to_the_digits_that_are_kept(name, tmp_path):
    reference, model, expected, _ = loaded(name, tmp_path)
    kept = 1e-6 if name == "llama" else 1e-7  # theirs computes angles and normalizations in float32 there
    np.testing.assert_allclose(reference.output(model.to(np.float64)).ravel(), expected["output"], rtol=0, atol=kept)


@pytest.mark.network
def test_minilm_gives_the_hidden_states_of_the_reference_implementation(minilm):
    expected = golden("minilm")
    ids, mask = np.array(expected["ids"]), np.array(expected["mask"], dtype=bool)
    with mp.no_grad():
        hidden = Encoder.from_pretrained(minilm)(ids, mask).data
    for place, values in expected["hidden"].items():
        row, t = map(int, place.split(","))
        np.testing.assert_allclose(hidden[row, t, :: expected["every"]], values, rtol=0, atol=1e-5)
