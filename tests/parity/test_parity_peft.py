"""Adapters go to Hugging Face PEFT and come from it with the same logits."""

import warnings

import numpy as np
import pytest

import minipeft as mp
from minipeft import models as M
from minipeft.files import FileError
from minipeft.peft import (
    IA3Config,
    LayerNormConfig,
    LoraConfig,
    PeftError,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    add_weighted_adapter,
    get_peft_model,
)

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

IDS = np.random.default_rng(3).integers(3, 30, (2, 7))
TARGETS = np.random.default_rng(5).integers(3, 30, (2, 5))
IMAGES = np.random.default_rng(4).normal(size=(2, 3, 8, 8)).astype(np.float32)
METHODS = {
    "LoRA": lambda: LoraConfig(r=2, lora_alpha=6),
    "LoRA everywhere": lambda: LoraConfig(
        r=2, target_modules="all-linear", use_rslora=True, rank_pattern={"up_proj": 3}
    ),
    "LoRA with its biases": lambda: LoraConfig(r=2, bias="lora_only"),
    "LoRA with all biases": lambda: LoraConfig(r=2, bias="all"),
    "LoRA of the embedding": lambda: LoraConfig(r=2, target_modules=["tokens", "q_proj"]),
    "LoRA of the head": lambda: LoraConfig(r=2, target_modules=["lm_head", "v_proj"]),
    "LoRA and the whole embedding": lambda: LoraConfig(r=2, modules_to_save=["tokens"]),
    "LoRA and the whole head": lambda: LoraConfig(r=2, modules_to_save=["lm_head"]),
    "LoRA and both": lambda: LoraConfig(r=2, modules_to_save=["tokens", "lm_head"]),
    "IA3": lambda: IA3Config(),
    "LayerNorm": lambda: LayerNormConfig(),
    "prompt": lambda: PromptTuningConfig(4),
    "prefix": lambda: PrefixTuningConfig(4, init_std=1.0),
    "projected prefix": lambda: PrefixTuningConfig(4, prefix_projection=True),
}
ON_BART = {  # theirs has a prompt before the source alone, and a prefix before the target alone
    "prompt": lambda: PromptTuningConfig(4, sides=["encoder"]),
    "prefix": lambda: PrefixTuningConfig(4, init_std=1.0, sides=["decoder"]),
    "projected prefix": lambda: PrefixTuningConfig(4, prefix_projection=True, sides=["decoder"]),
}
PROMPTS = ("prompt", "prefix", "projected prefix")
NO_FORM = {
    *(("bart", m) for m in ("LoRA with all biases", "LoRA and the whole head", "LoRA and both")),  # a constant there
    *((f, "LoRA of the head") for f in ("bert", "vit")),  # a classifier's head is trained in full
    *((f, m) for f in ("bert", "vit") for m in ("LoRA and the whole head", "LoRA and both")),
    ("bert", "prompt"),  # their classifier then reads the first virtual token in place of the class token
    *(("vit", m) for m in (*PROMPTS, "LoRA of the embedding", "LoRA and the whole embedding")),
    *(("masked lm", m) for m in PROMPTS),
}
FAMILIES = ("gpt2", "llama", "tied llama", "bert", "masked lm", "vit", "bart")
TIED = ("gpt2", "tied llama", "masked lm", "bart")
GRID = [(f, m) for f in FAMILIES for m in METHODS if (f, m) not in NO_FORM]


BART = {"layers": 3, "attention_heads": 3, "ffn_dim": 20}


