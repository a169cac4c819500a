"""GGUF files, the byte pairs inside of them, and the novels of an R package."""

import struct
import zlib

import numpy as np
import pytest
from test_fields import error_of
from tiny_gguf import f32, gguf_bytes, small_llama, string, write_llama

from minipeft.data import BytePairs, load_austen
from minipeft.data.bpe import TOKENIZERS, words
from minipeft.files import FileError, read_gguf
from minipeft.models import DecoderLM
from minipeft.nn.module import Module


@pytest.fixture
def model():
    return small_llama()


@pytest.fixture
def llama(model, tmp_path):
    return write_llama(model, tmp_path / "llama.gguf")


def test_a_llama_out_of_gguf_is_the_model_that_went_in(model, llama):
    loaded = DecoderLM.from_pretrained(llama)
    assert isinstance(loaded, Module)
    assert loaded.config.tied
    theirs = loaded.state_dict()
    for name, x in model.state_dict().items():
        assert np.array_equal(x, theirs[name]), name


def halves(x):
    return np.array(x, "<f2")


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_blocks_are_dequantized_as_a_loop_does(kind, tmp_path):
    rng = np.random.default_rng(5)
    rows, raw = [], b""
    for _ in range(6):
        d, m = halves(rng.normal()), halves(rng.normal())
        if kind == "Q8_0":
            q = rng.integers(-128, 128, 32).astype(np.int8)
            raw += d.tobytes() + q.tobytes()
            rows.append([float(d) * int(v) for v in q])
            continue
        packed = rng.integers(0, 256, 16).astype(np.uint8)
        q = [int(b) & 15 for b in packed] + [int(b) >> 4 for b in packed]
        raw += d.tobytes() + (m.tobytes() if kind == "Q4_1" else b"") + packed.tobytes()
        rows.append([float(d) * v + float(m) if kind == "Q4_1" else float(d) * (v - 8) for v in q])
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf_bytes({}, {"x": (kind, (3, 64), raw)}))
    got = read_gguf(path).array("x")
    assert got.dtype == np.float32
    assert got.shape == (3, 64)
    np.testing.assert_allclose(got, np.array(rows).reshape(3, 64), rtol=1e-6, atol=1e-6)


def test_half_precision_is_read_exactly(tmp_path):
    x = np.array([[1.5, -2.25, 0.0], [3.0, 1024.0, -0.125]], np.float32)
    upper = (x.view("<u4") >> 16).astype("<u2")
    path = tmp_path / "x.gguf"
    path.write_bytes(
        gguf_bytes({}, {"h": ("F16", x.shape, x.astype("<f2").tobytes()), "b": ("BF16", x.shape, upper.tobytes())})
    )
    file = read_gguf(path)
    assert np.array_equal(file.array("h"), x)
    assert np.array_equal(file.array("b"), x)


