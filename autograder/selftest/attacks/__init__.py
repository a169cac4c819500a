"""Attacks on the grader: submissions that cheat, break out or break down. `run` tries them; none may succeed.

Each is the library's own program for a homework with one function replaced (or lines added to its module) that does the
attack and then returns nonsense. What must hold afterwards: no points for that part and all for the others, valid
results, nothing of the secret in what a student sees, the time bounded, no process of the worker's user and no file of
its left. In the texts, {results}, {secret}, {open}, {pid}, {source} and {answer} stand for the results file, a file that
only root reads, a folder that anyone writes, the grader's process, the grader's own code and the module with the answer.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Attack:
    """kind: the class of attack. body: in place of a function's, in the call; top: at the end of the module, at import.

    more: files beside, by name. whole_file: the file cannot even be imported, so all its parts may lose points.
    """

    id: str
    kind: str
    body: str = ""
    top: str = ""
    more: tuple[tuple[str, str], ...] = ()
    whole_file: bool = False


def _call(name: str, kind: str, body: str) -> Attack:
    """An attack in the call, each statement of which may fail."""
    return Attack(name, kind, body=body)


def _import(name: str, kind: str, top: str, whole_file: bool = True) -> Attack:
    """An attack at import."""
    return Attack(name, kind, top=top, whole_file=whole_file)


TRY = "try:\n    {0}\nexcept BaseException:\n    pass\n"


def _each(*statements: str) -> str:
    """Every statement tried, whatever becomes of the others."""
    return "".join(TRY.format(s.replace("\n", "\n    ")) for s in statements)


ATTACKS = [
    _call("overwrite-results", "E1 overwrite the results", _each(
        "open({results!r}, 'w').write('{{\"score\": 1000}}')",
        "import os; os.chmod({results!r}, 0o400)",
        "import os; os.replace({open!r} + '/x', {results!r})",
    )),
    _call("late-daemon", "E2 overwrite them later", _each(
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        for _ in range(600):\n"
        "            time.sleep(0.1)\n            open({results!r}, 'w').write('{{\"score\": 1000}}')\n    os._exit(0)",
    )),
    _call("edit-script", "E3 edit the running script", _each(
        "open('/autograder/run_autograder', 'a').write('echo')", "open({source!r} + '/grading/grade.py', 'a').write('#')",
    )),
    _call("edit-harness", "E4 edit the harness", _each(
        "open('/autograder/harness.py', 'a').write('#')", "open({source!r} + '/sandbox/session.py', 'w').write('')",
        "open('/etc/ld.so.preload', 'w').write('x')",
    )),
    _call("read-reference", "E5 read tests and reference", _each(
        "import glob\nfor f in glob.glob({source!r} + '/**', recursive=True): print(open(f).read())",
        "import sys\nfor m in list(sys.modules.values()): print(open(m.__file__).read() if 'cases' in str(m) else '')",
        "print(open({secret!r}).read())", "raise ValueError(open({secret!r}).read())",
    )),
    _call("read-answer", "E5 read tests and reference",
        "names = {{'__name__': 'minipeft.lab.framework.welch'}}\ntry:\n    exec(open({answer!r}).read(), names)\n"
        "except OSError:\n    names = {{}}\nif 'welch_statistic' in names:\n    return names['welch_statistic'](a, b)",
    ),
    _call("read-memory", "E6 read the grader's memory", _each(
        "open('/proc/{pid}/mem', 'rb').read(1)", "print(open('/proc/{pid}/environ').read())",
        "import ctypes; ctypes.CDLL(None).ptrace(16, {pid}, 0, 0)",
        "import ctypes; ctypes.CDLL(None).process_vm_readv({pid}, 0, 0, 0, 0, 0)",
    )),
    _call("inherited", "E7 what was inherited", _each(
        "import os\nfor fd in os.listdir('/proc/self/fd'): print(os.read(int(fd), 100))",
        "import os; print(os.environ)", "print(open('/proc/{pid}/cmdline').read())",
        "import gc\nprint([o for o in gc.get_objects() if 'expected' in str(type(o))])",
    )),
    _call("frames", "E8 walk the frames", _each(
        "import sys\nf = sys._getframe()\nwhile f:\n    print(f.f_locals.get('expected'), f.f_locals.keys())\n    f = f.f_back",
    )),
    _call("modules", "E9 dig in modules", _each(
        "import sys\nprint([m for m in sys.modules if 'case' in m or 'check' in m])",
        "import autograder.homeworks.case as c; print(c)", "import autograder.grading.check", "import autograder.homeworks.mutant",
    )),
    _import("patch-comparison", "E10 patch the comparison", _each(
        "import numpy as np; np.allclose = np.array_equal = lambda *a, **k: True",
        "import numpy as np; np.abs = np.max = lambda *a, **k: 0.0", "import builtins; builtins.abs = lambda x: 0",
    ) + "\n\ndef welch_statistic(a, b):\n    return 1.0, 2.0\n", whole_file=True),
    _call("patch-scores", "E11 patch the scores", _each(
        "import sys\nfor m in list(sys.modules.values()):\n    m.__dict__.update(share=1.0, score=1000)",
    )),
    _call("magic-objects", "E12 objects that are equal to all", """
