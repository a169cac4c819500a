"""The trusted side of the worker: what comes back for programs that are right, wrong, stuck, dead or hostile."""

import math
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import minipeft as mp
from autograder.grading.check import Raised
from autograder.grading.reference import drawn
from autograder.grading.trusted import described
from autograder.homeworks.folder import load_homework
from autograder.homeworks.strip import body_span, functions, handout, replace_bodies, source_path, stubs
from autograder.sandbox import process, workspace
from autograder.sandbox.frames import LONGEST_MESSAGE, encode
from autograder.sandbox.session import Session, Stalled

HOMEWORK = load_homework("hw6_lora")
MODULE = "minipeft.peft.lora"
FORWARD = "LoRALinear.forward"


def written(body, header=""):
    """The reference with another body of LoRALinear.forward, and lines at its end."""
    source = source_path(MODULE).read_text("utf-8")
    return {MODULE: (replace_bodies(source, {FORWARD: body}) if body else source) + header}


def body_of(source, name):
    """The lines of a function's body."""
    start, end = body_span(functions(source)[name])
    return "\n".join(source.split("\n")[start:end])


@pytest.fixture(scope="module")
def forward():
    return list(drawn("hw6_lora", "6.1", "a test")[:2])


@pytest.fixture(scope="module")
def session():
    with Session(handout(HOMEWORK)) as made:
        yield made
    assert not made.folder.exists()


@pytest.fixture
def run(session, forward):
    return lambda body, header="": session.run(written(body, header), forward)


def test_the_library_itself_returns_the_reference(run, forward):
    for (case, right), got in zip(forward, run(""), strict=True):
        assert set(got) == set(case.checks)
        np.testing.assert_allclose(got["z"], right["z"], rtol=1e-13)  # on some processors the last bit differs


def test_the_worker_sees_the_library_without_the_answers(session):
    for file in session.library.rglob("lora.py"):
        if "peft" in file.parts:
            assert 'raise NotImplementedError("hw6.1: LoRALinear.forward")' in file.read_text("utf-8")
    there = {p.relative_to(session.library).as_posix() for p in session.library.rglob("*.py")}
    staff = ("case", "mutant", "variant", "strip", "check", "reference", "library")
    assert not {p for p in there if p.startswith("autograder") and Path(p).stem.startswith(staff)}
    assert not [p for p in there if p.startswith(("autograder/homeworks", "autograder/grading"))]


def test_an_exception_comes_with_the_line_in_the_students_file(run):
    got = run('raise ValueError("no")')[0]
    line = written('raise ValueError("no")')[MODULE].split("\n").index('        raise ValueError("no")') + 1
    assert got == Raised("raised", "ValueError", "no", "lora.py", line)


def test_a_file_that_cannot_be_imported_is_named_for_every_case(run):
    results = run("", "\nnothing\n")
    assert [(r.error, r.file) for r in results] == [("NameError", "lora.py")] * 2
    assert results[0].line == written("", "\nnothing\n")[MODULE].count("\n")


@pytest.mark.parametrize("how", ["raise SystemExit(0)", "raise KeyboardInterrupt", "raise GeneratorExit"])
def test_leaving_early_is_an_exception_like_any_other(run, how):
    assert [r.kind for r in run(how)] == ["raised", "raised"]


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("import os; os._exit(0)", "ended before it answered", "exit status 0"),
        ("import ctypes; ctypes.string_at(0)", "crashed (SIGSEGV)", ""),
        ("import os; os.kill(os.getpid(), 9)", "crashed (SIGKILL)", ""),
        ("import os; os.closerange(3, 100)", "", ""),
    ],
)
def test_a_crash_costs_its_own_case_and_the_next_gets_a_new_worker(run, body, error, message):
    results = run(f"if x.ndim == 2:\n    {body}\nreturn x @ weight.T + bias")
    assert results[0].kind == "crash"
    assert results[0].error.startswith(error)
    assert message in results[0].message
    assert results[1]["z"].ndim == 3


def test_a_loop_without_end_is_stopped_by_its_processor_time(session, forward):
    quick = [(replace(case, seconds=0.3), right) for case, right in [*forward, *forward, *forward]]
    results = session.run(written("while True: pass"), quick)
    assert [r.kind for r in results] == ["timeout"] * 6
    assert [r.error for r in results] == ["ran out of time"] * 3 + ["not run"] * 3
    assert "0.3 s of processor time" in results[0].message


