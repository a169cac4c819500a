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
TIED = {
    **{"gpt2": "decoder, GPT-2", "tied llama": "decoder, Llama", "masked lm": "masked LM, BERT"},
    "bart": "encoder-decoder, BART",
}
CONSTANT = "the bias of BART's head is a constant at Hugging Face: what was trained there loads here and goes back"
REASONS = {
    ("llama", "BitFit"): "a Llama has no bias",
    ("bert", "prompt"): "Hugging Face's classifier reads the first row, which is then the prompt's",
    **{("vit", m): "Hugging Face has prompts and prefixes only for text" for m in parity.PROMPTS},
    **{("masked lm", m): "Hugging Face has no prompts or prefixes for a masked LM" for m in parity.PROMPTS},
    **{("bart", m): CONSTANT for m in ("LoRA with all biases", "LoRA and the whole head", "LoRA and both")},
}
BEFORE = """# Methods and models

Every cell is a set of tests that pass. **✓**: the gradient of all that is trained, against central differences in
float64; three steps of training leave every frozen tensor as it was, to the bit; disabling and unloading give the
base's outputs, to the bit; what is saved is what was trained, and loads to the same bits; the same on a stand-in for a
GPU, without a synchronization. **HF**: saved here, Hugging Face PEFT 0.21.2 loads it with the same logits (1e-5), and
what it saves loads here. If a cell says less, the reason is given below.

    pytest tests/test_peft.py                           # ✓
    pytest -m parity tests/parity -k "peft or tied"     # HF, with the extra [parity]
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


def tied_cell(family, method, notes):
    return "HF" if (family, method) in parity.GRID else f"–{notes(REASONS[family, method])}"


def table(first, columns, rows):
    lines = [f"| {first} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    return "\n".join([*lines, *(f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows)])


def page():
    reasons = []

    def notes(reason):
        if reason not in reasons:
            reasons.append(reason)
        return f" ({reasons.index(reason) + 1})"

    own_table = table(
        "method",
        [heading for heading, _ in COLUMNS.values()],
        [(m, [cell(f, m, notes) for f in COLUMNS]) for m in own.METHODS],
    )
    tied_table = table("method", TIED.values(), [(m, [tied_cell(f, m, notes) for f in TIED]) for m in parity.METHODS])
    parts = [
        BEFORE + own_table,
        "FacT cuts matrices into blocks of d × d, so every family has it on W_q and W_o; on all matrices of a layer "
        "whose feed-forward is a multiple of d wide it is tested on GPT-2 and the ViT.",
        'On BART, Hugging Face has a prompt only before the source (`sides=["encoder"]`) and a prefix only before the '
        'target (`sides=["decoder"]`); minipeft also has both, and prefixes in the attention from target to source. '
        "The other methods have no form at Hugging Face, or another one, and are saved only in our own files.",
        "## Tied weights",
        "If the head is the token embedding (GPT-2, many Llamas, BERT's masked LM, BART), an adapter of one of the two "
        "changes only that one. `modules_to_save` gives the named module its own copy, and the other one keeps the "
        "base's weight, as in PEFT. Each cell was trained with all its tensors changed and compared both ways.",
        tied_table,
        "PEFT itself warns of such adapters, and for a reason: its `merge_and_unload` of a LoRA on a tied weight adds "
        "the change to the shared tensor, so that both places move, by 3 to 60 in the logits of these models. Merging "
        "here unties the two, saves both, and sets `tied` to false in config.json; the merged model computes what the "
        "adapter did, and so does transformers with `tie_word_embeddings=False`. Adapters that PEFT made with "
        "`ensure_weight_tying=True` hold the tensors of every tied module and are read; `trainable_token_indices` is "
        "refused. A copy of BART's `shared` changes nothing there, and is ignored here with a warning.",
        *(f"({i}) {reason}." for i, reason in enumerate(reasons, 1)),
    ]
    return "\n\n".join(parts) + "\n"


def test_the_table_is_that_of_the_tests():
    assert TABLE.read_text(encoding="utf-8") == page(), "run `python tests/test_method_table.py`"


@pytest.mark.parametrize("family", COLUMNS)
def test_every_method_has_a_cell_in_every_family(family):
    for method in own.METHODS:
        assert (family, method) in own.GRID or (family, method) in own.IMPOSSIBLE


if __name__ == "__main__":
    TABLE.write_text(page(), encoding="utf-8")