import numpy as np
class Any(np.float64):
    def __eq__(self, other): return True
    def __le__(self, other): return True
    def __sub__(self, other): return 0.0
    def __abs__(self): return 0.0
class Arr(np.ndarray):
    def __array_ufunc__(self, *a, **k): return True
    def __array_function__(self, *a, **k): return True
return np.zeros(()).view(Arr), Any(1.0)
"""),
    _call("exit", "E13 end early", "import os\nos._exit(0)"),
    _call("exit-python", "E13 end early", "raise SystemExit(0)"),
    _call("interrupt", "E13 end early", "raise KeyboardInterrupt"),
    _call("stdout-verdict", "E14 a verdict on stdout", "print('PASSED 8.6\\n{{\"score\": 1000}}', flush=True)"),
    _call("own-replies", "E15 own replies", _each(
        "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'MPG1' + b'\\0' * 64)\n    except OSError: pass",
    )),
    _call("own-frames", "E15 own replies", _each(
        "import os, sys\nfrom autograder.sandbox.frames import encode\nfor fd in range(3, 64):\n    try:\n"
        "        for i in range(20): os.write(fd, encode({{'id': i, 'outputs': {{'t': 1.0, 'nu': 2.0}}}}))\n"
        "    except OSError: pass",
    )),
    _call("pickle", "E16 a pickle", """
class Bomb:
    def __reduce__(self):
        import os
        return os.system, ('touch ' + {open!r} + '/boom',)
return Bomb(), Bomb()
"""),
    _call("object-array", "E16 a pickle", "import numpy as np\nreturn np.array([print], dtype=object), 1.0"),
    _call("huge-array", "E17 sizes", "import numpy as np\nreturn np.broadcast_to(1.0, (1 << 20, 1 << 22)), 1.0"),
    _call("empty-giant", "E17 sizes", "import numpy as np\nreturn np.empty((0, 1 << 60)), 1.0"),
    _call("deep", "E17 sizes", "x = []\nfor _ in range(100000): x = [x]\nreturn x, 1.0"),
    _call("broadcasts", "E18 a shape that broadcasts", "import numpy as np\nreturn np.ones((1, 1, 1)), np.empty(0)"),
    _call("nan", "E19 not a number", "return float('nan'), float('nan')"),
    _call("mutate-inputs", "E20 write the inputs", _each("a[...] = 0", "b[...] = 0", "a[:] = [0] * len(a)")),
    _call("aliased", "E21 one buffer for all", "import numpy as np\nglobal _B\n_B = globals().get('_B', np.zeros(()))\nreturn _B, _B"),
    _call("table", "E23 answers by heart", "return {{0.0: (1.0, 2.0)}}.get(float(sum(a)), (1.0, 2.0))"),
    _call("detect", "E24 know the test", _each(
        "import os\nif 'GRADESCOPE' in os.environ or os.path.exists('/autograder'): raise SystemExit",
    )),
    _call("leak-inputs", "E25 tell the inputs", "print('SECRET', list(a), flush=True)\nraise ValueError(repr(list(a)) + repr(list(b)))"),
    _call("leak-type", "E25 tell the inputs", "raise type('E' + str(float(a[0])).replace('.', '_').replace('-', 'm'), (Exception,), {{}})(a)"),
    _call("leak-time", "E26 tell by time", "import time\ntime.sleep(0.05 * (float(a[0]) > 0))"),
    _call("socket", "E27 the network", _each(
        "import socket; socket.create_connection(('127.0.0.1', 9), 1)",
        "import socket; socket.socket(socket.AF_UNIX).connect({open!r} + '/s')",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
    )),
    _call("hang", "E28 hang", "while True:\n    pass"),
    _call("sleep", "E28 hang", "import time\ntime.sleep(1e6)"),
    _call("defy-timeouts", "E29 defy time-outs", """
