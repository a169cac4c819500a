"""What students run works on Windows, of which `tests/windows.py` is a stand-in: nothing of POSIX is there."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autograder.cli import main
from autograder.homeworks.folder import load_homework
from autograder.homeworks.homework import ROOT
from autograder.homeworks.strip import replace_bodies, source_path

STAND_IN = Path(__file__).parent.parent / "windows.py"
NAME, FILE, MODULE, FIRST = "hw6_lora", "lora.py", "minipeft.peft.lora", "LoRALinear.forward"
CASE = f"homework/{NAME}/test_public.py::test_public[6.1-no row]"
SOURCE = source_path(MODULE).read_text("utf-8")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is for other systems")


def environment(temporary, stand_in=True):
    """What a process finds: on Windows text is in cp1252, unless a program names another encoding."""
    found = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LC_", "LANG"))}
    found |= {"TMPDIR": str(temporary), "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    old = {
        "SYSTEMROOT": "/",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONIOENCODING": "cp1252",
        "PYTHONCOERCECLOCALE": "0",
    }
    return found | old if stand_in else found


def on_windows(folder, *arguments):
    """Run ``python *arguments`` in ``folder`` on the stand-in."""
    (folder / "temporary").mkdir(exist_ok=True)
    ran = subprocess.run(
        [sys.executable, str(STAND_IN), *arguments],
        cwd=folder,
        env=environment(folder / "temporary"),
        capture_output=True,
        timeout=120,
    )
    ran.stdout, ran.stderr = ran.stdout.decode("cp1252"), ran.stderr.decode("cp1252", "replace")
    return ran


DENIED = """
import fcntl
import os; os.geteuid()
from signal import SIGXCPU
import os; os.symlink("a", "b")
import os; os.open(".", os.O_RDONLY)
open("/proc/self/stat")
open("a", "w").write("x"); import os; os.rename("a", "a")
f = open("b", "w"); import os; os.unlink("b")
f = open("c", "w"); open("d", "w").close(); import os; os.replace("d", "c")
import os, selectors; selectors.DefaultSelector().register(os.pipe()[0], 1)
import subprocess, sys; subprocess.Popen([sys.executable], start_new_session=True)
import subprocess; subprocess.run(["sh"])
import subprocess, sys; subprocess.run([sys.executable, "-c", "import grp"], check=True)
open("e", "w").write("\\u1d40")
"""


def test_the_stand_in_lacks_what_windows_lacks(tmp_path):
    program = f"""
import subprocess
for lines in {DENIED.strip().splitlines()!r}:
    try:
        exec(lines)
    except (ImportError, AttributeError, OSError, ValueError, subprocess.CalledProcessError):
        continue
    print("can be done:", lines)
