"""What a submission cannot do, tried by a submission; and what it still can."""

import contextlib
import ctypes
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

if sys.platform != "linux":
    pytest.skip("workers are confined on Linux only", allow_module_level=True)

from autograder.cli import main
from autograder.grading.check import Raised
from autograder.grading.grade import grade
from autograder.grading.reference import drawn
from autograder.homeworks.case import request_of
from autograder.homeworks.folder import load_homework
from autograder.homeworks.preload import needed_modules
from autograder.homeworks.strip import handout, replace_bodies, source_path
from autograder.sandbox import child_limits, parent_limits, readable, system_calls
from autograder.sandbox.parent_limits import (
    GRADESCOPE,
    LOCAL,
    Confinement,
    ConfinementError,
    open_to_others,
    processes_of,
    purge,
)
from autograder.sandbox.session import Session
from autograder.sandbox.system_calls import ALLOWED, CHECKED, MACHINES, SPECIAL, UNKNOWN, program
from autograder.submission.intake import Submission

HOMEWORK = load_homework("hw6_lora")
MODULE = "minipeft.peft.lora"
SOURCE = source_path(MODULE).read_text("utf-8")
ROOT = os.geteuid() == 0

CONFIGURATIONS = {
    "all layers": {},
    "no namespaces": {"namespaces": False},
    "only another user": {"landlock": False, "namespaces": False},  # as in a container
}
if not ROOT:  # then Landlock must be there
    del CONFIGURATIONS["only another user"]


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def configuration(request):
    return request.param


@pytest.fixture(scope="module")
def session(configuration):
    with Session(handout(HOMEWORK), Confinement(**CONFIGURATIONS[configuration]), own=True) as made:
        yield made
    assert not made.folder.exists()


@pytest.fixture(scope="module")
def case():
    return drawn("hw6_lora", "6.1", "a test")[0]


@pytest.fixture
def tried(session, case):
    """What became of lines of Python inside LoRALinear.forward; they may say something with ``say(...)``."""

    def run(lines, header=""):
        body = "def say(x): raise RuntimeError(x)\nimport os\n" + lines
        text = replace_bodies(SOURCE, {"LoRALinear.forward": body}) + header
        (got,) = session.run({MODULE: text}, [case])
        return got

    return run


def test_what_must_be_there_is_there(session, configuration, tried):
    assert "z" in tried("return x @ weight.T")
    there = {name for name, answer in session.layers.items() if not str(answer).startswith("no")}
    expected = {"uid", "limits", "seccomp", "landlock"}
    missing = {"landlock"} if configuration == "only another user" else set()
    if not ROOT:
        missing.add("uid")
    if isinstance(session.layers["landlock"], str):
        expected.discard("landlock")  # a kernel without it
    assert there & expected == expected - missing
    assert set(session.layers) == set(child_limits.LAYERS)
    if configuration != "all layers":
        assert there <= expected


def test_namespaces_and_a_control_group_are_there_if_they_can_be_had(session, configuration, tried):
    """Each says why it is not there: a container, and some systems' users, have none."""
    tried("return x @ weight.T")
    optional = set(child_limits.LAYERS) - {"uid", "limits", "seccomp", "landlock"}
    for name in optional:
        assert re.fullmatch(r"yes|no: .+", session.layers[name])
    if session.layers["pid_ns"] == "yes":
        assert tried("say((os.getpid(), os.getppid()))").message == "(1, 0)"
    if session.layers["root"] == "yes":
        for path in ("/etc", "/proc", "/dev", "/sys", "/home", str(parent_limits.ROOT / "minipeft")):
            assert tried(f"os.stat({path!r})").error == "FileNotFoundError"


FINE = [
    "import threading; ts = [threading.Thread(target=lambda: x @ x.T) for _ in range(4)]; "
    "[t.start() for t in ts]; [t.join() for t in ts]",
    "import numpy as np; np.random.default_rng().normal(size=3); np.linalg.svd(x); np.fft.fft(x)",
    "import numpy as np; np.einsum('ij->i', x)",
    "import time; time.sleep(0.01); time.perf_counter()",
    "import math, typing, dataclasses, functools, itertools, collections, copy, json, random, heapq, string",
    "print('x'); import warnings; warnings.warn('w')",
    "import numpy as np; np.ones((200, 200)) @ np.ones((200, 200))",
    "open(__file__).read()",
    "import numpy as np; np.zeros(10_000_000)",
    "[1 / 1 for _ in range(100_000)]",
]


