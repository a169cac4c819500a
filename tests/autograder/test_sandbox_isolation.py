"""What a worker may read, that two workers share nothing, and that nothing of a worker is left."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("workers are confined on Linux only", allow_module_level=True)

from autograder.grading.reference import drawn
from autograder.homeworks.case import request_of
from autograder.homeworks.folder import load_homework
from autograder.homeworks.homework import ROOT
from autograder.homeworks.strip import handout, replace_bodies, source_path
from autograder.sandbox import cgroups, parent_limits, readable
from autograder.sandbox.parent_limits import Confinement, ConfinementError
from autograder.sandbox.process import children, usage
from autograder.sandbox.session import Session

HOMEWORK = load_homework("hw6_lora")
MODULE = "minipeft.peft.lora"
SOURCE = source_path(MODULE).read_text("utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that workers read as if it were Python's, with packages that they do not."""
    (tmp_path / "site-packages" / "minipeft").mkdir(parents=True)
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "__init__.py").write_text("x" * 500)
    monkeypatch.setattr(readable, "standard", lambda: ((tmp_path,), (tmp_path / "site-packages",)))
    return tmp_path


def test_the_python_of_this_environment_has_no_answers():
    read, hidden = readable.standard()
    assert readable.complaint() == ""
    assert Path(os.__file__).parent in read
    assert Path(pytest.__file__).parent.parent not in read
    assert all(path.name in readable.PACKAGES for path in hidden)


@pytest.mark.parametrize(
    "name", ["minipeft", "minipeft-1.0-py3-none-any.whl", "autograder", "homework", "site-packages"]
)
def test_what_has_answers_is_found_by_looking(folder, name):
    assert readable.complaint.__wrapped__() == ""
    (folder / "json" / name).mkdir()
    assert readable.complaint.__wrapped__().startswith(f"submissions could read {folder / 'json' / name}: remove it")


def test_a_copy_of_the_librarys_source_is_found_by_its_content(folder):
    (folder / "json" / "harmless.py").write_text(SOURCE, "utf-8")
    assert readable.complaint.__wrapped__().endswith(f"is a copy of {source_path(MODULE)}: remove it")


def test_nothing_is_graded_where_an_answer_could_be_read(monkeypatch):
    monkeypatch.setattr(readable, "complaint", lambda: "submissions could read it: remove it")
    with pytest.raises(ConfinementError, match="submissions could read it"):
        Confinement()


def test_a_private_file_in_a_readable_folder_is_found(folder):
    assert readable.exposed([ROOT, folder.parent], [folder]) is None
    assert readable.exposed([folder / "json" / "seed"], [folder]) == folder / "json" / "seed"
    assert readable.exposed([folder], [folder]) == folder
    assert readable.exposed([folder / "site-packages"], [folder]) is None  # hidden, as NumPy's neighbours are


def test_a_copy_of_the_library_among_the_packages_must_not_be_open_to_all(tmp_path, monkeypatch):
    (tmp_path / "minipeft").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert tmp_path / "minipeft" in readable.installed()
    monkeypatch.setattr(parent_limits, "open_to_others", lambda path: path == tmp_path / "minipeft")
    monkeypatch.setattr(parent_limits, "landlock_version", lambda: 0)
    with pytest.raises(ConfinementError, match=f"any user can read {tmp_path / 'minipeft'}"):
        Confinement()


LANDLOCKED = """
import ctypes, sys
from autograder.sandbox import child_limits
folder = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
ruleset, version = child_limits.landlock_ruleset(libc, [folder], [folder + "/site-packages"])
libc.prctl(child_limits.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
child_limits.landlock(libc, ruleset, version)
for path in ("json/__init__.py", "module.py", "site-packages/minipeft/answer.py"):
    try:
        print(len(open(folder + "/" + path).read()))
    except PermissionError:
        print("denied")
"""


def test_landlock_leaves_out_the_packages_in_a_readable_folder(folder):
    if not parent_limits.landlock_version():
        pytest.skip("this kernel has no Landlock")
    for path in ("module.py", "site-packages/minipeft/answer.py"):
        (folder / path).write_text("x" * 7)
    ran = subprocess.run([sys.executable, "-c", LANDLOCKED, str(folder)], capture_output=True, text=True, cwd=ROOT)
    assert ran.stdout.split() == ["500", "7", "denied"], ran.stderr


@pytest.fixture
def session():
    with Session(handout(HOMEWORK), Confinement(), own=True) as made:
        yield made


def worker(session):
    """A worker that is confined and waits."""
    assert session.probe({}) is None
    return session._worker("forward", {})