def theirs(family):
    import torch
    import transformers as tf

    torch.manual_seed(0)
    small = {
        "vocab_size": 30,
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 20,
    }
    match family:
        case "gpt2":
            config = tf.GPT2Config(
                vocab_size=30, n_positions=24, n_embd=12, n_layer=2, n_head=3, bos_token_id=1, eos_token_id=2
            )
            model = tf.GPT2LMHeadModel(config)
        case "llama" | "tied llama":
            sizes = {**small, "hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2}
            model = tf.LlamaForCausalLM(tf.LlamaConfig(**sizes, tie_word_embeddings=family.startswith("tied")))
        case "bert":
            model = tf.BertForSequenceClassification(tf.BertConfig(**small, num_labels=3))
        case "masked lm":
            model = tf.BertForMaskedLM(tf.BertConfig(**small))
        case "bart":
            sizes = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in BART.items()}
            config = tf.BartConfig(vocab_size=30, d_model=12, max_position_embeddings=24, **sizes)
            model = tf.BartForConditionalGeneration(config)
        case _:
            sizes = {k: v for k, v in small.items() if k != "vocab_size"}
            model = tf.ViTForImageClassification(tf.ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=3))
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return model.eval()


OURS = {
    **{"gpt2": M.DecoderLM, "llama": M.DecoderLM, "tied llama": M.DecoderLM, "bert": M.EncoderClassifier, "vit": M.ViT},
    **{"masked lm": M.EncoderMaskedLM, "bart": M.EncoderDecoder},
}


def our_logits(model, family):
    batch = {"vit": (IMAGES,), "bart": (IDS, TARGETS)}.get(family, (IDS,))
    with mp.no_grad():
        return model(*batch).data


def their_logits(model, family, like):
    import torch

    with torch.no_grad():
        batch = {"pixel_values": torch.tensor(IMAGES)} if family == "vit" else {"input_ids": torch.tensor(IDS)}
        if family == "bart":
            batch["decoder_input_ids"] = torch.tensor(TARGETS)
        z = model(**batch).logits.numpy()
    return z[:, -like.shape[1] :] if z.ndim == 3 else z  # they keep the rows of a prompt


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def folder(family):
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            theirs(family).save_pretrained(made[family])
        return made[family]

    return folder


@pytest.mark.parametrize(("family", "method"), GRID, ids=[f"{m} on {f}" for f, m in GRID])
def test_ours_loads_there_and_theirs_here(family, method, folders, rng, tmp_path):
    import peft as hf

    warnings.simplefilter("ignore")
    base = folders(family)
    config = ON_BART.get(method, METHODS[method]) if family == "bart" else METHODS[method]
    ours = get_peft_model(OURS[family].from_pretrained(base), config())
    for p in ours.trained().values():
        p.data[...] += 0.2 * rng.normal(size=p.shape)
    expected = our_logits(ours, family)
    ours.save_pretrained(tmp_path / "ours")
    there = hf.PeftModel.from_pretrained(type(theirs(family)).from_pretrained(base), tmp_path / "ours").eval()
    np.testing.assert_allclose(their_logits(there, family, expected), expected, atol=1e-5)
    there.save_pretrained(tmp_path / "theirs")
    back = PeftModel.from_pretrained(OURS[family].from_pretrained(base), tmp_path / "theirs")
    np.testing.assert_allclose(our_logits(back, family), expected, atol=1e-5)


@pytest.mark.parametrize("family", list(OURS))
def test_an_adapter_made_there_computes_the_same_here(family, folders, tmp_path):
    import peft as hf
    import torch

    warnings.simplefilter("ignore")
    base = folders(family)
    targets = {
        "gpt2": ["c_attn", "c_proj"],
        "llama": ["q_proj", "down_proj"],
        "tied llama": ["q_proj", "down_proj"],
        "bert": ["query", "dense"],
        "masked lm": ["query", "dense"],
        "bart": ["q_proj", "fc1"],
    }
    config = hf.LoraConfig(
        r=3, lora_alpha=5, target_modules=targets.get(family, ["q_proj", "fc1"]), init_lora_weights=False
    )
    torch.manual_seed(1)
    there = hf.get_peft_model(type(theirs(family)).from_pretrained(base), config).eval()
    there.save_pretrained(tmp_path / "theirs")
    here = OURS[family].from_pretrained(base)
    if family == "bert":  # "dense" also matches the pooler, which is outside our layers
        with pytest.raises(ValueError, match=r"."):
            PeftModel.from_pretrained(here, tmp_path / "nowhere")
    back = PeftModel.from_pretrained(here, tmp_path / "theirs")
    z = our_logits(back, family)
    np.testing.assert_allclose(z, their_logits(there, family, z), atol=1e-5)


