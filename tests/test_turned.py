import numpy as np
import pytest

import minipeft as mp
from minipeft.lab.teach.turned import N_TRAIN, VIEWS, TurnedDigits, view

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def digits():
    return TurnedDigits(epochs=2)


def test_the_base_reads_what_it_was_pretrained_on_and_not_the_turned_digits(digits):
    base = digits.base()
    assert digits.accuracy(base, "upright") > digits.accuracy(base, "turned") + 0.2


def test_training_a_copy_leaves_the_base_as_it_was_to_the_bit(digits):
    before = {name: x.copy() for name, x in digits.base().state_dict().items()}
    model = digits.train(mp.peft.LoraConfig(r=2, modules_to_save=[]), lr=3e-2, n=2, steps=3)
    assert any(np.any(p.data) for name, p in model.trained().items() if name.endswith("lora_B"))
    after = digits.base().state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_training_everything_trains_everything(digits):
    model = digits.train(None, lr=1e-3, n=2, steps=2)
    old = digits.base().state_dict()
    assert all(not np.array_equal(x, old[name]) for name, x in model.state_dict().items() if x.ndim == 2)


def test_few_are_so_many_of_each_digit_and_none_of_the_test(digits):
    batch = next(iter(digits.few(3, "upright").epoch(0)))
    assert np.bincount(batch["labels"], minlength=10).tolist() == [3] * 10
    test = {x.tobytes() for x in digits.images[N_TRAIN:]}
    train = {x.tobytes() for x in digits.images[:N_TRAIN]}
    assert all(x.tobytes() in train for x in batch["images"])
    assert all(x.tobytes() not in test - train for x in batch["images"])


def test_views_are_the_same_pixels_elsewhere():
    images = np.arange(32.0).reshape(2, 4, 4)
    assert np.array_equal(view(view(view(view(images, "turned"), "turned"), "turned"), "turned"), images)
    assert np.array_equal(view(images, "turned")[0, 0], images[0, :, -1])
    assert np.array_equal(view(images, "mirrored")[0, 0], images[0, 0, ::-1])
    with pytest.raises(ValueError, match=f"expected one of {', '.join(VIEWS)}, got 'upside down'"):
        view(images, "upside down")