TRY_ALL = """
def say(x): raise RuntimeError(x)
import os
came = []
for lines in LINES:
    try:
        exec(lines, {"say": say, "os": os, "x": x, "weight": weight, "__file__": __file__})
    except BaseException as error:
        came.append(f"{type(error).__name__}: {error}")
    else:
        came.append("nothing was raised")
return came
"""


@pytest.fixture(scope="module")
def outcomes(session, case):
    """What became of all that is tried, in one worker: by the lines, "nothing was raised" or the exception."""
    lines = [*FINE, *(lines for lines, _ in DENIED.values())]
    text = replace_bodies(SOURCE, {"LoRALinear.forward": TRY_ALL}) + f"\nLINES = {lines!r}\n"
    (got,) = session.run({MODULE: text}, [case])
    assert not isinstance(got, Raised), got
    return dict(zip(lines, got["z"], strict=True))


IMPORTED = """
import importlib, warnings
warnings.simplefilter("ignore")
failed = []
for name in {names}:
    try:
        importlib.import_module(name)
    except ImportError as error:
        if "cannot open shared object file" not in str(error):  # a library of the system, such as SQLite's
            failed.append(name)
"""


def test_the_standard_library_can_be_imported_wherever_python_lies(tried):
    """Some root has Python in a home of mode 0700, where the worker's user cannot read it."""
    names = [n for n in needed_modules() if ":" not in n]
    assert {"csv", "fractions", "socket", "unittest.mock", "numpy.fft"} <= set(names)
    here: dict = {}
    with warnings.catch_warnings():
        exec(IMPORTED.format(names=names), here)
    there = tried(IMPORTED.format(names=names) + "say(failed)")
    assert (there.error, there.message) == ("RuntimeError", str(here["failed"]))


@pytest.mark.parametrize("lines", FINE)
def test_what_computing_needs_is_there(outcomes, lines):
    assert outcomes[lines] == "nothing was raised"


