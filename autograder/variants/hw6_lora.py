"""Other ways to be right in hw6_lora."""

from autograder.variants import Variant

VARIANTS: list[Variant] = [
    Variant(
        "einsum",
        {
            "minipeft.peft.lora:LoRALinear.forward": """
H = np.einsum("...k,rk->...r", x, lora_A).reshape(-1, lora_A.shape[0])
ctx.save(x, H, weight, lora_A, lora_B, (scale, x.shape))
z = np.einsum("...k,dk->...d", x, weight) + scale * np.einsum("...k,rk,dr->...d", x, lora_A, lora_B)
return z if bias is None else z + bias
"""
        },
    )
]