BROKEN = {
    "another kind": (lambda raw: b"GGML" + raw[4:], "does not begin as one"),
    "empty": (lambda raw: b"", "does not begin as one"),
    "version 1": (lambda raw: raw[:4] + struct.pack("<I", 1) + raw[8:], "version 1"),
    "2^60 tensors": (lambda raw: raw[:8] + struct.pack("<Q", 2**60) + raw[16:], "do not fit"),
    "2^60 metadata": (lambda raw: raw[:16] + struct.pack("<Q", 2**60) + raw[24:], "do not fit"),
    "a key of 2^63 bytes": (lambda raw: raw[:24] + struct.pack("<Q", 2**63) + raw[32:], "do not fit"),
    "cut in the data": (lambda raw: raw[:-1], "truncated"),
    "cut in the header": (lambda raw: raw[:200], "truncated|do not fit"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_gguf_file_is_one_clear_error(case, llama):
    change, message = BROKEN[case]
    llama.write_bytes(change(llama.read_bytes()))
    with pytest.raises(FileError, match=message):
        read_gguf(llama)


def test_tensors_that_overlap_or_have_odd_types_are_refused(tmp_path):
    path = tmp_path / "x.gguf"
    x = np.ones((4, 32), np.float32)
    good = gguf_bytes({}, {"a": f32(x), "b": f32(x)})
    at = good.index(string("b")) + len(string("b")) + 4 + 16 + 4
    path.write_bytes(good[:at] + struct.pack("<Q", 0) + good[at + 8 :])
    with pytest.raises(FileError, match="inside another's"):
        read_gguf(path)
    path.write_bytes(good[: at - 4] + struct.pack("<I", 12) + good[at:])
    with pytest.raises(FileError, match="tensor type Q4_K"):
        read_gguf(path)
    path.write_bytes(gguf_bytes({}, {"a": ("Q4_1", (4, 33), b"")}))
    with pytest.raises(FileError, match="cannot hold"):
        read_gguf(path)


def test_another_architecture_or_a_missing_tensor_is_named(llama, tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf_bytes({"general.architecture": "mamba"}, {}))
    with pytest.raises(FileError, match="'mamba'"):
        DecoderLM.from_pretrained(path)
    path.write_bytes(llama.read_bytes().replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_ub.weight"))
    with pytest.raises(FileError, match=r"missing|no place"):
        DecoderLM.from_pretrained(path)
    with pytest.raises(FileError, match=r"no such file|expected a folder"):
        DecoderLM.from_pretrained(tmp_path / "none.gguf")


def test_random_mutations_of_a_gguf_file_raise_nothing_but_our_error(llama):
    rng = np.random.default_rng(11)
    good = llama.read_bytes()
    header = good.index(b"blk.1.attn_q") + 400
    refused = 0
    for _ in range(400):
        raw = bytearray(good)
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(0, header))
            kind = rng.integers(0, 3)
            if kind == 0:
                raw[at] = int(rng.integers(0, 256))
            elif kind == 1:
                del raw[at : at + int(rng.integers(1, 9))]
            else:
                raw[at:at] = rng.bytes(int(rng.integers(1, 9)))
        llama.write_bytes(raw)
        try:
            file = read_gguf(llama)
            for name in file.entries:
                file.array(name)
            BytePairs.from_gguf(llama)
        except FileError:
            refused += 1
    assert 200 < refused < 400


def test_byte_pairs_merge_the_earliest_pair_first_and_come_back(llama):
    t = BytePairs.from_gguf(llama)
    assert [t.tokens[i] for i in t.encode("hello hello hel")] == ["hello", "Ġhello", "Ġ", "he", "l"]
    for text in ("naïve café 😀\n\t x", "  two  spaces ", "\x00\x7f\xa0"):
        assert t.decode(t.encode(text)) == text
    assert t.encode("<|im_end|>") == [2]
    assert len(t.encode("<|im_end|>", special=False)) > 1
    assert t.decode([2]) == ""
    assert t.decode([2], special=True) == "<|im_end|>"
    assert t.eos == 2
    with pytest.raises(ValueError, match="no token id"):
        t.decode([len(t.tokens)])
    with pytest.raises(ValueError, match="no chat template"):
        t.chat([])


WRONG = [True, False, 0, 7, 2**31, 2.5, "x", "", "smollm", np.array([1, 2]), np.array([]), ["a"], [], ["a b"]]


@pytest.mark.parametrize("key", [*TOKENIZERS, "tokens", "merges", "token_type", "unknown_token_id", "eos_token_id"])
def test_no_value_of_a_key_of_the_tokenizer_raises_anything_but_an_error_that_names_it(key, model, tmp_path):
    refused = 0
    for value in WRONG:
        path = write_llama(model, tmp_path / "llama.gguf", {f"tokenizer.ggml.{key}": value})
        error = error_of(lambda: BytePairs.from_gguf(path).encode("hello <|im_end|>"))
        refused += error is not None
        named = key if key != "tokens" else "tokenizer.ggml."  # the other keys are held against the tokens
        assert error is None or named in error, f"{key} = {value!r}: {error}"
    assert refused > 8


def test_a_chat_template_that_is_not_text_is_refused(model, tmp_path):
    path = write_llama(model, tmp_path / "llama.gguf", {"tokenizer.chat_template": 3})
    with pytest.raises(FileError, match=r"tokenizer\.chat_template must be text, got 3"):
        BytePairs.from_gguf(path)


def test_words_are_cut_as_gpt2_cuts_them():
    assert list(words("it's 12 a  b\n\n c")) == ["it", "'s", " 12", " a", " ", " b", "\n\n", " c"]
    assert list(words("it's 12 a", digits_alone=True)) == ["it", "'s", " ", "1", "2", " a"]
    assert list(words("x_y ½.")) == ["x", "_", "y", " ½", "."]
    assert list(words("")) == []


def test_a_merge_that_makes_no_token_is_refused():
    with pytest.raises(ValueError, match="makes no token"):
        BytePairs(["a", "b"], ["a b"])


def r_object(lines):
    out = b"X\n" + struct.pack(">IIII", 3, 0x40201, 0x30500, 5) + b"UTF-8" + struct.pack(">II", 16, len(lines))
    for line in lines:
        raw = line.encode()
        out += struct.pack(">Ii", 0x40009, len(raw)) + raw
    return out


def packed(objects):
    return b"".join(struct.pack(">I", len(o)) + zlib.compress(o) for o in objects)


def test_the_novels_come_out_of_rs_format(tmp_path):
    (tmp_path / "Rdata.rdb").write_bytes(packed(r_object([f"Title {i}", "", "“It is…”"]) for i in range(6)))
    novels = load_austen(tmp_path)
    assert len(novels) == 6
    assert novels["persuasion"] == "Title 3\n\n“It is…”"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"abc",
        packed([r_object(["x"])] * 5),
        packed([r_object(["x"])] * 6)[:-3],
        packed([b"X\n" + b"\0" * 40] * 6),
        packed([r_object(["x"])[:-1]] * 6),
        struct.pack(">I", 2**31) + zlib.compress(b"x"),
    ],
    ids=["empty", "short", "five", "cut", "no strings", "cut string", "too large"],
)
def test_a_damaged_database_is_one_clear_error(raw, tmp_path):
    (tmp_path / "Rdata.rdb").write_bytes(raw)
    with pytest.raises(FileError, match=r"six novels|expected 6 novels"):
        load_austen(tmp_path)
