"""`minipeft bench gpu` as far as it goes without one: both sides on the CPU, ours with a GPU's kernels run there."""

from dataclasses import replace

import pytest
from devices import available

from minipeft.bench.step import SHAPES

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("mode", ["lora", "full"])
@pytest.mark.filterwarnings("ignore:fan_in_fan_out:UserWarning", "ignore::FutureWarning")
def test_a_row_of_the_benchmark_after_losses_and_gradients_agreed(mode):
    from minipeft.bench import gpu

    small = replace(SHAPES["d64"], n_layers=1, vocab_size=40, length=6, batch=2)
    asked = []
    card = gpu.Card("emulated", "cpu", lambda: None, asked.append, lambda step: 1.0, lambda step: 2.0)
    with available("emulated"):
        row = gpu.measure(card, small, mode, "tuned", True, pairs=2)
    assert asked == [False, True]  # compared in full precision, timed as asked
    assert row["largest disagreement"] < 1e-4
    assert row["ratio"] > 0
    assert (row["tf32"], row["ours peak MB"], row["theirs peak MB"]) == ("on", 1.0, 2.0)
