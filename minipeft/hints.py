"""For error messages: what users of PyTorch, transformers and PEFT type is called here, and what to install."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

# Hugging Face's names of the arguments of a model and of `generate`, which are taken as well.
ARGUMENTS = {
    "input_ids": "ids",
    "attention_mask": "mask",
    "token_type_ids": "token_types",
    "pixel_values": "images",
    "decoder_input_ids": "target_ids",
    "decoder_attention_mask": "target_mask",
    "eos_token_id": "eos",
    "pad_token_id": "pad",
}

OTHER_ARGUMENTS = {
    "labels": "model.loss(...) takes labels and returns the loss",
    "do_sample": "temperature=0 takes the likeliest token, a temperature above 0 samples",
    "max_length": "max_new_tokens counts the new tokens only",
    "num_beams": "there is no beam search, only greedy search and sampling",
    "streamer": "use stream: from minipeft.generate import stream; it yields each token as it is made",
}

TENSOR = {
    "logits": "a model returns its logits as a Tensor: this one",
    "loss": "model.loss(...) returns the loss as a Tensor",
    "last_hidden_state": "model.hidden(...) returns the hidden states as a Tensor",
    "numpy": "use tensor.data, or minipeft.to_numpy(tensor.data) from a GPU",
    "cpu": "use minipeft.to_numpy(tensor.data)",
    "cuda": 'call model.to("cuda"); inputs follow the model',
    "to": "call model.to(device); inputs follow the model",
    "device": "use minipeft.backend.device_of(tensor.data)",
    "tolist": "use tensor.data.tolist()",
    "argmax": "use tensor.data.argmax(axis=-1)",
    "clone": "use Tensor(tensor.data.copy())",
    "view": "use tensor.reshape(...)",
    "permute": "use tensor.transpose(...)",
    "numel": "use tensor.size",
    "dim": "use tensor.ndim",
    "softmax": "use minipeft.ops.softmax(tensor)",
    "log_softmax": "use minipeft.ops.log_softmax(tensor)",
}

MODULE = {
    "cuda": 'use model.to("cuda")',
    "cpu": 'use model.to("cpu")',
    "float": 'use model.to("float32")',
    "double": 'use model.to("float64")',
    "half": "models compute in float32 or float64",
    "bfloat16": "models compute in float32 or float64",
    "device": "use minipeft.backend.device_of(next(model.parameters()).data)",
    "dtype": "use next(model.parameters()).dtype",
    "modules": "use named_modules(), which also gives the paths",
    "children": "use named_modules(), which also gives the paths",
    "num_parameters": "use sum(p.size for p in model.parameters())",
    "get_nb_trainable_parameters": "get_peft_model(model, config) returns a model that has it",
    "print_trainable_parameters": "get_peft_model(model, config) returns a model that has it",
    "get_base_model": "use model.base_model",
    "active_adapters": "use model.active_adapter; one adapter is active at a time",
    "gradient_checkpointing_enable": "use model.gradient_checkpointing()",
    "enable_input_require_grads": "nothing to do: gradients reach every trainable parameter",
    "generate": "only DecoderLM and EncoderDecoder models generate text",
    "push_to_hub": "write a folder with save_pretrained(folder) and upload it",
}

# Hugging Face's names for a size or choice in a model's configuration.
CONFIG = {
    **dict.fromkeys(("hidden_size", "n_embd"), "d_model"),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "encoder_layers", "decoder_layers"), "n_layers"),
    **dict.fromkeys(("num_attention_heads", "n_head", "encoder_attention_heads"), "n_heads"),
    **dict.fromkeys(("intermediate_size", "n_inner", "encoder_ffn_dim"), "d_ff"),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), "context"),
    **dict.fromkeys(("hidden_act", "activation_function"), "activation"),
    "num_key_value_heads": "n_kv_heads",
    "num_labels": "n_classes",
    "num_channels": "channels",
}

# Names of other libraries for an option of a method.
OPTIONS = {
    "rank": "r",
    "lora_rank": "r",
    "lora_r": "r",
    "bottleneck_dim": "r",
    "bottleneck_size": "r",
    "alpha": "lora_alpha",
    "scaling": "lora_alpha",
    "dropout": "lora_dropout",
    "task": "task_type",
    "num_tokens": "num_virtual_tokens",
    "prefix_length": "num_virtual_tokens",
    "prompt_length": "num_virtual_tokens",
    "non_linearity": "activation",
}

OTHER_OPTIONS = {
    "lr": "the optimizer has the learning rate",
    "learning_rate": "the optimizer has the learning rate",
    "inference_mode": "it can only be False; to run a trained adapter, load it and call the model under no_grad()",
    "reduction_factor": "give r, the width of the bottleneck: the model's width divided by this factor",
    "use_dora": "DoRA is not implemented",
    "lora_bias": "a bias of B is not implemented; bias='lora_only' trains the wrapped layers' own",
    "layers_pattern": "layers_to_transform needs no pattern: it counts the numbered layers of the model",
}


def missing(owner: object, name: str, answers: Mapping[str, str]) -> AttributeError:
    """Return the error of an attribute that ``owner`` does not have, with the answer for that name if there is one."""
    hint = f"; {answers[name]}" if name in answers else ""
    return AttributeError(f"{type(owner).__name__!r} object has no attribute {name!r}{hint}", name=name, obj=owner)


def install(extra: str) -> str:
    """Return the command that installs an extra. It names the clone, since no package index needs to have minipeft."""
    root = Path(__file__).resolve().parents[1]
    where = root if (root / "pyproject.toml").is_file() else "a clone of the repository"
    return f'run `pip install -e ".[{extra}]"` in {where}'