LIBC = "import ctypes; c = ctypes.CDLL(None, use_errno=True)\n"
GONE = "PermissionError|FileNotFoundError"  # the latter in a root that has no such path
DENIED = {  # what is tried: (lines, what must come of it)
    "write in the scratch folder": ("open('x', 'w')", "PermissionError"),
    "write in /tmp": ("open('/tmp/minipeft-attack', 'w')", "PermissionError"),
    "write in /dev/shm": ("open('/dev/shm/minipeft-attack', 'w')", "PermissionError"),
    "append to its own file": ("open(__file__, 'a')", "PermissionError"),
    "make a folder": ("os.mkdir('x')", "PermissionError"),
    "make a link": ("os.symlink('/etc/passwd', 'x')", "PermissionError"),
    "remove its own file": ("os.remove(__file__)", "PermissionError"),
    "change its own file's mode": ("os.chmod(__file__, 0o777)", "PermissionError"),
    "a socket": ("import socket; socket.socket()", "PermissionError"),
    "a datagram": ("import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", "PermissionError"),
    "a unix socket": ("import socket; socket.socketpair()", "PermissionError"),
    "a name on the network": (
        "import socket; socket.create_connection(('localhost', 1))",
        "PermissionError|gaierror|LookupError",
    ),
    "fork": ("os.fork()", "PermissionError"),
    "a program": ("import subprocess; subprocess.run(['true'])", "PermissionError|ModuleNotFoundError"),
    "a shell": ("say(os.system('true'))", "RuntimeError: (-1|32512)"),
    "exec": ("os.execv('/bin/true', ['true'])", "PermissionError"),
    "posix_spawn": ("os.posix_spawn('/bin/true', ['true'], {})", "PermissionError"),
    "kill all": ("os.kill(-1, 9)", "PermissionError"),
    "kill the parent": ("os.kill(os.getppid(), 9)", "PermissionError"),
    "stop itself": ("os.kill(os.getpid(), 19)", "PermissionError"),
    "a pidfd": ("os.pidfd_open(os.getppid())", "PermissionError"),
    "ptrace": (LIBC + "say((c.ptrace(16, os.getppid(), 0, 0), ctypes.get_errno()))", r"RuntimeError: \(-1, 1\)"),
    "the parent's memory": ("open(f'/proc/{os.getppid()}/mem', 'rb')", GONE),
    "the parent's environment": ("say(open(f'/proc/{os.getppid()}/environ').read())", GONE),
    "the parent's descriptors": ("os.listdir(f'/proc/{os.getppid()}/fd')", GONE),
    "more memory": ("import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "ValueError|PermissionError"),
    "much memory": ("import numpy as np; np.ones(1 << 28)", "MemoryError"),
    "become root": ("os.setuid(0)", "PermissionError"),
    "become another": ("os.setresuid(1, 1, 1)", "PermissionError"),
    "a namespace": (LIBC + "say((c.unshare(0x10000000), ctypes.get_errno()))", r"RuntimeError: \(-1, 1\)"),
    "mount": (LIBC + "say((c.mount(0, b'/', 0, 0x1000, 0), ctypes.get_errno()))", r"RuntimeError: \(-1, 1\)"),
    "a memfd": ("os.memfd_create('x')", "PermissionError"),
    "shared memory": (LIBC + "say((c.shmget(1, 4096, 0o1666), ctypes.get_errno()))", r"RuntimeError: \(-1, 1\)"),
    "a named semaphore": (
        LIBC + "say((c.sem_open(b'/x', 64, 0o600, 1), ctypes.get_errno()))",
        r"RuntimeError: \(0, (1|2|13|38)\)",
    ),
    "prctl": (LIBC + "say((c.prctl(1, 0, 0, 0, 0), ctypes.get_errno()))", r"RuntimeError: \(-1, 1\)"),
    "a lock on a file": (
        "import fcntl, numpy, struct; fcntl.fcntl(os.open(numpy.__file__, os.O_RDONLY), fcntl.F_SETLK, "
        "struct.pack('hhqqi4x', fcntl.F_RDLCK, 0, 12345, 1, 0))",
        "PermissionError",
    ),
    "a look at a lock": (
        "import fcntl, numpy, struct; fcntl.fcntl(os.open(numpy.__file__, os.O_RDONLY), fcntl.F_GETLK, "
        "struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 0, 0))",
        "PermissionError",
    ),
    "flock": ("import fcntl; fcntl.flock(os.open(__file__, os.O_RDONLY), fcntl.LOCK_SH)", "PermissionError"),
    "lockf": ("os.lockf(os.open(__file__, os.O_RDONLY), os.F_TEST, 1)", "PermissionError"),
    "word of a folder that changes": (
        "import fcntl; fcntl.fcntl(os.open('.', os.O_RDONLY), fcntl.F_NOTIFY, 1)",
        "PermissionError",
    ),
    "an owner of a pipe, who gets its signals": (
        "import fcntl; fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getpid() + 1)",
        "PermissionError",
    ),
    "a signal of a pipe": ("import fcntl; fcntl.fcntl(os.pipe()[0], 10, 9)", "PermissionError"),
    "signals when a pipe can be read": (
        "import fcntl; fcntl.fcntl(os.pipe()[0], fcntl.F_SETFL, os.O_ASYNC)",
        "PermissionError",
    ),
    "another process's clock": (
        "import time; time.clock_gettime((~(os.getpid() + 1) << 3) | 2)",
        "PermissionError",
    ),
    "whether a process is there": ("os.getpgid(os.getpid() + 1)", "PermissionError"),
    "another's processors": ("os.sched_getaffinity(os.getpid() + 1)", "PermissionError"),
    "how many threads the machine has": (
        LIBC + "say((c.sysinfo(ctypes.create_string_buffer(128)), ctypes.get_errno()))",
        r"RuntimeError: \(-1, 1\)",
    ),
    "a futex that others can wait for": (
        LIBC
        + "import mmap, numpy\nm = mmap.mmap(os.open(numpy.__file__, os.O_RDONLY), 4096, mmap.MAP_PRIVATE, 1)\n"
        "at = ctypes.c_void_p(numpy.frombuffer(m, 'u4').ctypes.data)\n"
        "wait = c.syscall(FUTEX, at, 0, int.from_bytes(m[:4], 'little'), 0, 0, 0), ctypes.get_errno()\n"
        "say((wait, c.syscall(FUTEX, at, 1, 1, 0, 0, 0), ctypes.get_errno()))".replace(
            "FUTEX", {"x86_64": "202"}.get(os.uname().machine, "98")
        ),
        r"RuntimeError: \(\(-1, 11\), -1, 1\)",
    ),
    "nice": ("os.setpriority(os.PRIO_PROCESS, 0, -5)", "PermissionError"),
    "another's limits": (
        LIBC + "say((c.prlimit(os.getpid() + 1, 9, 0, 0), ctypes.get_errno()))",
        r"RuntimeError: \(-1, 1\)",
    ),
}
NUMBERS = {  # system calls that have no wrapper, by their number on x86-64
    "process_vm_readv": 310, "bpf": 321, "userfaultfd": 323, "perf_event_open": 298, "io_uring_setup": 425,
    "keyctl": 250, "add_key": 248, "mq_open": 240, "semget": 64, "msgget": 68, "setns": 308, "init_module": 175,
    "kexec_load": 246, "open_by_handle_at": 304, "pivot_root": 155, "name_to_handle_at": 303, "personality": 135,
    "pidfd_getfd": 438, "vfork": 58, "fanotify_init": 300, "execveat": 322, "modify_ldt": 154, "seccomp": 317,
}  # fmt: skip


@pytest.mark.parametrize("name", DENIED)
def test_what_is_denied(outcomes, name):
    lines, comes = DENIED[name]
    assert re.match(comes, outcomes[lines])


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86-64")
def test_no_system_call_that_can_reach_outside_is_there(tried):
    calls = f"[(n, c.syscall(n, 0, 0, 0, 0, 0, 0), ctypes.get_errno()) for n in {sorted(NUMBERS.values())}]"
    got = tried(f"{LIBC}say([(n, e) for n, r, e in {calls} if (r, e) != (-1, 1)])")
    assert got.message == "[]"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="what is tried is code of x86-64")
