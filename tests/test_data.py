"""Data: order from (seed, epoch) alone, tokenizers that agree with their references, splits that share nothing."""

import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minipeft.data import (
    Batches,
    CharTokenizer,
    LanguageModelBatches,
    WordPiece,
    documentation_text,
    documentation_topics,
    library_source,
    load_digits,
    load_sentiment,
    split_sentiment,
)
from minipeft.data.text import stretches
from minipeft.files import FileError


def test_batches_cover_every_row_once_in_an_order_of_seed_and_epoch():
    data = {"x": np.arange(23), "y": np.arange(23) * 2}
    batches = Batches(data, 5, seed=3)
    epochs = [[b["x"].tolist() for b in batches.epoch(e)] for e in (0, 1, 0)]
    assert epochs[0] == epochs[2] != epochs[1]
    assert sorted(i for b in epochs[1] for i in b) == list(range(23))
    assert [len(b) for b in epochs[0]] == [5, 5, 5, 5, 3]
    assert len(batches) == 5
    assert all(np.array_equal(b["y"], 2 * b["x"]) for b in batches.epoch(4))
    assert len(Batches(data, 5, drop_last=True)) == len(list(Batches(data, 5, drop_last=True).epoch(0))) == 4
    assert next(iter(Batches(data, 5, shuffle=False).epoch(7)))["x"].tolist() == [0, 1, 2, 3, 4]


def test_padding_that_a_batch_does_not_need_is_trimmed():
    mask = np.arange(8) < np.array([[3], [5], [2]])
    batches = Batches({"ids": np.ones((3, 8), int), "mask": mask, "labels": np.arange(3)}, 3, trim="mask")
    (batch,) = batches.epoch(0)
    assert batch["ids"].shape == batch["mask"].shape == (3, 5)
    assert batch["labels"].shape == (3,)


def test_trimming_goes_up_to_the_last_real_token():
    mask = np.array([[0, 0, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0]], bool)  # padded on both sides
    (batch,) = Batches({"ids": np.ones((2, 6), int), "mask": mask}, 2, trim="mask").epoch(0)
    assert batch["ids"].shape == (2, 5)
    assert batch["mask"].sum() == mask.sum()
    (batch,) = Batches({"mask": np.zeros((2, 6), bool)}, 2, trim="mask").epoch(0)
    assert batch["mask"].shape == (2, 0)


@pytest.mark.parametrize(
    ("arrays", "kwargs", "message"),
    [
        ({"a": np.ones(3), "b": np.ones(4)}, {"batch_size": 2}, "one length"),
        ({"a": np.ones(3)}, {"batch_size": 0}, "at least 1"),
        ({"a": np.ones(3)}, {"batch_size": 5, "drop_last": True}, "make no batch of 5"),
        ({"a": np.ones(0)}, {"batch_size": 5}, "make no batch"),
        ({"a": np.ones(3)}, {"batch_size": 1, "trim": "mask"}, "not among"),
        ({"a": np.ones(3, bool)}, {"batch_size": 1, "trim": "a"}, r"must be \(n, T\) bool, got \(3,\) bool"),
        ({"a": np.ones((3, 2))}, {"batch_size": 1, "trim": "a"}, "must be .* float64"),
        ({}, {"batch_size": 1}, "one length"),
    ],
)
def test_batches_that_make_no_sense(arrays, kwargs, message):
    with pytest.raises(ValueError, match=message):
        Batches(arrays, **kwargs)


