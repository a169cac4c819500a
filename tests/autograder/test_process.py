"""A process that answers frames: one reply to each request, and none before the request; nothing holds up its end."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from autograder.homeworks.homework import ROOT
from autograder.sandbox import process as module
from autograder.sandbox.frames import FrameError, decode, encode
from autograder.sandbox.process import CRASHES, Lost, Process, Watch, ended

START = f"import os, sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom autograder.sandbox.frames import encode\n"
ECHO = """
from autograder.sandbox.child import received
from autograder.sandbox.frames import send
for message in received(0):
    send(1, encode(message))
"""
LOOP = "    while time.process_time() < until: pass\n"
BUSY = "import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
STOPPED = """
from pathlib import Path
from autograder.sandbox import process as module
from autograder.sandbox.frames import decode
module.IDLE_SECONDS = 0.5
work = "import time\\nuntil = time.process_time() + 1.0\\nwhile time.process_time() < until: pass\\n"
worker = module.Process([sys.executable, "-c", {start!r} + work + {echo!r}], Path("."), dict(os.environ))
print(worker.pid, flush=True)
print(decode(worker.exchange(encode({{"id": 1}}), module.Watch(worker.pid, 10.0))), flush=True)
worker.kill()
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process does")


@pytest.fixture
def started(tmp_path):
    made = []

    def start(program):
        made.append(Process([sys.executable, "-c", START + program], tmp_path, dict(os.environ)))
        return made[-1]

    yield start
    for process in made:
        process.kill()
        process.drain()


def test_replies_come_back_whatever_their_size(started):
    echo = started(ECHO)
    for n in (0, 1, 8_000, 8_192, 100_000, 1_000_000, *[3] * 200):
        x = np.arange(n, dtype=float)
        assert np.array_equal(decode(echo.exchange(encode({"x": x}), Watch(echo.pid, 10.0), 10**8))["x"], x)


def test_a_reply_before_the_request_was_read_is_an_error(started):
    early = started("os.write(1, encode({'id': 1})); import time; time.sleep(60)")
    with pytest.raises(FrameError, match="a reply before the request was read"):
        early.exchange(encode({"x": np.zeros(1_000_000)}), Watch(early.pid, 10.0))


def test_a_reply_to_no_request_is_an_error_of_the_next_exchange(started):
    twice = started(ECHO.replace("encode(message)", "encode(message)); import time; time.sleep(0.2); send(1, b'x'"))
    twice.exchange(encode({"id": 1}), Watch(twice.pid, 10.0))
    time.sleep(1.0)
    with pytest.raises(FrameError):
        twice.exchange(encode({"id": 2}), Watch(twice.pid, 10.0))


@pytest.mark.skipif(sys.platform == "win32", reason="it needs fork")
def test_a_child_that_lives_on_holds_up_nothing(started, monkeypatch):
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.5)
    process = started(
        "child = os.fork()\nif child == 0:\n    os.setsid(); import time; time.sleep(60)\nos.write(2, b'%d' % child)"
    )
    with pytest.raises(Lost):
        process.exchange(encode(1), Watch(process.pid, 10.0))
    begun = time.monotonic()
    process.kill()
    process.drain()
    assert time.monotonic() - begun < 5
    os.kill(int(process.log), signal.SIGKILL)
    for thread in process._threads:
        thread.join()


@linux
def test_a_child_in_a_session_of_its_own_ends_with_the_process(started):
    program = started("if os.fork() == 0:\n    os.setsid()\n    import time; time.sleep(60)\n" + ECHO)
    assert decode(program.exchange(encode({"id": 1}), Watch(program.pid, 10.0))) == {"id": 1}
    (child,) = module.children(program.pid)
    program.kill()
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split(")")[1]:
            return
        time.sleep(0.02)
    pytest.fail("the child lives on")