def test_other_ways_into_the_kernel_end_the_process(tried):
    assert tried(LIBC + "c.syscall(0x40000000 + 39)").error == "crashed (SIGSYS)"  # getpid of x32
    code = "b8140000 00cd80c3".replace(" ", "")  # mov eax, 20; int 0x80; ret: getpid of i386
    machine_code = (
        "c.mmap.restype = ctypes.c_void_p\n"
        "m = c.mmap(None, ctypes.c_size_t(4096), 7, 0x22, -1, ctypes.c_size_t(0))\n"
        f"ctypes.memmove(m, bytes.fromhex('{code}'), {len(code) // 2})\n"
        "say(ctypes.CFUNCTYPE(ctypes.c_int)(m)())"
    )
    assert tried(LIBC + machine_code).error in ("crashed (SIGSYS)", "crashed (SIGSEGV)")  # or there is no such way in


def test_clone3_says_that_it_does_not_exist_and_threads_work(tried):
    got = tried(LIBC + "say((c.syscall(435, 0, 0), ctypes.get_errno()))")
    assert got.message == "(-1, 38)"


def test_secrets_of_the_grader_cannot_be_read(tried, configuration, tmp_path):
    secret = tmp_path / "seed.txt"
    secret.write_text("1234")
    secret.chmod(0o600)
    assert re.fullmatch(GONE, tried(f"say(open({str(secret)!r}).read())").error)
    assert tried("say(os.listdir('..'))").message in ("['scratch', 'submission']", "['submission', 'scratch']")
    if configuration != "only another user":
        for lines in ("open('/etc/passwd')", "os.listdir('/')", "os.listdir('/proc')"):
            assert re.fullmatch(GONE, tried(lines).error)


def test_other_workers_cannot_be_read(session, case):
    other = session._worker("forward", {MODULE: SOURCE})
    place = other._folder / "submission" / f"{MODULE}.py"
    assert place.read_text("utf-8") == SOURCE
    body = f"raise RuntimeError(open({str(place)!r}).read())"
    (got,) = session.run({MODULE: replace_bodies(SOURCE, {"LoRALinear.forward": body})}, [case])
    assert re.fullmatch(GONE, got.error)
    assert not isinstance(other.call(request_of(case[0]), 10.0), Raised)


def test_a_torrent_of_output_does_no_harm(session, case, tried):
    got = tried("import sys\nwhile True: sys.stdout.write('x' * 65536)")
    assert (got.kind, got.error) == ("crash", "printed too much")
    assert len(session.log) <= 64 * 1024


def test_only_the_named_packages_are_there(tried, configuration):
    assert tried("import pytest").error == "ModuleNotFoundError"
    assert tried("import hypothesis").error == "ModuleNotFoundError"
    if configuration == "only another user":
        return  # who reads what is open to all: then no copy of the library may be among the packages
    for place in {sysconfig.get_path("purelib"), str(Path(np.__file__).parent.parent)}:
        here = f"import sys; sys.path.append({place!r})\n"
        assert tried(f"{here}from scipy import stats").error in ("ModuleNotFoundError", "PermissionError")
        assert tried(f"{here}import pytest").error in ("ModuleNotFoundError", "PermissionError")
        assert re.fullmatch(GONE, tried(f"open({place!r} + '/pytest/__init__.py').read()").error)
    for hidden in readable.standard()[1]:  # in the standard library's own folder
        file = next((f for f in hidden.rglob("*") if f.is_file()), None)
        assert file is None or re.fullmatch(GONE, tried(f"open({str(file)!r}).read()").error)


