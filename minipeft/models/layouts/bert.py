"""The checkpoints of BERT (Devlin et al. 2019) at Hugging Face: bare, with the masked-LM head, with a classifier."""

from __future__ import annotations

from dataclasses import replace

from minipeft.models.layouts.fields import activation, n_classes
from minipeft.models.layouts.layout import Layout, Row, both, within

BERT = Layout(
    fields={
        "vocab_size": "vocab_size",
        "d_model": "hidden_size",
        "n_layers": "num_hidden_layers",
        "n_heads": "num_attention_heads",
        "d_ff": "intermediate_size",
        "context": "max_position_embeddings",
        "n_token_types": "type_vocab_size",
        "eps": "layer_norm_eps",
        "activation": activation("hidden_act"),
    },
    fixed={
        "position_embedding_type": ("absolute", None),
        "is_decoder": (False,),
        "add_cross_attention": (False,),
    },
    rows=(
        Row("input.tokens.weight", "embeddings.word_embeddings.weight"),
        Row("input.positions.weight", "embeddings.position_embeddings.weight"),
        Row("input.token_types.weight", "embeddings.token_type_embeddings.weight"),
        *both("input.norm", "embeddings.LayerNorm"),
        *both("stack.layers.{l}.attention.q_proj", "encoder.layer.{l}.attention.self.query"),
        *both("stack.layers.{l}.attention.k_proj", "encoder.layer.{l}.attention.self.key"),
        *both("stack.layers.{l}.attention.v_proj", "encoder.layer.{l}.attention.self.value"),
        *both("stack.layers.{l}.attention.out_proj", "encoder.layer.{l}.attention.output.dense"),
        *both("stack.layers.{l}.attention_norm", "encoder.layer.{l}.attention.output.LayerNorm"),
        *both("stack.layers.{l}.feed_forward.up_proj", "encoder.layer.{l}.intermediate.dense"),
        *both("stack.layers.{l}.feed_forward.down_proj", "encoder.layer.{l}.output.dense"),
        *both("stack.layers.{l}.feed_forward_norm", "encoder.layer.{l}.output.LayerNorm"),
    ),
    base="bert.",
    bare=True,
    aliases=((r"\.gamma$", ".weight"), (r"\.beta$", ".bias")),  # the oldest files
    ignored=(r"embeddings\.position_ids", r"pooler\..*", r"cls\..*", r"classifier\..*"),
)

BERT_MASKED_LM = replace(
    BERT,
    architecture="BertForMaskedLM",
    bare=False,
    fields={**BERT.fields, "tied": lambda s: s.get("tie_word_embeddings", True)},
    rows=(
        *within("encoder", BERT.rows),
        *both("transform", "cls.predictions.transform.dense"),
        *both("transform_norm", "cls.predictions.transform.LayerNorm"),
        Row("lm_head.bias", "cls.predictions.bias"),
    ),
    heads=("cls.",),
    tied=(
        ("cls.predictions.decoder.weight", "embeddings.word_embeddings.weight"),
        ("cls.predictions.decoder.bias", "cls.predictions.bias"),
    ),
    untied=(
        Row("lm_head.weight", "cls.predictions.decoder.weight"),
        Row("lm_head.bias", "cls.predictions.decoder.bias"),
    ),
    ignored=(r"embeddings\.position_ids", r"pooler\..*", r"cls\.seq_relationship\..*"),
)

BERT_CLASSIFIER = replace(
    BERT,
    architecture="BertForSequenceClassification",
    bare=False,
    fields={**BERT.fields, "n_classes": n_classes, "pool": lambda _: "pooler"},
    rows=(
        *within("encoder", BERT.rows),
        *both("pooler", "pooler.dense"),
        *both("classifier", "classifier"),
    ),
    heads=("classifier.",),
)