def test_a_worker_has_no_writable_mapping_that_another_could_have(session):
    if os.geteuid() != 0:
        pytest.skip("only root may read the mappings of a worker")
    for pid in (worker(session).process.pid, *children(worker(session).process.pid)):
        mappings = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
        assert [line for line in mappings if line[1][1] == "w" and line[1][3] == "s"] == []


def test_the_time_of_a_worker_is_counted_in_a_pid_namespace(session):
    case, right = drawn("hw6_lora", "6.1", "a test")[0]
    text = replace_bodies(SOURCE, {"LoRALinear.forward": "while True: pass"})
    (got,) = session.run({MODULE: text}, [(replace(case, seconds=1.0), right)])
    assert (got.kind, got.message) == ("timeout", "more than 1 s of processor time")


def test_no_process_and_no_control_group_of_a_worker_is_left(session):
    pid = worker(session).process.pid
    processes = [pid, *children(pid)]
    groups = [group for made in session.confinement._groups.values() for group in made]
    assert len(processes) == (2 if session.layers["pid_ns"] == "yes" else 1)
    assert bool(groups) == (session.layers["cgroup"] == "yes")
    session.close()
    assert [p for p in processes if Path(f"/proc/{p}").exists()] == []
    assert [g for g in groups if g.exists()] == []


def test_how_a_worker_ends_is_told_across_a_pid_namespace(session):
    case = drawn("hw6_lora", "6.1", "a test")[0]
    ends = {
        "import ctypes; ctypes.string_at(0)": "crashed (SIGSEGV)",
        "import os; os._exit(7)": "ended before it answered",
        "import ctypes; ctypes.CDLL(None).syscall(0x40000000 + 39)": "crashed (SIGSYS)",
    }
    for lines, says in ends.items():
        (got,) = session.run({MODULE: replace_bodies(SOURCE, {"LoRALinear.forward": lines})}, [case])
        assert (got.kind, got.error) == ("crash", says)
    one = worker(session)
    os.kill((children(one.process.pid) or [one.process.pid])[0], signal.SIGKILL)
    assert one.call(request_of(case[0]), 5.0).error == "crashed (SIGKILL)"


def test_groups_of_a_killed_grader_are_removed_and_new_ones_are_not():
    try:
        old, new = cgroups.create(1 << 29, 65), cgroups.create(1 << 29, 65)
    except OSError as error:
        pytest.skip(f"this user has no control groups: {error}")
    try:
        limits = {"memory.limit_in_bytes": 1 << 29, "memory.max": 1 << 29, "pids.max": 65}
        files = [group / name for group in new for name in limits if (group / name).exists()]
        assert len(files) == 2
        assert all(int(file.read_text()) == limits[file.name] for file in files)
        for group in old:
            os.utime(group, (0, 0))
        cgroups.remove_stale()
        assert not any(group.exists() for group in old)
        assert all(group.exists() for group in new)
    finally:
        cgroups.remove([*old, *new])
    assert not any(group.exists() for group in new)


@pytest.mark.parametrize(
    ("enabled", "files"), [("cpu memory pids", {"memory.max": "512", "pids.max": "65"}), ("cpu", None)]
)
def test_a_group_of_version_2_needs_a_folder_with_both_limits(tmp_path, monkeypatch, enabled, files):
    monkeypatch.setattr(cgroups, "TOP", tmp_path)
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids")
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = next((line[3:] for line in lines if line.startswith("0::")), "/")
    here = tmp_path / own.lstrip("/")
    for folder in {here, here.parent} if here != tmp_path else {tmp_path}:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup.subtree_control").write_text(enabled)
    if files is None:
        with pytest.raises(OSError, match="no cgroup with limits of memory and tasks"):
            cgroups.create(512, 65)
    else:
        (group,) = cgroups.create(512, 65)
        assert {file.name: file.read_text() for file in group.iterdir()} == files


def test_the_trusted_worker_has_no_file_of_the_library_once_it_answers():
    given = list(drawn("hw6_lora", "6.1", "a test")[:1])
    with Session(handout(HOMEWORK), Confinement()) as made:
        assert list(made.folder.glob("worker-*/library/minipeft/peft/lora.py"))
        got = made.run({MODULE: SOURCE}, given)
        assert isinstance(got[0], dict)
        assert not list(made.folder.glob("worker-*/library"))


def test_usage_is_that_of_a_process_and_its_children():
    seconds, _, threads = usage(os.getpid())
    assert seconds > 0
    assert 1 <= threads <= 64
    assert usage(2**22 + 1) is None