def test_a_program_that_waits_is_stopped_too(session, forward, monkeypatch):
    monkeypatch.setattr(process, "IDLE_SECONDS", 0.5)
    start = time.monotonic()
    (got,) = session.run(written("import time; time.sleep(1e6)"), forward[:1])
    assert got.message == "it waits for something that does not come"
    assert time.monotonic() - start < 30


def test_a_program_that_stops_itself_is_stopped(session, forward, monkeypatch):
    monkeypatch.setattr(process, "IDLE_SECONDS", 0.5)
    (got,) = session.run(written("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"), forward[:1])
    assert got.kind == "timeout"


def test_without_cpu_time_the_clock_stops_a_loop(session, forward, monkeypatch):
    monkeypatch.setattr(process, "usage", lambda pid: None)  # as on Windows and macOS
    monkeypatch.setattr(process, "IDLE_SECONDS", 0.1)
    (got,) = session.run(written("while True: pass"), [(replace(forward[0][0], seconds=0.3), forward[0][1])])
    assert (got.kind, got.message) == ("timeout", "more than 1 s")


def test_what_is_printed_without_a_flush_is_kept(forward):
    with Session(handout(HOMEWORK)) as made:
        made.run(written('print("kept"); import os; os._exit(0)'), forward[:1])
        assert made.log == "kept\n"


def test_what_it_prints_is_kept_apart_and_cut(session, forward):
    body = 'print("PASSED" * 100000, flush=True); import sys; sys.stderr.write("warned"); return x @ weight.T'
    with Session(handout(HOMEWORK)) as made:
        results = made.run(written(body), forward)
        assert all("z" in r for r in results)
        assert made.log.startswith("PASSEDPASSED")
        assert len(made.log) <= process.LOG_LIMIT


FRAME = """
import os, sys
def forge(data):
    frame = sys._getframe()
    while not hasattr(frame.f_locals.get("self"), "replies"):
        frame = frame.f_back
    os.write(frame.f_locals["self"].replies, data)
"""


@pytest.mark.parametrize(
    "forged",
    ["b'x' * 100", "encode({'done': True})", "encode([1])", "encode({'done': True, 'text': '[[1,', 'arrays': []})"],
)
def test_forged_answers_are_no_answers(run, forged):
    got = run(f"from autograder.sandbox.frames import encode; forge({forged}); import time; time.sleep(100)", FRAME)[0]
    assert got.error in ("broke the protocol", "ProtocolError")


def test_a_second_answer_is_refused(session, forward):
    body = "from autograder.sandbox.frames import encode; f = encode({'done': True}); forge(f + f); return x"
    got = session.run(written(body, FRAME), forward)
    assert got[0].kind == "crash"


def test_the_name_of_an_exception_cannot_carry_a_text(run):
    got = run('raise type("<script>\\u202e" + "x" * 200, (Exception,), {})("\\x1b[31m")')[0]
    assert got.error == "an exception"


LONG = """
import sys
def long(error, files):
    return {"type": "ValueError", "class": "", "message": "x" * 200_000, "module": "", "line": 0}
sys.modules["autograder.sandbox.child"].raised = long
"""


def test_a_message_of_a_worker_is_cut():
    case = drawn("hw6_lora", "6.1", "a test")[:1]
    with Session(handout(HOMEWORK)) as made:
        assert made.run(written("raise ValueError", LONG), case)[0].message == "x" * LONGEST_MESSAGE


def test_what_a_submission_says_of_an_exception_is_bounded():
    error = ValueError("x")
    for value in ("\U0001f600" * 10**5, 10**5000, [["x"]] * 10**4, None, {"a": "b" * 10**5}):
        error.said = dict.fromkeys(("type", "class", "message", "module", "line", "more"), value)
        assert len(encode(described(error))) < 50_000


ENLARGED = """
import gc, minipeft
import numpy as np
remote = next(o for o in gc.get_objects() if type(o).__name__ == "Remote")
x, A = np.broadcast_to(0.0, (10**4, 10**3)), np.ones((1, 10**3))
args = (minipeft.Context(*[True] * 6), x, np.ones((500, 10**3)), None, A, np.ones((500, 1)), 1.0)
remote.ask({"call": "minipeft.peft.lora:LoRALinear.forward"}, args)
"""


def test_an_answer_to_a_submission_has_a_largest_size():
    case = next(one for one in drawn("hw6_lora", "6.2", "a test") if "dz" in one[0].arrays)
    source = replace_bodies(source_path(MODULE).read_text("utf-8"), {"LoRALinear.backward": f"exec({ENLARGED!r})"})
    with Session(handout(HOMEWORK)) as made:
        (got,) = made.run({MODULE: source}, [case], [f"{MODULE}:{FORWARD}"])
    assert got.error == "TooLarge"


