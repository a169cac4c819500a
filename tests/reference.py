"""Tiny models in Hugging Face's layout, the same here and in tests/golden/make.py: settings, weights and inputs.

Weights and inputs come from the raw bits of a generator, whose stream NumPy guarantees.
"""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import minipeft as mp
from minipeft import models as M
from minipeft.files import write_safetensors
from minipeft.models.layouts.layout import taken

GOLDEN = Path(__file__).parent / "golden"


def uniform(name, shape):
    """Numbers in [-1, 1) that depend on the name alone."""
    bits = np.random.PCG64(zlib.crc32(name.encode())).random_raw(int(np.prod(shape)))
    return ((bits >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0).reshape(shape)


def weights(name, shape):
    """A tensor by its Hugging Face name: normalizations around one, the rest around zero."""
    is_norm = name.endswith("weight") and any(part in name.lower() for part in ("norm", "ln_"))
    return (0.35 * uniform(name, shape) + (1.0 if is_norm else 0.0)).astype(np.float32)


def integers(name, shape, low, high):
    return (low + (uniform(name, shape) + 1.0) / 2.0 * (high - low)).astype(np.int64)


V = 23
MASK = np.array([[True] * 5, [True] * 3 + [False] * 2])


def text(low=3):  # 0, 1 and 2 are special at Hugging Face: rows for padding receive no gradient there
    labels = integers("labels", (2, 5), low, V)
    labels[~MASK] = -100
    labels[0, 1] = -100
    return {"ids": integers("ids", (2, 5), low, V), "mask": MASK, "labels": labels}


def pairs():
    return {**text(), "token_types": integers("types", (2, 5), 0, 2)}


def sentences():
    return {**pairs(), "labels": np.array([2, 0])}


def translation():
    labels = integers("target labels", (2, 4), 3, V)
    labels[1, 3] = -100
    return {**text(), "labels": labels, "target_ids": integers("targets", (2, 4), 3, V)}


def pictures():
    return {"images": uniform("images", (2, 2, 8, 8)).astype(np.float32), "labels": np.array([2, 0])}


@dataclass(frozen=True)
class Reference:
    """One model: the class of theirs and of ours, config.json, and a batch for ours."""

    theirs: str
    ours: type
    settings: dict
    batch: dict

    def output(self, model):
        """Ours, on the tokens that are real."""
        batch = {name: x for name, x in self.batch.items() if name != "labels"}
        x = model(**batch)
        return mp.to_numpy(x.data)[MASK] if x.shape[:2] == MASK.shape else mp.to_numpy(x.data)


BERT = {
    **{"model_type": "bert", "vocab_size": V, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3},
    **{"intermediate_size": 20, "max_position_embeddings": 9, "type_vocab_size": 2, "layer_norm_eps": 1e-12},
    **{"hidden_act": "gelu", "pad_token_id": 0},
}
LABELS = {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}

REFERENCES = {
    "gpt2": Reference(
        "GPT2LMHeadModel",
        M.DecoderLM,
        {
            **{"model_type": "gpt2", "vocab_size": V, "n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 9},
            **{"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "bos_token_id": 0, "eos_token_id": 0},
        },
        text(),
    ),
    "llama": Reference(
        "LlamaForCausalLM",
        M.DecoderLM,
        {
            **{"model_type": "llama", "vocab_size": V, "hidden_size": 24, "num_hidden_layers": 2, "head_dim": 6},
            **{"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 20, "rms_norm_eps": 1e-5},
            **{"max_position_embeddings": 9, "hidden_act": "silu", "tie_word_embeddings": False},
            **{"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
        },
        text(),
    ),
    "bert": Reference("BertModel", M.Encoder, BERT, pairs()),
    "bert_masked_lm": Reference("BertForMaskedLM", M.EncoderMaskedLM, BERT, pairs()),
    "bert_classifier": Reference(
        "BertForSequenceClassification",
        M.EncoderClassifier,
        {**BERT, **LABELS, "architectures": ["BertForSequenceClassification"]},
        sentences(),
    ),
    "bart": Reference(
        "BartForConditionalGeneration",
        M.EncoderDecoder,
        {
            **{"model_type": "bart", "vocab_size": V, "d_model": 12, "max_position_embeddings": 9, "pad_token_id": 1},
            **{"encoder_layers": 2, "encoder_attention_heads": 3, "encoder_ffn_dim": 20, "activation_function": "gelu"},
            **{"decoder_layers": 2, "decoder_attention_heads": 3, "decoder_ffn_dim": 20, "decoder_start_token_id": 2},
        },
        translation(),
    ),
    "vit": Reference(
        "ViTForImageClassification",
        M.ViT,
        {
            **{"model_type": "vit", "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3},
            **{"intermediate_size": 20, "image_size": 8, "patch_size": 4, "num_channels": 2, "layer_norm_eps": 1e-12},
            **{"hidden_act": "gelu", **LABELS},
        },
        pictures(),
    ),
}


def golden(name):
    """What theirs computes: output, loss, and "tensors", {name: (shape, gradient times a random direction or None)}."""
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def write_folder(folder, settings, shapes):
    """A folder as Hugging Face writes it, with the seeded weights."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings))
    write_safetensors(folder / "model.safetensors", {name: weights(name, shape) for name, shape in shapes.items()})
    return folder


def projected(model, shape_of):
    """The gradients of ours by Hugging Face's names, each as its product with a random direction."""
    named = dict(model.named_parameters())
    result = {}
    for ours, (theirs, how) in M.huggingface_names(model).items():
        if ours in named and named[ours].grad is not None:
            u = taken(uniform(f"direction of {theirs}", shape_of[theirs]), how)
            result[theirs] = result.get(theirs, 0.0) + float((named[ours].grad * u).sum())
    return result