def test_a_worker_dies_with_the_grader():
    code = (
        "import os\n"
        "from autograder.sandbox.session import Session\n"
        "from autograder.sandbox.parent_limits import Confinement\n"
        "from autograder.homeworks.folder import load_homework\n"
        "from autograder.homeworks.strip import handout\n"
        "s = Session(handout(load_homework('hw6_lora')), Confinement())\n"
        "s.probe({})\n"
        "(w,) = s._workers.values()\n"
        "print(w.process.pid, s.folder, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=parent_limits.ROOT)
    pid, folder = ran.stdout.split()
    for _ in range(250):
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split(")")[1]:
            break
        time.sleep(0.02)
    else:
        pytest.fail("the worker lives on")
    shutil.rmtree(folder, ignore_errors=True)  # the next grader on this machine would do so, too


@pytest.mark.skipif(not ROOT, reason="needs root")
def test_every_worker_is_a_user_of_its_own_and_nothing_of_it_is_left(case):
    made = Confinement(GRADESCOPE)
    body = "import os\nraise RuntimeError((os.getresuid(), os.getresgid(), os.getgroups()))"
    text = replace_bodies(SOURCE, {"LoRALinear.forward": body})
    with Session(handout(HOMEWORK), made, own=True) as session:
        first, second = (session.run({MODULE: text + line}, [case])[0].message for line in ("", "# another"))
    users = [int(m.split(",")[0].strip("(")) for m in (first, second)]
    assert users[0] != users[1]
    for user, said in zip(users, (first, second), strict=True):
        assert said == f"({(user,) * 3}, {(user,) * 3}, [])"
        assert list(processes_of(user)) == []
    assert made._leases == {}


@pytest.mark.skipif(not ROOT, reason="needs root")
def test_a_user_is_purged_however_its_processes_hide(tmp_path):
    uid = 54_321
    script = tmp_path / "daemons.py"
    script.write_text(
        "import os, signal, time\n"
        "os.setgroups([]); os.setresgid(54321, 54321, 54321); os.setresuid(54321, 54321, 54321)\n"
        "for n in range(1, 20):\n"
        "    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except OSError: pass\n"
        "for _ in range(4):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        if os.fork(): os._exit(0)\n"
        "        end = time.monotonic() + 60\n"
        "        while time.monotonic() < end:\n"
        "            if os.fork(): os._exit(0)\n"
        "            time.sleep(0.01)\n"
    )
    Confinement()  # makes this process the one that orphans come to
    subprocess.run([sys.executable, str(script)], check=True)
    assert list(processes_of(uid))
    purge(uid)
    time.sleep(0.1)
    assert [pid for pid, zombie in processes_of(uid) if not zombie] == []


@pytest.mark.skipif(not ROOT, reason="needs root")
def test_a_user_is_purged_even_if_each_listing_comes_too_late(monkeypatch):
    uid = 54_322
    asleep = subprocess.Popen(["/bin/sleep", "60"], user=uid, group=uid, extra_groups=())
    listed = processes_of  # a program that forks and exits is a zombie whenever it is looked at
    monkeypatch.setattr(parent_limits, "processes_of", lambda uid: ((pid, True) for pid, _ in listed(uid)))
    purge(uid, seconds=5.0)
    assert not Path(f"/proc/{asleep.pid}").exists()
    asleep.wait()


def test_it_fails_closed(monkeypatch, tmp_path, capsys):
    if ROOT:
        monkeypatch.setattr(parent_limits.os, "geteuid", lambda: 1000)
    with pytest.raises(ConfinementError, match="start the grader as root"):
        Confinement(GRADESCOPE)
    (tmp_path / "lora.py").write_text(SOURCE, "utf-8")
    out = tmp_path / "results.json"
    command = ["grade", str(tmp_path), "--homework", "hw6_lora", "--gradescope", "--out", str(out)]
    assert main(command) == 2
    assert "start the grader as root" in capsys.readouterr().err
    assert "the course staff is told" in out.read_text()


@pytest.mark.parametrize("must", [[["landlock", "seccomp"]], [["uid", "landlock"], ["landlock"]]])
def test_a_layer_that_is_missing_stops_the_grading_before_anything_runs(case, must, tmp_path):
    note = Path(f"/dev/shm/minipeft-test-{os.getpid()}")
    text = SOURCE + f"\nopen({str(note)!r}, 'w')\n"
    made = {"must": must, "landlock": False}
    with pytest.raises(ConfinementError, match=r"expected (uid and landlock and limits or )?landlock"):
        grade(HOMEWORK, Submission({MODULE: text}), 1, confinement=made)
    assert not note.exists()


@pytest.mark.skipif(not ROOT, reason="needs root")
def test_a_worker_that_is_still_root_is_refused_whatever_must_be_there():
    made = {"must": [["seccomp"]], "uid": False}
    with pytest.raises(ConfinementError, match="the worker is still root: uid no: not asked for"):
        grade(HOMEWORK, Submission({MODULE: SOURCE}), 1, confinement=made)


def test_a_limit_that_does_not_take_effect_is_noticed(monkeypatch):
    monkeypatch.setattr(child_limits.resource, "setrlimit", lambda which, values: None)
    assert all("limits" in together for together in Confinement(LOCAL).must)
    with pytest.raises(child_limits.ConfineError, match="the limit NOFILE is"):
        child_limits.limit({"NOFILE": 64})


@pytest.mark.slow
@pytest.mark.skipif(not ROOT, reason="needs root")
def test_all_of_this_is_true_for_an_ordinary_user():
    """The tests of this file once more, by this Python or the system's: this one may be in root's home."""
    uid = 54_322
    who: dict = {"user": uid, "group": uid, "extra_groups": (), "capture_output": True, "text": True}
    with tempfile.TemporaryDirectory(prefix="minipeft-user-") as own:
        os.chown(own, uid, uid)
        places = os.pathsep.join([str(parent_limits.ROOT), sysconfig.get_path("purelib")])
        who["env"] = {"PATH": "/usr/bin:/bin", "HOME": own, "PYTHONPATH": places, "PYTHONDONTWRITEBYTECODE": "1"}
        for python in (sys.executable, "/usr/bin/python3"):
            with contextlib.suppress(OSError):
                if not subprocess.run([python, "-c", "import numpy, pytest, xdist"], cwd=own, **who).returncode:
                    break
        else:
            pytest.skip("no Python that another user can run has NumPy and pytest")
        options = ["-q", "-n0", "-p", "no:cacheprovider", "--basetemp", f"{own}/tests"]
        ran = subprocess.run([python, "-m", "pytest", *options, __file__], cwd=parent_limits.ROOT, **who)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr


def test_where_any_user_can_read_the_answers_landlock_must_be_there(monkeypatch, tmp_path):
    private = tmp_path / "private"
    private.mkdir()
    private.chmod(0o700)
    monkeypatch.setattr(parent_limits, "landlock_version", lambda: 0)
    monkeypatch.setattr(readable, "installed", list)
    Confinement(private=[private])
    with pytest.raises(
        ConfinementError, match="any user can read /usr, so submissions could: close it with `chmod 700`"
    ):
        Confinement(private=[private, Path("/usr")])
    monkeypatch.setattr(parent_limits, "landlock_version", lambda: 7)
    made = Confinement(private=[private, Path("/usr")])
    assert all("landlock" in together for together in made.must)


def test_the_seed_and_the_submissions_next_to_this_one_are_private(case, monkeypatch, tmp_path, capsys):
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "lora.py").write_text(SOURCE, "utf-8")
    (tmp_path / "seed").write_text("1")
    open_ones = {tmp_path / "class", tmp_path / "seed"}
    monkeypatch.setattr(parent_limits, "landlock_version", lambda: 0)
    monkeypatch.setattr(parent_limits, "open_to_others", lambda path: path in open_ones)
    commands = (
        ["grade", str(tmp_path / "class" / "lora.py"), "--homework", "hw6_lora"],
        ["grade-all", str(tmp_path / "class"), "--homework", "hw6_lora", "--out", str(tmp_path / "grades")],
    )
    for command in commands:
        assert main([*command, "--seed-file", str(tmp_path / "seed")]) == 2
        assert "close it with `chmod" in capsys.readouterr().err
    open_ones.remove(tmp_path / "class")
    for command in commands:
        assert main([*command, "--seed-file", str(tmp_path / "seed")]) == 2
        assert f"any user can read {tmp_path / 'seed'}" in capsys.readouterr().err
        assert main([*command, "--seed", "1"]) == 2