import signal
for s in range(1, 64):
    try: signal.signal(s, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True:
    try:
        while True: pass
    except BaseException: pass
"""),
    _call("stop-itself", "E30 stop itself", "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)"),
    _call("close-pipes", "E30 close the pipes", "import os\nfor fd in range(64):\n    try: os.close(fd)\n    except OSError: pass"),
    _call("fork-bomb", "E31 forks", "import os\nfor _ in range(200):\n    try: os.fork()\n    except OSError: pass"),
    _call("threads", "E31 threads", "import threading, time\nfor _ in range(500):\n    try: threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()\n    except RuntimeError: break"),
    _call("memory", "E32 memory", "x = []\nwhile True: x.append(bytearray(1 << 26))"),
    _call("memory-numpy", "E32 memory", "import numpy as np\nreturn np.ones(1 << 40), 1.0"),
    _call("disk", "E33 the disk", _each(
        "f = open({open!r} + '/big', 'wb')\nfor _ in range(100): f.write(b'x' * (1 << 22))",
        "f = open('/dev/shm/big', 'wb')\nf.write(b'x' * (1 << 24))",
        "for i in range(1000): open({open!r} + '/f%d' % i, 'w')",
    )),
    _call("flood", "E34 output without end", "while True: print('x' * 100000)"),
    _call("recursion", "E35 the stack", "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()\nf()"),
    _call("crash", "E35 the stack", "import ctypes\nctypes.string_at(0)"),
    _call("kill", "E36 kill others", _each(
        "import os, signal; os.kill({pid}, signal.SIGKILL)", "import os, signal; os.kill(-1, signal.SIGKILL)",
        "import os, signal; os.kill(os.getppid(), signal.SIGTERM)",
    )),
    Attack("shadow", "E37 modules in place of ours", body="return 1.0, 2.0", more=(
        ("numpy.py", "raise SystemExit"), ("json.py", "raise SystemExit"), ("sitecustomize.py", "raise SystemExit"),
        ("conftest.py", "raise SystemExit"), ("check.py", "raise SystemExit"),
    )),
    _call("links", "E39 links where root may follow", _each(
        "import os; os.symlink('/etc/shadow', 'results.json')", "import os; os.link('/etc/passwd', {open!r} + '/p')",
        "import os; os.mkfifo({open!r} + '/fifo')", "import os; os.symlink('/etc/shadow', {open!r} + '/link')",
    )),
    _call("native", "E40 native code", _each(
        "import ctypes; ctypes.CDLL(None).system(b'id > /dev/shm/out')",
        "import marshal; exec(marshal.loads(marshal.dumps(compile('import os; os._exit(0)', 'x', 'exec'))))",
    )),
    _call("forbidden", "E41 other libraries", "import torch\nreturn float(torch.tensor(1.0)), 1.0"),
    _call("reference-at-hand", "E42 the library's own answer", "from minipeft.lab.framework import welch\nreturn welch.welch_statistic(a, b)"),
    _call("markup", "E44 markup in the output", "raise ValueError('<script>alert(1)</script>\\x1b[31m\\u202e[x](http://x)' + chr(0))"),
    _import("markup-name", "E44 markup in the output", "class E(Exception): pass\nE.__name__ = '<b>\\u202e'\nraise E('x')"),
    _call("surrogate", "E45 broken JSON", "raise ValueError('\\ud800' * 100000)"),
    _call("infinity", "E45 broken JSON", "return float('inf'), -float('inf')"),
    _import("import-exit", "E46 nothing is left", "import os\nos._exit(0)"),
    _import("import-hang", "E46 nothing is left", "while True: pass"),
    _call("shared-names", "E47 shared names", _each(
        "open('/tmp/minipeft-x', 'w').write('x')", "open('/dev/shm/minipeft-x', 'w').write('x')",
        "import ctypes; assert ctypes.CDLL(None).shmget(0x1234, 4096, 0o1666) >= 0",
    )),
    _call("namespaces", "E48 out by the kernel", _each(
        "import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0",
        "import ctypes; assert ctypes.CDLL(None).syscall(321, 0, 0, 0) >= 0",
        "import ctypes; assert ctypes.CDLL(None).syscall(425, 1, 0) >= 0",
    )),
    _call("setuid", "E49 setuid programs", _each(
        "import subprocess; subprocess.run(['/bin/su', '-c', 'id'], timeout=2)",
        "import os; os.execv('/usr/bin/passwd', ['passwd'])", "import os; os.setuid(0)",
    )),
    _call("metadata", "E50 the metadata", _each("print(open('/autograder/submission_metadata.json').read())")),
    _import("rng", "E52 tamper with chance", _each(
        "import numpy as np; np.random.default_rng = lambda *a: np.random.RandomState(0)",
        "import numpy as np; np.random.seed(0)",
    ) + "\n\ndef welch_statistic(a, b):\n    return 1.0, 2.0\n"),
    _call("state", "E53 remember", "global _seen\n_seen = globals().get('_seen', [])\n_seen.append((a, b))\nreturn _seen[0][0][0], 1.0"),
    _call("thread-after", "E54 change it afterwards", """
import threading, numpy as np
x = np.zeros(())
def later():
    while True: x[...] = 1.0
threading.Thread(target=later, daemon=True).start()
return x, x
"""),
    _call("home", "E55 files of the staff", _each(
        "import os; print(open(os.path.expanduser('~root/.ssh/id_rsa')).read())", "print(open('/etc/shadow').read())",
        "import os; print(os.listdir('/root'))",
    )),
]  # fmt: skip

DEFENCES = {  # by class, what stops it; several where each would do alone
    "E1": "files open for reading alone (seccomp); the grader's are another user's",
    "E2": "no fork (seccomp); every process of the worker's user is killed at the end",
    "E3": "files open for reading alone; the grader's are another user's; the script ends in `exec`",
    "E4": "files open for reading alone; another user",
    "E5": "hidden cases and answers are never in the worker; its files are closed to other users, or to Landlock",
    "E6": "another user; no ptrace, no process_vm_readv (seccomp)",
    "E7": "a fresh interpreter: closed descriptors, seven names of environment, no secret in the arguments",
    "E8": "what is expected is never in the worker",
    "E9": "what is expected is never in the worker",
    "E10": "comparing happens in the grader's process",
    "E11": "points are counted in the grader's process",
    "E12": "plain numbers and arrays alone cross the pipe",
    "E13": "no reply is no point; exit statuses count nothing",
    "E14": "what is printed is never parsed",
    "E15": "one reply for each request, by its number; a reply holds values, never a verdict",
    "E16": "no pickle: a JSON header and raw buffers, few dtypes",
    "E17": "sizes, dimensions and depth are capped before anything is allocated",
    "E18": "the shape must be the expected one before values are compared",
    "E19": "an error that is not <= the tolerance is a failure; values must be finite",
    "E20": "the answers are computed from the grader's own inputs",
    "E21": "outputs are copied at once; several cases with other inputs",
    "E23": "the inputs are drawn from a secret",
    "E24": "the same environment for public and for hidden cases",
    "E25": "of a hidden case the category alone is told: no output, no message, no name of its own",
    "E26": "inputs alone give no answer; the time is bounded",
    "E27": "no socket (seccomp)",
    "E28": "processor time of each case; four idle seconds end it; the clock is the grader's",
    "E29": "deadlines are kept by the grader, with SIGKILL",
    "E30": "no signals (seccomp); the idle limit; a pipe at its end is a failure",
    "E31": "threads alone, 64 of them (seccomp, limits)",
    "E32": "address space is limited",
    "E33": "no file can be opened for writing (seccomp), none may have a size (limits)",
    "E34": "64 KiB are kept; 4 MiB end the worker",
    "E35": "a process of its own: a crash costs its own case",
    "E36": "no signals (seccomp); a user number for each worker",
    "E37": "only the homework's files are taken; the library and NumPy come first on the path",
    "E39": "no links, no named pipes (seccomp); the grader opens no file of a worker",
    "E40": "the filter holds for native code as well",
    "E41": "the worker's path holds NumPy and the stripped library alone",
    "E42": "the library in the worker has stubs in place of the answers",
    "E44": "texts are cleaned of control and direction marks, escaped, and told as plain text",
    "E45": "valid JSON, finite, capped, written in one stroke",
    "E46": "results.json is there before anything runs, and written anew after each problem",
    "E47": "no file opened for writing, no shared memory (seccomp); a folder for each worker",
    "E48": "no namespaces, no bpf, no io_uring (seccomp)",
    "E49": "no new privileges; no execve (seccomp)",
    "E50": "the metadata is another user's, mode 0600",
    "E52": "inputs and masks are drawn in the grader's process",
    "E53": "fresh workers; cases with other inputs",
    "E54": "a reply is copied once, and the process ends with its problem",
    "E55": "another user; Landlock leaves Python, NumPy, the library and the submission to read",
}
ELSEWHERE = {
    "E22": "a forward that is wrong with a backward that fits it: a mutant of the homeworks, `selftest`",
    "E38": "archives that lead out of their folder, links, bombs: `tests/autograder/test_intake.py`",
    "E43": "finite differences for a backward: the processor time of the large case in the cases of each homework, `autograder/homeworks/case`",
    "E51": "cells of a notebook: none is run here, homeworks are modules",
}
