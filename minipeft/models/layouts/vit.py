"""The checkpoints of the Vision Transformer (Dosovitskiy et al. 2021) at Hugging Face."""

from __future__ import annotations

from minipeft.models.layouts.fields import activation, n_classes
from minipeft.models.layouts.layout import Layout, Row, both

VIT = Layout(
    fields={
        "image_size": "image_size",
        "patch_size": "patch_size",
        "channels": "num_channels",
        "n_classes": n_classes,
        "d_model": "hidden_size",
        "n_layers": "num_hidden_layers",
        "n_heads": "num_attention_heads",
        "d_ff": "intermediate_size",
        "eps": "layer_norm_eps",
        "activation": activation("hidden_act"),
    },
    fixed={"qkv_bias": (True,)},
    rows=(
        Row("input.class_token", "embeddings.cls_token"),
        Row("input.positions", "embeddings.position_embeddings"),
        *both("input.patches", "embeddings.patch_embeddings.projection", "matrix"),
        *both("stack.layers.{l}.attention_norm", "layers.{l}.layernorm_before"),
        *both("stack.layers.{l}.attention.q_proj", "layers.{l}.attention.q_proj"),
        *both("stack.layers.{l}.attention.k_proj", "layers.{l}.attention.k_proj"),
        *both("stack.layers.{l}.attention.v_proj", "layers.{l}.attention.v_proj"),
        *both("stack.layers.{l}.attention.out_proj", "layers.{l}.attention.o_proj"),
        *both("stack.layers.{l}.feed_forward_norm", "layers.{l}.layernorm_after"),
        *both("stack.layers.{l}.feed_forward.up_proj", "layers.{l}.mlp.fc1"),
        *both("stack.layers.{l}.feed_forward.down_proj", "layers.{l}.mlp.fc2"),
        *both("stack.norm", "layernorm"),
        *both("classifier", "classifier"),
    ),
    base="vit.",
    heads=("classifier.",),
    ignored=(r"pooler\..*",),
    aliases=(  # names of transformers before version 5
        (r"^encoder\.layer\.", "layers."),
        (r"\.attention\.attention\.(query|key|value)\.", lambda m: f".attention.{m[1][0]}_proj."),
        (r"\.attention\.output\.dense\.", ".attention.o_proj."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"\.output\.dense\.", ".mlp.fc2."),
    ),
)