def test_elsewhere_than_linux_it_refuses(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ConfinementError, match=r"grading needs Linux.*`grade --trust`"):
        Confinement()


@pytest.mark.skipif(not ROOT, reason="needs root")
def test_a_folder_that_no_one_else_can_read_is_named(case, tmp_path, monkeypatch):
    shut = tmp_path / "shut"
    shut.mkdir(mode=0o700)
    monkeypatch.setattr("tempfile.tempdir", str(shut))
    with (
        Session(handout(HOMEWORK), Confinement(), own=True) as session,
        pytest.raises(ConfinementError, match="set TMPDIR"),
    ):
        session.run({MODULE: SOURCE}, [case])


def test_whether_others_can_read(tmp_path):
    assert open_to_others(Path("/usr"))
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a").chmod(0o700)
    assert not open_to_others(tmp_path / "a" / "b")
    assert open_to_others(Path("/etc/passwd"))


# The filter itself, for both machines


def verdict(machine, number, arguments=(0,) * 6, architecture=None, pid=77):
    """What the filter says: the packet filter's instructions, carried out here."""
    lines = program(machine, pid)
    values = {0: number, 4: architecture or MACHINES[machine][0]}
    values.update({16 + 8 * i: a & 0xFFFFFFFF for i, a in enumerate(arguments)})
    at = loaded = 0
    while True:
        code, yes, no, value = lines[at]
        at += 1
        if code == system_calls.LOAD:
            loaded = values[value]
        elif code == system_calls.RETURN:
            return value
        else:
            hit = {
                system_calls.JUMP_EQUAL: loaded == value,
                system_calls.JUMP_AT_LEAST: loaded >= value,
                system_calls.JUMP_ANY_BIT: loaded & value,
            }[code]
            at += yes if hit else no


