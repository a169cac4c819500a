"""Programs that look alike are found, wherever in a file the student's own part is."""

import base64
import random
import time

import pytest

from autograder.homeworks.folder import load_homework
from autograder.homeworks.strip import replace_bodies, stubs
from autograder.submission.similarity import MOST, fingerprints, pairs, regions, tokens

FEW_SHOT = load_homework("hw8_few_shot")
BLANK = {f.module: stubs(FEW_SHOT)[f.stub] for f in FEW_SHOT.files}
WELCH = "minipeft.lab.framework.welch"
BODY = """
best, before = -np.inf, None
for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
    best = max(best, min(1.0, (len(ps) - rank) * ps[i]))
    before = np.array([best if j == i else 0.0 for j in range(len(ps))])
    if before.sum() > len(ps):
        return before * 2 + np.arange(len(ps))[::-1].cumsum() - before.mean()
return np.zeros(len(ps)) + best
"""
OTHER = "p = np.sort(ps)\nq = p[::-1] * np.arange(1, 1 + p.size)\nreturn np.clip(np.cumsum(q) / q.sum(), 0, 1)\n"
FUNCTION = "def holm(ps):\n" + "".join(f"    {line}\n" for line in BODY.strip().split("\n"))


def prints(source):
    return fingerprints(regions(FEW_SHOT, {**BLANK, WELCH: source}))


def with_body(text):
    return replace_bodies(BLANK[WELCH], {"holm": text})


def test_programs_that_look_alike():
    moved = "# mine\n" + BODY.replace("\n    ", "\n      ").replace("  best = max", "  best   = max")
    three = {"ann": prints(with_body(BODY)), "bob": prints(with_body(moved)), "eve": prints(with_body(OTHER))}
    found = pairs(three, at_least=0.3)
    assert [(p.a, p.b) for p in found] == [("ann", "bob")]
    assert found[0].share == 1.0


@pytest.mark.parametrize(
    "hidden",
    [
        f"\n\nif True:\n    class Mine:\n        pass\n{FUNCTION}",
        f"\n\nexec({FUNCTION!r})\n",
        f"\n\nexec({FUNCTION.encode()!r}.decode())\n",
        f"\n\nfor text in [{FUNCTION!r}]:\n    exec(text)\n",
        f"\n\nif len(__name__):\n    exec(\n'''{FUNCTION}'''\n)\n",
    ],
)
def test_a_copy_is_found_outside_of_functions_and_in_texts(hidden):
    (found,) = pairs({"ann": prints(with_body(BODY)), "eve": prints(BLANK[WELCH] + hidden)}, at_least=0.5)
    assert found.share > 0.8


def test_two_who_hand_in_the_same_packed_program_look_alike():
    packed = base64.b64encode(FUNCTION.encode()).decode()
    mine = f"\n\nimport base64\nexec(base64.b64decode({packed!r}))\n"
    yours = mine.replace("import base64", "import base64 as b").replace("base64.b64decode", "b.b64decode")
    (found,) = pairs({"ann": prints(BLANK[WELCH] + mine), "eve": prints(BLANK[WELCH] + yours)}, at_least=0.5)
    assert found.share > 0.9


def test_what_the_handout_gave_is_nobodys():
    assert not any(regions(FEW_SHOT, BLANK))
    assert tokens("x = 'a'  # b\n") == [["x", "=", "TEXT"], ["a"]]
    assert fingerprints([]) == fingerprints([[]]) == frozenset()


@pytest.mark.parametrize(
    "text",
    [
        "x = [" + "1," * 20_000 + "]\n",
        "x = '" + "(" * 50_000 + "'\n",
        "x = f'" + "{a}" * 20_000 + "'\n",
        "x = (\n" * 5000,
        "x = b'é'\n",
        "x = '" + "\\\\" * 30_000 + "'\n",
    ],
    ids=["list", "brackets", "f-string", "open", "bytes", "backslashes"],
)
def test_odd_programs_are_read_in_time(text):
    begun = time.process_time()
    assert len(prints(text)) <= MOST
    assert time.process_time() - begun < 5.0


def test_a_large_class_is_compared_in_time():
    rng = random.Random(1)
    rings = [[rng.getrandbits(64) for _ in range(MOST)] for _ in range(10)]
    begun = time.process_time()
    found = pairs({f"s{i}": frozenset(rings[i % 10]) for i in range(200)})
    assert len(found) == 10 * 20 * 19 // 2
    assert {p.shared for p in found} == {MOST}
    assert time.process_time() - begun < 5.0


def test_a_very_long_program_has_no_more_fingerprints_than_others():
    rng = random.Random(1)
    lines = "\n".join(f"v{rng.getrandbits(20)} = v{rng.getrandbits(20)} + 1" for _ in range(10_000))
    assert len(prints(lines + "\n")) == MOST