def test_a_huge_answer_is_an_error_of_its_own(run):
    got = run("import numpy as np; return np.broadcast_to(x[:1, :1], (10**6, 10**6)) if x.ndim == 2 else x")[0]
    assert (got.kind, got.error) == ("raised", "TooLarge")


def test_after_the_deadline_nothing_is_run(forward):
    with Session(handout(HOMEWORK), deadline=0.0) as made:
        assert [r.error for r in made.run(written(""), forward)] == ["not run", "not run"]


def test_a_deadline_that_a_slow_machine_misses_costs_no_points(forward):
    with Session(handout(HOMEWORK), deadline=60.0) as made:
        made.run(written("return x @ weight.T + bias"), forward)
        made.until = time.monotonic()  # the machine did something else all the time
        with pytest.raises(Stalled, match=r"after 60 s the submission had used \d\.\d s, and cases were left"):
            made.run(written("return x @ weight.T + bias"), forward)


@pytest.mark.parametrize("body", ["import time; time.sleep(60)", "while True: pass"])
def test_a_deadline_that_a_submission_uses_up_costs_its_points(forward, body):
    with Session(handout(HOMEWORK), deadline=1.0) as made:
        made.until = math.inf
        made.run(written(""), forward)  # starts the trusted worker
        made.until = time.monotonic() + 3.0
        results = made.run(written(body), [(replace(case, seconds=60.0), right) for case, right in forward])
        assert [r.error for r in results] == ["ran out of time", "not run"]
        assert made.used_up


def test_children_of_a_worker_end_with_it(forward, tmp_path):
    note = tmp_path / "pid"
    body = 'import subprocess; p = subprocess.Popen(["sleep", "1000"]); '
    body += f'open({str(note)!r}, "w").write(str(p.pid)); return x'
    with Session(handout(HOMEWORK)) as made:
        made.run(written(body), forward[:1])
    pid = int(note.read_text())
    for _ in range(100):
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the child is still alive")


def test_its_environment_holds_nothing_of_ours(session, forward, monkeypatch):
    monkeypatch.setenv("SECRET_SEED", "1234")
    body = 'import os; raise ValueError(" ".join(sorted(os.environ)))'
    (got,) = session.run(written(body), forward[:1])
    assert set(got.message.split()) <= {
        "HOME",
        "LC_ALL",
        "MKL_NUM_THREADS",
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "PATH",
        "TMPDIR",
    }


def test_what_a_killed_grader_left_is_removed_and_what_another_uses_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Session(handout(HOMEWORK)) as other:
        left = tmp_path / f"{workspace.PREFIX}left"
        (left / "worker-1").mkdir(parents=True)
        (left / "lock").touch()
        unlocked, young = (tmp_path / f"{workspace.PREFIX}{name}" for name in ("unlocked", "young"))
        unlocked.mkdir()
        young.mkdir()  # it has no lock yet: whoever made it may be about to lock it
        for folder in (unlocked, other.folder):
            os.utime(folder, (0, 0))
        workspace.remove_stale()
        assert not left.exists()
        assert not unlocked.exists()
        assert young.exists()
        assert other.folder.exists()


needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux limits a process's memory")
THIN = "H = x @ lora_A.T\nctx.save(x, weight, lora_A, lora_B, H)\nz = x @ weight.T + scale * (H @ lora_B.T)\n"
DENSE = "ctx.save(x, weight, lora_A, lora_B, x)\nz = x @ (weight + scale * (lora_B @ lora_A)).T\n"
POOLED = "np.matmul(lora_B, lora_A, out=POOL)\nPOOL *= scale\nPOOL += weight\nz = x @ POOL.T\n"


@needs_linux
@pytest.mark.parametrize(("body", "right"), [(THIN, True), (DENSE, False), (POOLED, False)])
def test_the_kernel_says_whether_an_array_as_large_as_the_weight_was_made(body, right):
    from autograder.sandbox.parent_limits import Confinement

    little = [(case, z) for case, z in drawn("hw6_lora", "6.1", "a test") if case.memory]
    assert len(little) == 1
    header = "\nPOOL = np.empty((1600, 1500))\n" if body == POOLED else ""
    source = written(f"{body}return z if bias is None else z + bias", f"\nimport numpy as np{header}")
    with Session(handout(HOMEWORK), Confinement()) as made:
        (got,) = made.run(source, little)
    assert ("z" in got) if right else isinstance(got, Raised)