DENY = system_calls.ERROR | system_calls.EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_decides_as_its_tables_say(machine):
    column = MACHINES[machine][1]
    allowed = {n[column] for n in ALLOWED.values()} - {None}
    checked = {n[column] for n, _ in CHECKED.values()} - {None}
    unknown = {n[column] for n in UNKNOWN.values()}
    for number in range(600):
        said = verdict(machine, number)
        if number in allowed:
            assert said == system_calls.ALLOW
        elif number in unknown:
            assert said == system_calls.ERROR | system_calls.ENOSYS
        elif number not in checked:
            assert said == DENY
    other = next(m for m in MACHINES if m != machine)
    assert verdict(machine, 39, architecture=MACHINES[other][0]) == system_calls.KILL_PROCESS
    if machine == "x86_64":
        assert verdict(machine, system_calls.X32 + 39) == system_calls.KILL_PROCESS


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_looks_at_arguments(machine):
    column = MACHINES[machine][1]

    def said(name, at, *values):
        arguments = [0] * 6
        arguments[at : at + len(values)] = values
        return verdict(machine, CHECKED[name][0][column], arguments)

    thread = 0x3D0F00  # what glibc clones a thread with
    assert said("clone", 0, thread) == system_calls.ALLOW
    assert said("clone", 0, signal.SIGCHLD) == DENY
    assert said("clone", 0, thread | 0x40000000) == DENY  # CLONE_NEWNET
    assert said("openat", 2, os.O_RDONLY | os.O_CLOEXEC) == system_calls.ALLOW
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_RDONLY | os.O_TRUNC, os.O_TMPFILE | os.O_RDWR):
        assert said("openat", 2, flags) == DENY
    assert said("tgkill", 0, 77) == system_calls.ALLOW
    assert said("tgkill", 0, 78) == DENY
    assert said("prlimit64", 0, 0) == system_calls.ALLOW
    assert said("prlimit64", 0, 1) == DENY
    assert said("ioctl", 1, 0x5401) == system_calls.ALLOW
    assert said("ioctl", 1, 0x5412) == DENY  # TIOCSTI, which types into a terminal