import sys, os
assert (sys.platform, os.name) == ("win32", "nt")
"""
    ran = on_windows(tmp_path, "-c", program)
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr


def filled(folder, text):
    """A homework's folder in ``folder``, solved but for ``text``, the student's first file."""
    home = folder / "homework" / NAME
    shutil.copytree(load_homework(NAME).folder, home, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "homework" / "conftest.py", home.parent)
    for file in load_homework(NAME).files:
        (home / file.stub).write_text(source_path(file.module).read_text("utf-8"), "utf-8")
    (home / FILE).write_text(text, "utf-8")
    return home


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("windows")
    filled(folder, SOURCE)
    yield folder
    assert list((folder / "temporary").iterdir()) == []  # nothing is left, whatever ran


def test_check_works_for_one_problem(tmp_path):
    filled(tmp_path, SOURCE + '\nprint("ᵀ, as it is imported")\n')
    ran = on_windows(tmp_path, "-m", "autograder", "check", f"homework/{NAME}", "--problem", "6.1")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert f"{NAME}: 5 of 5 points" in ran.stdout
    assert "printed by your program:\n?, as it is imported\n" in ran.stdout  # cp1252 has no "ᵀ"
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.slow
def test_check_works_for_a_homework(solved):
    ran = on_windows(solved, "-m", "autograder", "check", f"homework/{NAME}")
    points = load_homework(NAME).points
    assert (ran.returncode, ran.stderr) == (0, "")
    assert f"{NAME}: {points:g} of {points:g} points" in ran.stdout


@pytest.mark.slow
def test_check_tells_what_is_wrong(tmp_path):
    filled(tmp_path, replace_bodies(SOURCE, {FIRST: "return x @ weight.T"}))
    ran = on_windows(tmp_path, "-m", "autograder", "check", f"homework/{NAME}", "--problem", "6.1")
    assert (ran.returncode, ran.stderr) == (1, "")
    assert f"{NAME}: 0 of" in ran.stdout


def test_submit_makes_the_same_zip_as_elsewhere(solved, tmp_path):
    ran = on_windows(solved, "-m", "autograder", "submit", f"homework/{NAME}")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert main(["submit", str(solved / "homework" / NAME), "--out", str(tmp_path / "here.zip")]) == 0
    assert (solved / f"{NAME}.zip").read_bytes() == (tmp_path / "here.zip").read_bytes()


def test_pytest_runs_the_public_cases(solved):
    ran = on_windows(solved, "-m", "pytest", "-q", "-p", "no:cacheprovider", CASE)
    assert ran.returncode == 0, ran.stdout
    assert "1 passed" in ran.stdout


def test_try_says_what_is_not_written(tmp_path):
    filled(tmp_path, (ROOT / "homework" / NAME / FILE).read_text("utf-8"))
    ran = on_windows(tmp_path, "-m", "autograder", "try", f"homework/{NAME}", "--quick")
    assert (ran.returncode, ran.stderr) == (1, "")
    assert f"not written yet: 6.1 {FIRST}" in ran.stdout


@pytest.mark.slow
def test_try_trains(tmp_path):
    filled(tmp_path, SOURCE + '\nprint("ᵀ, as it is imported")\n')
    ran = on_windows(tmp_path, "-m", "autograder", "try", f"homework/{NAME}", "--quick")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "?, as it is imported" in ran.stdout
    assert (tmp_path / f"try-{NAME}.png").is_file()
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        ("grade", f"homework/{NAME}", "--homework", NAME),
        ("grade-all", "homework", "--homework", NAME),
        ("selftest", NAME),
        ("selftest", "--attacks"),
    ],
)
def test_grading_says_in_one_line_that_it_needs_linux(solved, command):
    ran = on_windows(solved, "-m", "autograder", *command)
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert "grading needs Linux" in ran.stderr
    assert "container" in ran.stderr
    assert "`grade --trust`" in ran.stderr


@pytest.mark.slow
def test_a_trusted_program_is_graded_without_linux(solved):
    ran = on_windows(solved, "-m", "autograder", "grade", f"homework/{NAME}", "--homework", NAME, "--trust", "--json")
    assert ran.returncode == 0, ran.stderr
    assert "confined: not at all" in ran.stderr


CRASH = f"""
from autograder.grading.reference import drawn
from autograder.sandbox.session import Session
from autograder.homeworks.folder import load_homework
from autograder.homeworks.strip import handout, replace_bodies, source_path
source = source_path({MODULE!r}).read_text("utf-8")
forward = drawn({NAME!r}, "6.1", "a test")[:2]
with Session(handout(load_homework({NAME!r}))) as session:
    for lines in ("import os; os._exit(3)", "import ctypes; ctypes.string_at(0)"):
        body = f"if x.ndim == 2:\\n    {{lines}}\\nreturn x @ weight.T"
        first, second = session.run({{{MODULE!r}: replace_bodies(source, {{{FIRST!r}: body}})}}, forward)
        print(first.kind, first.error, first.message, list(second))