MADE_THERE = [
    ("llama", "LoRA", {"target_modules": ["embed_tokens", "q_proj", "lm_head"]}),  # stored with the base's own weights
    ("gpt2", "LoRA", {"target_modules": ["wte", "c_attn", "lm_head"]}),
    ("llama", "LoRA", {"target_modules": "all-linear", "modules_to_save": ["lm_head"]}),
    ("llama", "LoRA", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}),
    ("gpt2", "LoRA", {"target_modules": ["c_fc"], "modules_to_save": ["ln_f", "h.0.attn.c_attn", "h.1.mlp.c_proj"]}),
    ("bert", "LoRA", {"target_modules": ["query"], "task_type": "SEQ_CLS"}),
    ("bert", "LoRA", {"target_modules": ["query"]}),
    ("vit", "LoRA", {"target_modules": ["q_proj"], "modules_to_save": ["classifier"]}),
    ("bart", "LoRA", {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"}),
    (
        "gpt2",
        "LoRA",
        {"target_modules": ["c_attn"], "use_rslora": True, "rank_pattern": {"h.0.attn.c_attn": 5}},
    ),
    ("gpt2", "LoRA", {"target_modules": ["c_fc"], "alpha_pattern": {"h.1.mlp.c_fc": 7.5}}),
    ("gpt2", "IA3", {"target_modules": ["c_attn", "mlp.c_proj"], "feedforward_modules": ["mlp.c_proj"]}),
    ("gpt2", "IA3", {"target_modules": ["c_attn", "mlp.c_proj"], "feedforward_modules": []}),
    ("llama", "IA3", {"target_modules": ["q_proj"], "feedforward_modules": ["q_proj"]}),
    ("bert", "IA3", {"target_modules": ["query"], "feedforward_modules": []}),
    ("gpt2", "LNTuning", {"target_modules": ["ln_f"]}),
    ("llama", "LNTuning", {"target_modules": ["norm", "input_layernorm"]}),
    ("bert", "LNTuning", {"target_modules": ["LayerNorm"], "task_type": "SEQ_CLS"}),
    ("bart", "LNTuning", {"target_modules": ["final_layer_norm"]}),
]


@pytest.mark.parametrize(("family", "kind", "options"), MADE_THERE, ids=[f"{k} {f} {o}" for f, k, o in MADE_THERE])
def test_what_users_configure_there_computes_the_same_here_and_back_there(family, kind, options, folders, tmp_path):
    check_made_there(family, kind, options, folders(family), tmp_path)


def check_made_there(family, kind, options, base, tmp_path):
    """An adapter that PEFT made, changed in all that is trained: the same logits here, and there again."""
    import peft as hf
    import torch

    more = {"LoRA": {"r": 3, "lora_alpha": 5}, "IA3": {}, "LNTuning": {}}[kind]
    config = {"LoRA": hf.LoraConfig, "IA3": hf.IA3Config, "LNTuning": hf.LNTuningConfig}[kind](**more, **options)
    there = hf.get_peft_model(type(theirs(family)).from_pretrained(base), config).eval()
    torch.manual_seed(1)
    for p in there.parameters():
        if p.requires_grad:
            p.data += 0.2 * torch.randn_like(p)
    there.save_pretrained(tmp_path / "theirs")
    here = PeftModel.from_pretrained(OURS[family].from_pretrained(base), tmp_path / "theirs")
    z = our_logits(here, family)
    np.testing.assert_allclose(z, their_logits(there, family, z), atol=1e-5)
    here.save_pretrained(tmp_path / "ours")
    again = hf.PeftModel.from_pretrained(type(theirs(family)).from_pretrained(base), tmp_path / "ours").eval()
    np.testing.assert_allclose(z, their_logits(again, family, z), atol=1e-5)


def test_the_conversion_that_the_error_gives_makes_a_file_that_is_read(folders, tmp_path, monkeypatch):
    import peft as hf
    import torch

    base = folders("llama")
    config = hf.LoraConfig(r=3, target_modules=["q_proj"], init_lora_weights=False)
    there = hf.get_peft_model(type(theirs("llama")).from_pretrained(base), config).eval()
    there.save_pretrained(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    torch.save(hf.get_peft_model_state_dict(there), tmp_path / "adapter_model.bin")
    with pytest.raises(FileError, match=r"there is only adapter_model\.bin") as caught:
        PeftModel.from_pretrained(M.DecoderLM.from_pretrained(base), tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(str(caught.value).partition("with PyTorch: ")[2])
    here = PeftModel.from_pretrained(M.DecoderLM.from_pretrained(base), tmp_path)
    z = our_logits(here, "llama")
    np.testing.assert_allclose(z, their_logits(there, "llama", z), atol=1e-5)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_an_adapter_that_moved_its_base_is_refused(init, folders, tmp_path):
    """Loaded as it is it would be wrong in silence: W - B₀ A₀ + B A is meant, and the file does not hold B₀ A₀."""
    import peft as hf

    base = folders("llama")
    there = hf.get_peft_model(
        type(theirs("llama")).from_pretrained(base),
        hf.LoraConfig(r=3, target_modules=["q_proj"], init_lora_weights=init),
    )
    there.save_pretrained(tmp_path / "theirs")
    with pytest.raises(PeftError, match="also changed the base weights"):
        PeftModel.from_pretrained(M.DecoderLM.from_pretrained(base), tmp_path / "theirs")


def test_a_weighted_sum_of_ours_is_an_adapter_there(folders, rng, tmp_path):
    import peft as hf

    warnings.simplefilter("ignore")
    base = folders("gpt2")
    ours = get_peft_model(M.DecoderLM.from_pretrained(base), LoraConfig(r=2), adapter_name="one")
    ours.add_adapter("two", LoraConfig(r=3, lora_alpha=9, target_modules=["q_proj", "down_proj"]), rng=1)
    for name in ours.adapters:
        ours.set_adapter(name)
        for p in ours.trained().values():
            p.data[...] += 0.2 * rng.normal(size=p.shape)
    add_weighted_adapter(ours, ["one", "two"], [0.7, -0.4], "sum")
    expected = our_logits(ours, "gpt2")
    ours.save_pretrained(tmp_path / "sum")
    there = hf.PeftModel.from_pretrained(type(theirs("gpt2")).from_pretrained(base), tmp_path / "sum").eval()
    np.testing.assert_allclose(their_logits(there, "gpt2", expected), expected, atol=1e-5)


@pytest.mark.parametrize("method", ["prefix", "prompt"])
@pytest.mark.parametrize("layers", [2, 3])
def test_an_encoder_decoders_prompts_and_prefixes_made_there_compute_the_same_here(layers, method, tmp_path):
    import peft as hf
    import torch
    import transformers as tf

    warnings.simplefilter("ignore")
    torch.manual_seed(2)
    sizes = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in {**BART, "layers": layers}.items()}
    tf.BartForConditionalGeneration(
        tf.BartConfig(vocab_size=30, d_model=12, max_position_embeddings=24, **sizes)
    ).save_pretrained(tmp_path / "base")
    kind = hf.PrefixTuningConfig if method == "prefix" else hf.PromptTuningConfig
    base = tf.BartForConditionalGeneration.from_pretrained(tmp_path / "base")
    there = hf.get_peft_model(base, kind(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=4)).eval()
    there.save_pretrained(tmp_path / "theirs")
    here = PeftModel.from_pretrained(M.EncoderDecoder.from_pretrained(tmp_path / "base"), tmp_path / "theirs")
    z = our_logits(here, "bart")
    np.testing.assert_allclose(z, their_logits(there, "bart", z), atol=1e-5)
    here.save_pretrained(tmp_path / "ours")  # and back, with layers that share a prefix
    again = hf.PeftModel.from_pretrained(
        tf.BartForConditionalGeneration.from_pretrained(tmp_path / "base"), tmp_path / "ours"
    )
    np.testing.assert_allclose(z, their_logits(again.eval(), "bart", z), atol=1e-5)
