"""Adapters to and from Hugging Face PEFT: adapter_config.json and adapter_model.safetensors, under its names.

Five methods have a form there: LoRA, IA3, prompt tuning, prefix tuning and the tuning of normalizations. If a layer is
fused there (GPT-2's c_attn holds W_q, W_k and W_v), minipeft's low-rank changes become one whose B is block-diagonal,
of the sum of the ranks and the same scale; PEFT's becomes one for each part, with the same A and its rows of B. Both
are exact.
"""

from minipeft.peft.huggingface.export import to_huggingface
from minipeft.peft.huggingface.load import from_huggingface

__all__ = ["from_huggingface", "to_huggingface"]
