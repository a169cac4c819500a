"""docs/methods.md: which method is tested on which family, and what Hugging Face PEFT agrees with; made of the tests.

``python tests/test_method_table.py`` writes it anew.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "parity")]

import pytest  # noqa: E402
import test_parity_peft as parity  # noqa: E402
import test_peft as own  # noqa: E402

TABLE = HERE.parent / "docs" / "methods.md"
COLUMNS = {  # ours: (heading, theirs)
    "gpt2": ("decoder, GPT-2", "gpt2"),
    "llama": ("decoder, Llama", "llama"),
    "encoder": ("encoder, BERT", "bert"),
    "encoder_decoder": ("encoder-decoder, BART", "bart"),
    "vit": ("ViT", "vit"),
}
REASONS = {
    ("llama", "BitFit"): "a Llama has no bias",
    ("bert", "prompt"): "theirs classifies by the first row, which is then the prompt's",
    **{
        ("vit", m): "theirs knows prompts and prefixes for text alone" for m in ("prompt", "prefix", "projected prefix")
    },
}
BEFORE = """# Methods and models

Every cell is a set of tests that pass. **✓**: the gradient of all that is trained, against central differences in
float64; three steps of training leave every frozen tensor as it was, to the bit; disabling and unloading give the
base's outputs, to the bit; what is saved is what was trained, and loads to the same bits; the same on a stand-in for a
GPU, without a synchronization. **HF**: saved here, Hugging Face PEFT 0.21 loads it with the same logits (1e-5), and
what it saves loads here. Where a cell says less, the reason stands below.

    pytest tests/test_peft.py                           # ✓
    pytest -m parity tests/parity/test_parity_peft.py   # HF, with the extra [parity]
    python tests/test_method_table.py                   # this page, out of those tests

"""


def cell(family, method, notes):
    if (family, method) in own.IMPOSSIBLE:
        return f"refused{notes(REASONS[family, method])}"
    theirs = COLUMNS[family][1]
    if (theirs, method) in parity.GRID:
        return "✓ HF"
    if method in parity.METHODS:
        return f"✓{notes(REASONS[theirs, method])}"
    return "✓"


def page():
    reasons = []

    def notes(reason):
        if reason not in reasons:
            reasons.append(reason)
        return f" ({reasons.index(reason) + 1})"

    lines = ["| method | " + " | ".join(heading for heading, _ in COLUMNS.values()) + " |", "|---" * 6 + "|"]
    for method in own.METHODS:
        lines.append(f"| {method} | " + " | ".join(cell(f, method, notes) for f in COLUMNS) + " |")
    theirs = [m for m in parity.METHODS if m not in own.METHODS]
    after = [f"({i}) {reason}." for i, reason in enumerate(reasons, 1)]
    after.append(
        "FacT cuts matrices into blocks of d × d, so every family has it on W_q and W_o; on all matrices of a layer "
        "whose feed-forward is a multiple of d wide it is tested on GPT-2 and the ViT."
    )
    after.append(f"Also exchanged with Hugging Face PEFT: {', '.join(theirs)}.")
    after.append(
        'On BART theirs has a prompt before the source alone (`sides=["encoder"]`) and a prefix before the target '
        'alone (`sides=["decoder"]`); ours also has both, and prefixes in the attention from target to source. The '
        "other methods have no form at Hugging Face, or another one, and are saved in our own files."
    )
    return BEFORE + "\n".join(lines) + "\n\n" + "\n\n".join(after) + "\n"


def test_the_table_is_that_of_the_tests():
    assert TABLE.read_text(encoding="utf-8") == page(), "run `python tests/test_method_table.py`"


@pytest.mark.parametrize("family", COLUMNS)
def test_every_method_has_a_cell_in_every_family(family):
    for method in own.METHODS:
        assert (family, method) in own.GRID or (family, method) in own.IMPOSSIBLE


if __name__ == "__main__":
    TABLE.write_text(page(), encoding="utf-8")