def test_language_model_labels_follow_their_ids():
    batches = LanguageModelBatches(np.arange(100), 4, 7, seed=1)
    seen = [b for e in (0, 1, 0) for b in batches.epoch(e)]
    for b in seen:
        assert b["ids"].shape == (4, 7)
        assert np.array_equal(b["labels"], b["ids"] + 1)
    n = len(batches)
    assert n == 3
    assert np.array_equal(seen[0]["ids"], seen[2 * n]["ids"])
    assert not np.array_equal(seen[0]["ids"], seen[n]["ids"])
    with pytest.raises(ValueError, match="no window"):
        LanguageModelBatches(np.arange(7), 4, 7)
    for sizes in ((0, 7), (4, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            LanguageModelBatches(np.arange(100), *sizes)


def test_every_window_of_a_text_can_be_drawn():
    batches = LanguageModelBatches(np.arange(9), 64, 7, seed=2)
    assert {row[0] for b in batches.epoch(0) for row in b["ids"].tolist()} == {0, 1}


def test_the_digits_are_the_digits():
    images, labels = load_digits()
    assert images.shape == (1797, 8, 8)
    assert images.dtype == np.float32
    np.testing.assert_array_equal([images.min(), images.max()], [0.0, 1.0])
    assert np.bincount(labels).min() >= 174


def test_missing_scikit_learn_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r'-e "\.\[lab\]"'):
        load_digits()


def test_the_documentation_is_long_and_always_the_same():
    text = documentation_text()
    assert len(text) > 300_000
    assert text == documentation_text()
    topics = documentation_topics()
    assert list(topics) == sorted(topics)
    assert text == "\n".join(topics.values())
    assert "lambda" in text
    assert len(library_source()) > 300_000
    assert "def __init__(self" in library_source()


def test_the_parts_of_a_text_share_nothing():
    ids = np.arange(25 * 4096 + 7)
    parts = stretches(ids)
    assert {name: x.shape for name, x in parts.items()} == {"train": (21, 4096), "val": (2, 4096), "test": (2, 4096)}
    together = np.concatenate([x.reshape(-1) for x in parts.values()])
    np.testing.assert_array_equal(np.sort(together), ids[: 25 * 4096])
    assert (parts["val"][0, 0], parts["test"][0, 0]) == (8 * 4096, 9 * 4096)


@given(st.text(alphabet="abcdefgh \n", max_size=40))
def test_known_characters_round_trip(text):
    tokenizer = CharTokenizer("abcdefgh \n")
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 < i < tokenizer.vocab_size for i in ids)


def test_unknown_characters_become_one_and_the_vocabulary_is_saved(tmp_path):
    tokenizer = CharTokenizer.from_text("ä" * 30 + "ß")
    assert tokenizer.decode(tokenizer.encode("aäß")) == "aä\ufffd"
    tokenizer.save(tmp_path / "v.json")
    again = CharTokenizer.load(tmp_path / "v.json")
    assert again.characters == tokenizer.characters
    (tmp_path / "v.json").write_text("{}")
    with pytest.raises(FileError, match="characters"):
        CharTokenizer.load(tmp_path / "v.json")
    for odd in (10_000, -1, -100):
        with pytest.raises(IndexError, match=f"the id {odd} is not in the vocabulary"):
            tokenizer.decode([0, odd])
    CharTokenizer.from_text("\ud800")  # half of a pair, as badly decoded files hold them: one more unknown character


VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##aff", "##able", "runn", "##ing", ",", "resume", "!", "\u4f60"]


def test_the_longest_known_pieces_are_taken():
    tokenizer = WordPiece(VOCAB)

    def pieces(text):
        return [VOCAB[i] for i in tokenizer.encode(text)[1:-1]]

    assert pieces("UNaffable, running!") == ["un", "##aff", "##able", ",", "runn", "##ing", "!"]
    assert pieces("r\u00e9sum\u00e9 un\u0000\u200bun") == ["resume", "[UNK]"]
    assert pieces("unx \u4f60\u4f60") == ["[UNK]", "\u4f60", "\u4f60"]
    assert pieces("a" * 101) == ["[UNK]"]
    assert pieces(" \t\n") == []


def test_a_sigma_is_the_same_at_the_end_of_a_word():
    tokenizer = WordPiece([*VOCAB, "\u03c3", "##\u03c3"])
    assert tokenizer.encode("\u03a3\u03a3") == [2, len(VOCAB), len(VOCAB) + 1, 3]


def test_special_tokens_in_a_text_stand_for_themselves():
    tokenizer = WordPiece([*VOCAB, "[MASK]"])
    assert tokenizer.encode("un[MASK], [SEP]") == [2, 4, len(VOCAB), 9, 3, 3]
    assert tokenizer.encode("[mask]") == [2, 1, 1, 1, 3]
    assert WordPiece(VOCAB).encode("[MASK]") == [2, 1, 1, 1, 3]  # a vocabulary without it