@linux
def test_a_process_that_gets_no_processor_has_as_long_as_it_takes(started, monkeypatch):
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.2)
    core = min(os.sched_getaffinity(0))
    work = f"import time\nos.sched_setaffinity(0, {{{core}}}); os.nice(19)\n"
    slow = started(
        work + ECHO.replace("    send", "    until = time.process_time() + 0.2\n{LOOP}    send").format(LOOP=LOOP)
    )
    slow.exchange(encode({"id": 0}), Watch(slow.pid, 10.0))
    command = [sys.executable, "-c", BUSY.format(core=core)]
    busy = [subprocess.Popen(command, start_new_session=True) for _ in range(12)]
    try:
        begun = time.monotonic()
        assert decode(slow.exchange(encode({"id": 1}), Watch(slow.pid, 0.3))) == {"id": 1}
        assert time.monotonic() - begun > 6 * 0.3  # seconds by the clock
    finally:
        for one in busy:
            one.kill()
            one.wait()


@linux
def test_a_moment_in_which_the_machine_stands_still_does_not_count(started, monkeypatch):
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.5)
    program = started("import time; time.sleep(1000)")
    clock = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    watch = Watch(program.pid, 10.0)
    for _ in range(3):
        clock[0] += 1000.0  # both stood still
        assert watch.late() == ""
    for _ in range(50):
        clock[0] += module.TICK
    assert watch.late() == ""


@linux
def test_a_grader_and_its_worker_may_stand_still(tmp_path):
    code = START + STOPPED.format(start=START, echo=ECHO)
    grader = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=tmp_path, text=True)
    worker = int(grader.stdout.readline())
    for pid in (grader.pid, worker):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(2.0)
    for pid in (grader.pid, worker):
        os.kill(pid, signal.SIGCONT)
    assert grader.communicate()[0] == "{'id': 1}\n"


@linux
def test_a_process_that_works_a_little_and_waits_a_little_ends(started, monkeypatch):
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.5)
    drips = started("import time\nwhile True:\n    time.sleep(0.2); until = time.process_time() + 0.02\n" + LOOP)
    begun = time.monotonic()
    with pytest.raises(Lost) as lost:
        drips.exchange(encode(1), Watch(drips.pid, 1.0))
    assert lost.value.raised.message == "it waits for something that does not come"
    assert time.monotonic() - begun > 1.0


@linux
def test_a_thread_that_works_while_the_first_one_waits_is_seen(started):
    program = "import threading, time\ndef work():\n    while True: pass\n"
    busy = started(program + "threading.Thread(target=work, daemon=True).start()\n" + ECHO)
    assert decode(busy.exchange(encode({"id": 1}), Watch(busy.pid, 10.0))) == {"id": 1}
    assert any("R" in module.states(busy.pid) for _ in range(50))


@linux
def test_a_process_with_too_many_threads_ends(started):
    one = "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    start = f"import threading, time\nfor _ in range({{}}): {one}"
    few, many = started(start.format(60) + ECHO), started(start.format(100) + "\ntime.sleep(60)")
    assert decode(few.exchange(encode({"id": 1}), Watch(few.pid, 10.0))) == {"id": 1}
    with pytest.raises(Lost) as lost:
        many.exchange(encode({"id": 1}), Watch(many.pid, 10.0))
    assert (lost.value.raised.error, lost.value.raised.message) == ("started too many threads", "more than 64")


def test_no_thread_and_no_descriptor_is_left(started):
    threads, files = threading.active_count(), len(os.listdir("/dev/fd"))
    for _ in range(3):
        process = started(ECHO)
        process.exchange(encode(1), Watch(process.pid, 10.0))
        process.kill()
        process.drain()
    assert (threading.active_count(), len(os.listdir("/dev/fd"))) == (threads, files)


@pytest.mark.parametrize(
    ("status", "says"),
    [(0, "ended before it answered"), (-11, "crashed (SIGSEGV)"), (-99, "crashed (signal 99)")]
    + [(code, f"crashed ({name})") for code, name in CRASHES.items()],
)
def test_how_a_process_ended_is_said(status, says):
    assert ended(status).error == says
