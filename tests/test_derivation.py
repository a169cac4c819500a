import pytest

from minipeft.lab.teach.derivation import derivation
from minipeft.peft.lora import LoRALinear

DB = (r"dB = s\,dZ^\top H", "dB = matmul(dZ.T, H) * scale")
DH = (r"dH = s\,dZ\,B", "dH = matmul(dZ, lora_B) * scale", "the chain rule")


def test_formulas_stand_beside_the_lines_that_compute_them():
    table = derivation(LoRALinear.backward, DH, DB)
    assert table == table._repr_markdown_() == repr(table)
    assert table.splitlines() == [
        "| formula | line of `LoRALinear.backward` | because |",
        "| --- | --- | --- |",
        r"| $dH = s\,dZ\,B$ | `dH = matmul(dZ, lora_B) * scale` | the chain rule |",
        r"| $dB = s\,dZ^\top H$ | `dB = matmul(dZ.T, H) * scale` |  |",
    ]
    assert derivation(LoRALinear.backward, DB).splitlines()[0] == "| formula | line of `LoRALinear.backward` |"


def test_a_line_that_the_library_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"'dB = dZ' is no line of LoRALinear\.backward; quote its lines"):
        derivation(LoRALinear.backward, ("dB = dZ", "dB = dZ"))
    with pytest.raises(ValueError, match=r"comes earlier in LoRALinear\.backward; quote its lines, in their order"):
        derivation(LoRALinear.backward, DB, DH)