def test_a_batch_is_padded_on_the_right_and_cut():
    tokenizer = WordPiece(VOCAB)
    ids, mask = tokenizer.batch(["unaffable!", "un", ""], max_length=5)
    assert ids.tolist() == [[2, 4, 5, 6, 3], [2, 4, 3, 0, 0], [2, 3, 0, 0, 0]]
    assert mask.sum(1).tolist() == [5, 3, 2]
    assert tokenizer.batch([])[0].shape == (0, 0)
    with pytest.raises(ValueError, match="room for"):
        tokenizer.encode("un", max_length=1)


def test_a_file_that_is_no_vocabulary(tmp_path):
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(FileError, match=r"lacks \[PAD\]"):
        WordPiece.from_file(tmp_path / "vocab.txt")
    (tmp_path / "odd.txt").write_text("\n".join([*VOCAB, "\u2028", "last"]) + "\n", encoding="utf-8")
    assert WordPiece.from_file(tmp_path / "odd.txt").ids["last"] == len(VOCAB) + 1  # a separator is a piece, no line
    with pytest.raises(FileError, match="No such file"):
        WordPiece.from_file(tmp_path / "none.txt")


@pytest.mark.network
def test_the_sentences_and_their_splits(sentences):
    data = load_sentiment()
    for texts, labels in data.values():
        assert len(texts) == len(labels) == 1000
        assert labels.sum() == 500
    texts, labels = split_sentiment(data, seed=1)
    plain = {n: {"".join(c for c in t.lower() if c.isalnum()) for t in texts[n]} for n in texts}
    assert sum(map(len, plain.values())) == len(set().union(*plain.values()))
    for n in texts:
        assert len(texts[n]) == len(labels[n])
        assert labels[n].mean() == pytest.approx(0.5, abs=0.01)
    assert split_sentiment(data, seed=1)[0] == texts
    assert split_sentiment(data, seed=2)[0] != texts
    with pytest.raises(ValueError, match="sum to 1"):
        split_sentiment(data, parts=(0.5, 0.1, 0.1))


def test_sentences_that_were_not_fetched_say_how(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIPEFT_CACHE", str(tmp_path))
    with pytest.raises(FileError, match="minipeft fetch sentiment"):
        load_sentiment()
    (tmp_path / "sentiment").mkdir()
    with pytest.raises(FileError, match=r"imdb\.json.*No such file.*remove .* and run `minipeft fetch sentiment`"):
        load_sentiment()
    (tmp_path / "sentiment" / "imdb.json").write_text("[{")
    with pytest.raises(FileError, match=r"imdb\.json"):
        load_sentiment()


@pytest.mark.parity
@pytest.mark.network
def test_token_ids_equal_those_of_transformers(minilm, sentences, rng):
    from transformers import BertTokenizer

    ours, theirs = WordPiece.from_file(minilm / "vocab.txt"), BertTokenizer(str(minilm / "vocab.txt"))
    texts = [t for source in load_sentiment().values() for t in source[0]] + documentation_text().split("\n")[::10]
    texts += [
        "H\u00e9llo, w\u00f6rld! \u4f60\u597d don't x\u0000y na\u00efve\u2014\u201cquotes\u201d $5 co-op \U0001f600 "
        + "a" * 120,
        "\u039f\u0394\u039f\u03a3 \u03a3, \u0130stanbul \u1e9e [MASK]. [SEP]x[sep] [CLS][PAD] [UNK]",
    ]
    # characters that both sides' Unicode tables know: those of Unicode 3.2, but for four that were reclassified since
    known = [c for c in map(chr, range(0x30000)) if unicodedata.ucd_3_2_0.category(c) not in ("Cn", "Co", "Cs")]
    known = sorted(set(known) - set("\u166d\u1734\u1885\u1886"))
    texts += [f"a{c}b {c}" for c in known[::29]]
    texts += ["".join(rng.choice([*known, *"abcdeABC ,.[]"], rng.integers(30))) for _ in range(500)]
    assert [ours.encode(t) for t in texts] == theirs(texts)["input_ids"]
    assert [ours.encode(t, 12) for t in texts] == theirs(texts, truncation=True, max_length=12)["input_ids"]
    ids, mask = ours.batch(texts[:50], 32)
    batch = theirs(texts[:50], truncation=True, max_length=32, padding=True, return_tensors="np")
    assert np.array_equal(ids, batch["input_ids"])
    assert np.array_equal(mask, batch["attention_mask"].astype(bool))