@pytest.mark.parametrize("machine", MACHINES)
def test_a_descriptor_can_be_copied_and_not_locked_owned_or_watched(machine):
    def said(command, argument=0):
        return verdict(machine, CHECKED["fcntl"][0][MACHINES[machine][1]], (3, command, argument, 0, 0, 0))

    fine = {fcntl.F_DUPFD, fcntl.F_DUPFD_CLOEXEC, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_SETFL}
    assert {command for command in range(2048) if said(command) == system_calls.ALLOW} == fine
    assert said(fcntl.F_SETFL, os.O_NONBLOCK) == system_calls.ALLOW
    assert said(fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC) == DENY
    assert said(fcntl.F_GETFL, os.O_ASYNC) == system_calls.ALLOW  # an argument that the command does not take
    for command in (fcntl.F_GETLK, fcntl.F_SETLK, fcntl.F_SETLKW, fcntl.F_OFD_SETLK, fcntl.F_SETOWN, fcntl.F_SETLEASE):
        assert said(command) == DENY


@pytest.mark.parametrize("machine", MACHINES)
def test_a_futex_is_private(machine):
    def said(operation):
        return verdict(machine, CHECKED["futex"][0][MACHINES[machine][1]], (0, operation, 0, 0, 0, 0))

    again = system_calls.ERROR | system_calls.EAGAIN
    for operation in range(14):
        assert said(operation | 128) == system_calls.ALLOW
        assert said(operation) == (again if operation in (0, 9) else DENY)
    assert said(256 | 9) == again


@pytest.mark.parametrize("machine", MACHINES)
def test_a_clock_is_of_no_other_process(machine):
    column = MACHINES[machine][1]
    for name in ("clock_gettime", "clock_getres", "clock_nanosleep"):
        number = CHECKED[name][0][column]
        for clock in range(12):
            assert verdict(machine, number, (clock, 0, 0, 0, 0, 0)) == system_calls.ALLOW
        for pid in (0, 1, 4000):
            assert verdict(machine, number, ((~pid << 3) | 2, 0, 0, 0, 0, 0)) == DENY


HEADERS = {
    "x86_64": ["/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"],
    "aarch64": ["/usr/include/asm-generic/unistd.h"],
}


@pytest.mark.parametrize("machine", MACHINES)
def test_the_tables_are_those_of_the_kernels_headers(machine):
    header = next((Path(h) for h in HEADERS[machine] if Path(h).exists()), None)
    if header is None:
        pytest.skip("the kernel's headers are not installed")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())
    numbers = {{"fstatat": "newfstatat"}.get(name, name): int(n) for name, n in found}
    tables = {**ALLOWED, **UNKNOWN, **SPECIAL, **{name: row[0] for name, row in CHECKED.items()}}
    for name, row in tables.items():
        assert row[MACHINES[machine][1]] == numbers.get(name), name


def test_prctl_numbers_are_those_of_this_kernel():
    if not Path("/usr/include/linux/prctl.h").exists():
        pytest.skip("the kernel's headers are not installed")
    text = Path("/usr/include/linux/prctl.h").read_text()
    for name, ours in (
        ("PR_SET_PDEATHSIG", child_limits.PR_SET_PDEATHSIG),
        ("PR_SET_NO_NEW_PRIVS", child_limits.PR_SET_NO_NEW_PRIVS),
        ("PR_SET_DUMPABLE", child_limits.PR_SET_DUMPABLE),
        ("PR_SET_CHILD_SUBREAPER", parent_limits.PR_SET_CHILD_SUBREAPER),
    ):
        assert int(re.search(rf"#define {name}\s+(\d+)", text)[1]) == ours
    assert ctypes.sizeof(ctypes.c_void_p) == 8


DOCKER = {0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31}  # the capabilities that a container has by default


@pytest.mark.slow
@pytest.mark.skipif(not ROOT, reason="needs root")
def test_it_works_with_what_a_container_has_by_default(tmp_path):
    for file in HOMEWORK.files:
        (tmp_path / file.stub).write_text(source_path(file.module).read_text("utf-8"), "utf-8")
    script = (
        "import ctypes, os, sys\n"
        "c = ctypes.CDLL(None)\n"
        f"[c.prctl(24, ctypes.c_ulong(n), 0, 0, 0) for n in range(41) if n not in {DOCKER}]\n"  # PR_CAPBSET_DROP
        "os.execv(sys.executable, [sys.executable, '-m', 'autograder', *sys.argv[1:]])\n"
    )
    command = [sys.executable, "-c", script, "grade", str(tmp_path), "--homework", "hw6_lora", "--gradescope"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=parent_limits.ROOT)
    assert ran.returncode == 0, ran.stderr
    assert "confined: uid yes, limits yes, seccomp yes" in ran.stderr
    assert f"hw6_lora: {HOMEWORK.points:g} of {HOMEWORK.points:g} points" in ran.stdout