ALIAS = """
def mine(ctx, x, weight, bias, lora_A, lora_B, scale):
    z = x @ weight.T + scale * (x @ lora_A.T @ lora_B.T)
    return z if bias is None else z + bias
LoRALinear.forward = staticmethod(VALUE)
"""


@pytest.mark.parametrize("value", ["mine", "lambda *args: mine(*args)", "__import__('functools').partial(mine)"])
def test_a_function_may_have_another_name_or_be_any_callable(run, forward, value):
    (got, _), (_, right) = run("", ALIAS.replace("VALUE", value)), forward[0]
    np.testing.assert_allclose(got["z"], right["z"])


def test_a_backward_knows_nothing_but_what_was_saved(forward):
    source = source_path(MODULE).read_text("utf-8")
    kept = "globals()['KEPT'] = (x, weight, lora_A, lora_B)\nreturn x @ weight.T + scale * (x @ lora_A.T @ lora_B.T)"
    used = "x, W, A, B = globals()['KEPT']\nreturn dz @ W, None, None, None, None, None"
    cheats = replace_bodies(source, {FORWARD: kept, "LoRALinear.backward": used})
    cases = [one for one in drawn("hw6_lora", "6.2", "a test") if "dz" in one[0].arrays][:1]
    with Session(handout(HOMEWORK)) as made:
        (got,) = made.run({MODULE: cheats}, cases)
    assert (got.kind, got.error) == ("raised", "KeyError")


ENGINE = """
engine = minipeft.autograd
token = engine._recording.set(True)
x, W, b, A, B = (None if v is None else minipeft.Tensor(v, requires_grad=True) for v in ctx.saved[:5])
z = minipeft.ops.linear(x, W, b) + minipeft.ops.linear(minipeft.ops.linear(x, A), B) * ctx.saved[5]
z.backward(dz)
return x.grad, W.grad, None if b is None else b.grad, A.grad, B.grad, None
"""


def test_a_backward_cannot_ask_the_engine():
    forward = "ctx.save(x, weight, bias, lora_A, lora_B, scale)\nz = x @ weight.T + scale * (x @ lora_A.T @ lora_B.T)"
    bodies = {FORWARD: f"{forward}\nreturn z if bias is None else z + bias", "LoRALinear.backward": ENGINE}
    source = replace_bodies(source_path(MODULE).read_text("utf-8"), bodies)
    cases = [one for one in drawn("hw6_lora", "6.2", "a test") if "dz" in one[0].arrays][:1]
    with Session(handout(HOMEWORK)) as made:
        (got,) = made.run({MODULE: f"{source}\nimport minipeft\n"}, cases)
        compiled = list((made.folder / "library-backward" / "minipeft" / "__pycache__").glob("autograd.*"))
    assert (got.error, got.message) == ("RuntimeError", "a backward cannot ask the engine")
    assert not compiled


SEARCH = """
import gc, pathlib, sys, types
codes = [o.__code__.co_code.hex() for o in gc.get_objects() if isinstance(o, types.FunctionType)]
texts = [p.read_text() for place in sys.path for p in pathlib.Path(place).rglob("lora.py")]
raise ValueError(f"{len(ctx.saved) > 0} {CODE in codes} {any(LINE in text for text in texts)}")
"""


def test_the_library_computes_a_supplied_target_and_its_body_is_nowhere_in_the_submissions_process():
    stub = {f.module: stubs(HOMEWORK)[f.stub] for f in HOMEWORK.files}
    library = body_of(source_path(MODULE).read_text("utf-8"), FORWARD)
    line = next(line for line in library.splitlines() if "lora_A.T" in line).strip()
    code = mp.peft.lora.LoRALinear.forward.__code__.co_code.hex()
    search = SEARCH.replace("CODE", repr(code)).replace("LINE", repr(line))
    stub[MODULE] = replace_bodies(stub[MODULE], {"LoRALinear.backward": search})
    case, right = next(one for one in drawn("hw6_lora", "6.2", "a test") if "dz" in one[0].arrays)
    with Session(handout(HOMEWORK)) as made:
        (got,) = made.run(stub, [(case, right)], [f"{MODULE}:{FORWARD}"])
        assert got.message == "True False False"
        (got,) = made.run(stub, [(case, right)])
    assert got.error == "NotImplementedError"
