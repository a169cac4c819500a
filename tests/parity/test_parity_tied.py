"""Tied weights: adapters of one place against Hugging Face PEFT, merged models against transformers."""

import numpy as np
import pytest
from test_parity_peft import OURS, TIED, check_made_there, folders, our_logits, their_logits, theirs  # noqa: F401

from minipeft import models as M
from minipeft.peft import LoraConfig, PeftModel, get_peft_model

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

ADAPTED = {"gpt2": "c_attn", "tied llama": "q_proj", "masked lm": "query", "bart": "q_proj"}
PLACES = {  # the modules that share one weight: embeddings, head
    **{"gpt2": ["wte", "lm_head"], "tied llama": ["embed_tokens", "lm_head"]},
    **{"masked lm": ["word_embeddings", "decoder"], "bart": ["embed_tokens", "lm_head"]},
}
TIED_THERE = [
    *((f, "LoRA", {"target_modules": [ADAPTED[f]], "modules_to_save": [m]}) for f in TIED for m in PLACES[f]),
    *((f, "LoRA", {"target_modules": [ADAPTED[f]], "modules_to_save": PLACES[f]}) for f in TIED),
    *((f, "LoRA", {"target_modules": [ADAPTED[f], m]}) for f in TIED for m in PLACES[f]),
    *(
        (f, "LoRA", {"target_modules": [ADAPTED[f]], "modules_to_save": [PLACES[f][1]], "bias": "all"})
        for f in TIED
        if f != "bart"  # it loads here, but has no form to go back in: `test_the_biases_of_a_bart_made_there`
    ),
    # one copy for both places, stored under each
    ("tied llama", "LoRA", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"], "ensure_weight_tying": True}),
    ("tied llama", "LoRA", {"target_modules": ["q_proj", "lm_head"], "ensure_weight_tying": True}),
    ("masked lm", "LoRA", {"target_modules": ["query"], "modules_to_save": ["decoder"], "ensure_weight_tying": True}),
    ("masked lm", "LoRA", {"target_modules": ["query"], "modules_to_save": ["cls"]}),
    ("bart", "LoRA", {"target_modules": ["q_proj"], "modules_to_save": ["encoder.embed_tokens"]}),
    ("bart", "LoRA", {"target_modules": ["q_proj"], "modules_to_save": ["shared"]}),  # which computes nothing there
    ("bart", "LoRA", {"target_modules": ["q_proj", "shared"]}),
]


@pytest.mark.parametrize(("family", "kind", "options"), TIED_THERE, ids=[f"{f} {o}" for f, _, o in TIED_THERE])
def test_what_users_configure_there_computes_the_same_here_and_back_there(family, kind, options, folders, tmp_path):  # noqa: F811
    check_made_there(family, kind, options, folders(family), tmp_path)


def test_the_biases_of_a_bart_made_there_compute_the_same_here(folders, tmp_path):  # noqa: F811
    """The file also holds final_logits_bias, which is a constant."""
    import peft as hf
    import torch

    base = folders("bart")
    config = hf.LoraConfig(r=3, target_modules=["q_proj"], modules_to_save=["lm_head"], bias="all")
    there = hf.get_peft_model(type(theirs("bart")).from_pretrained(base), config).eval()
    torch.manual_seed(1)
    for p in there.parameters():
        if p.requires_grad:
            p.data += 0.2 * torch.randn_like(p)
    there.save_pretrained(tmp_path / "theirs")
    here = PeftModel.from_pretrained(M.EncoderDecoder.from_pretrained(base), tmp_path / "theirs")
    z = our_logits(here, "bart")
    np.testing.assert_allclose(z, their_logits(there, "bart", z), atol=1e-5)


def untied_there(family, base, arrays, names):
    """Their model with the weights of the base, but not tied, and ``arrays`` in place of those that were."""
    import torch

    model = type(theirs(family)).from_pretrained(base, tie_word_embeddings=False)
    for path, x in arrays.items():
        theirs_name = names[path][0]
        if theirs_name != "final_logits_bias":
            owner, _, own = theirs_name.rpartition(".")
            setattr(model.get_submodule(owner), own, torch.nn.Parameter(torch.tensor(x)))
    return model.eval()


MERGED = {
    "LoRA of the embedding": {"target_modules": ["tokens"]},
    "LoRA of the head": {"target_modules": ["lm_head"]},
    "the whole embedding": {"target_modules": ["q_proj"], "modules_to_save": ["tokens"]},
    "the whole head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
}


@pytest.mark.parametrize("what", MERGED)
@pytest.mark.parametrize("family", TIED)
def test_a_merged_model_that_is_no_longer_tied_computes_the_same_here_and_there(family, what, folders, rng, tmp_path):  # noqa: F811
    """Ours has no writer of their model folders: theirs gets the tied places from ours, the rest from the base."""
    base = folders(family)
    ours = get_peft_model(OURS[family].from_pretrained(base), LoraConfig(r=2, **MERGED[what]))
    for p in (p for n, p in ours.trained().items() if "q_proj" not in n):
        p.data[...] += 0.2 * rng.normal(size=p.shape)
    expected = our_logits(ours, family)
    ours.merge_and_unload().save_pretrained(tmp_path / "ours")
    again = OURS[family].from_pretrained(tmp_path / "ours")
    assert not again.config.tied
    np.testing.assert_allclose(our_logits(again, family), expected, atol=1e-5)
    heads = {path: x for path, x in again.state_dict().items() if path.endswith("tokens.weight") or "lm_head" in path}
    there = untied_there(family, base, heads, M.huggingface_names(again))
    if "lm_head.bias" in heads and family == "bart":
        there.final_logits_bias[...] = there.final_logits_bias.new_tensor(heads["lm_head.bias"])
    np.testing.assert_allclose(their_logits(there, family, expected), expected, atol=1e-5)
    there.save_pretrained(tmp_path / "theirs")
    reloaded = type(there).from_pretrained(tmp_path / "theirs").eval()
    np.testing.assert_allclose(their_logits(reloaded, family, expected), expected, atol=1e-5)
    np.testing.assert_allclose(
        our_logits(OURS[family].from_pretrained(tmp_path / "theirs"), family), expected, atol=1e-5
    )