"""


def test_a_crash_costs_its_own_case(solved):
    ran = on_windows(solved, "-c", CRASH)
    assert (ran.returncode, ran.stderr) == (0, "")
    first, second = ran.stdout.splitlines()
    assert first.startswith("crash ended before it answered exit status 3 ['z'")
    assert second.startswith("crash crashed (access violation)  ['z'")


def gone(pid):
    """Whether a process has ended, within ten seconds."""
    for _ in range(500):
        try:
            os.kill(pid, 0)
            if os.path.isdir("/proc") and "Z" in Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2]:
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.02)
    return False


def ended_in_a_loop(folder, command, end, stand_in):
    """The exit status and standard error of a command that gets a signal in a loop of the student's; the loop's pid."""
    note, temporary = folder / "pid", folder / "temporary"
    temporary.mkdir()
    loop = f"import os\nwith open({str(note)!r}, 'w') as f: f.write(f'{{os.getpid()}}\\n')\nwhile True: pass"
    filled(folder, replace_bodies(SOURCE, {FIRST: loop}))
    line = [
        sys.executable,
        *([str(STAND_IN)] if stand_in else []),
        "-m",
        "autograder",
        *command.split(),
        f"homework/{NAME}",
    ]
    environ = environment(temporary, stand_in)
    running = subprocess.Popen(line, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for _ in range(3000):
        if note.exists() and note.read_text("ascii").endswith("\n"):
            break
        time.sleep(0.02)
    running.send_signal(end)
    _, error = running.communicate(timeout=30)
    return running.returncode, error.decode(), int(note.read_text("ascii"))


@pytest.mark.parametrize("stand_in", [True, False], ids=["on Windows", "here"])
@pytest.mark.parametrize("command", ["check", pytest.param("try --quick", marks=pytest.mark.slow)])
def test_ctrl_c_ends_the_students_program_and_leaves_nothing(tmp_path, command, stand_in):
    code, error, pid = ended_in_a_loop(tmp_path, command, signal.SIGINT, stand_in)
    assert (code, error) == (130, f"autograder {command.split()[0]}: interrupted\n")
    assert gone(pid)
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("stand_in", [True, False], ids=["on Windows", "here"])
def test_a_worker_ends_when_the_command_is_killed(tmp_path, stand_in):
    *_, pid = ended_in_a_loop(tmp_path, "check", signal.SIGKILL, stand_in)
    assert gone(pid)


SWEEP = """
from pathlib import Path
from autograder.sandbox import workspace
one = workspace.Workspace()
left, old = (Path(one.folder.parent, workspace.PREFIX + name) for name in ("left", "old"))
(left / "worker-1").mkdir(parents=True)
(left / "lock").touch()
workspace.remove_stale()
assert one.folder.is_dir() and not left.exists()
one.close()
assert not one.folder.exists()
"""


def test_what_a_killed_command_left_is_removed_and_what_another_uses_is_not(solved):
    ran = on_windows(solved, "-c", SWEEP)
    assert (ran.returncode, ran.stderr) == (0, "")


TRAINING = """
import numpy as np
import minipeft as mp
from minipeft.data import Batches

def model(path):
    base = mp.models.DecoderLM.from_pretrained(path)
    return mp.peft.get_peft_model(base, mp.peft.LoraConfig(r=2, target_modules=["q_proj"]), rng=0)

config = mp.models.DecoderConfig.gpt2(vocab_size=11, d_model=8, n_layers=1, n_heads=2, context=6)
mp.models.DecoderLM(config, rng=0).save_pretrained("base")
mp.models.DecoderLM(config, rng=0).save_pretrained("base")
ids = np.arange(40).reshape(8, 5) % 11
batches = Batches({"ids": ids, "labels": ids}, batch_size=4)
one = model("base")
mp.train.fit(one, batches, mp.optim.AdamW(one, lr=0.01), epochs=2, checkpoint="checkpoint")
mp.train.fit(one, batches, mp.optim.AdamW(one, lr=0.01), epochs=3, checkpoint="checkpoint")
one.save_pretrained("adapter")
one.save_pretrained("adapter")
other = mp.peft.PeftModel.from_pretrained(mp.models.DecoderLM.from_pretrained("base"), "adapter")
assert np.array_equal(one(ids).data, other(ids).data)
print("the same")
"""


def test_the_library_trains_saves_and_loads(solved):
    ran = on_windows(solved, "-c", TRAINING)
    assert (ran.returncode, ran.stderr, ran.stdout) == (0, "", "the same\n")


@pytest.mark.parametrize("command", ["--help", "info", "lab sizes --jobs 2", "compare --help", "bench", "fetch"])
def test_the_commands_of_the_library_run(solved, command):
    ran = on_windows(solved, "-m", "minipeft", *command.split())
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout


def test_what_cannot_be_measured_there_is_said_in_one_line(solved):
    ran = on_windows(solved, "-m", "minipeft", "bench", "memory")
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert "cannot be measured on Windows" in ran.stderr
