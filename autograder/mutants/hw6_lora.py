"""Mistakes in hw6_lora."""

from autograder.mutants import Mutant

LINEAR = "minipeft.peft.lora:LoRALinear"

MUTANTS = [
    Mutant(
        "no-scale-dA",
        f"{LINEAR}.backward",
        "6.2",
        "dA lacks the factor s",
        old="dH = matmul(dZ, lora_B) * scale",
        new="dH = matmul(dZ, lora_B)",
    ),
    Mutant(
        "scale-missing",
        f"{LINEAR}.forward",
        "6.1",
        "the low-rank term lacks the factor s",
        old="matmul(H * scale, lora_B.T)",
        new="matmul(H, lora_B.T)",
    ),
]
