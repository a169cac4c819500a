"""Attacks that use up time, memory or the reader's patience, or end early."""

from __future__ import annotations

from autograder.selftest.attacks import Attack
from autograder.selftest.attacks.cheat import forged

ANY = ("8.6", "6.1", "6.2", "4.5")  # where what the function returns is what the worker sends


def _call(name: str, group: str, says: str, body: str, **more: object) -> Attack:
    return Attack(name, group, says, body=body, **more)  # type: ignore[arg-type]


def _lasts(name: str, says: str, body: str, **more: object) -> Attack:
    return Attack(name, "time", says, body=body, lasts=True, **more)  # type: ignore[arg-type]


def _import(name: str, group: str, says: str, top: str, **more: object) -> Attack:
    return Attack(name, group, says, top=top, **{"spares": "other files", **more})  # type: ignore[arg-type]


BOTH = "\nreturn (x,) * 6 if len(given) < 3 else x"  # as a gradient for each argument, or as one output
ATTACKS = [
    _lasts("loop", "loops", "while True: pass"),
    _lasts("sleep", "sleeps", "import time\ntime.sleep(1e6)"),
    _lasts("drip", "works a little and sleeps a little", """
import time
while True:
    end = time.process_time() + 0.012
    while time.process_time() < end: pass
    time.sleep(3.6)
"""),
    _lasts("drip-output", "prints a byte now and then", "import time\nwhile True:\n    print('x', flush=True)\n    time.sleep(1)"),
    _lasts("slow-calls", "takes as long as it may in every call", "import time\nend = time.process_time() + 1.5\nwhile time.process_time() < end: pass"),
    _lasts("ignore-signals", "ignores signals and exceptions", """
import signal
for s in range(1, 64):
    try: signal.signal(s, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True:
    try:
        while True: pass
    except BaseException: pass
"""),
    _lasts("threads-that-work", "works in threads", "import threading\ndef work():\n    while True: pass\nfor _ in range(8): threading.Thread(target=work, daemon=True).start()\nwork()"),
    Attack("import-loop", "time", "loops at import", top="while True: pass", spares="nothing", lasts=True),
    Attack("import-sleep", "time", "sleeps at import", top="import time; time.sleep(1e6)", spares="nothing", lasts=True),
    Attack("slow-to-parse", "time", "takes long to read and to compile", top="x = " + "-" * 80 + "1\n" + "y = [" + "(" * 90 + "1" + ")" * 90 + "]\nz = " + "+".join(["1"] * 3000) + "\n", most=1.0, spares="other files"),
    _call("leak-by-time", "time", "takes longer for some inputs", "import time\ntime.sleep(0.05 * (float(np.sum(arrays[0])) > 0) if arrays else 0.05)"),
    Attack("slow-to-delete", "time", "works when its objects are deleted, and at exit", lasts=True, body="""
import atexit, gc, weakref
class Slow(list):
    def __del__(self):
        while True: pass
def work():
    while True: pass
atexit.register(work)
x = Slow()
x.append(x)
gc.collect()
"""),
    _call("axes", "memory", "returns 64 MiB in eight axes of float16", "x = np.zeros((2,) * 7 + ((1 << 25) >> 7,), np.float16)" + BOTH, places=ANY),
    _call("right-type-and-large", "memory", "returns 60 MiB of the right type for every output", "x = np.ones((60 << 20) // 8)" + BOTH, places=ANY),
    _call("right-size-wrong-shape", "memory", "returns large arrays whose last axes fit", "x = arrays[0] if arrays else np.zeros(3)\nx = np.broadcast_to(x, ((7 << 20) // max(1, x.size), *x.shape)).copy()" + BOTH, places=ANY),
    Attack("many-references", "memory", "names one array 30,000 times", spares="nothing",
           top=forged("def change(x):\n    if isinstance(x, dict) and list(x) == ['a']: return [x] * 28000\n    if isinstance(x, list): return [change(v) for v in x]\n"
                      "    if isinstance(x, dict): return {k: change(v) for k, v in x.items()}\n    return x\n")),
    Attack("deep-reply", "memory", "sends JSON 100,000 lists deep", spares="nothing", top=forged("def change(x): return x\n") + """
for m in list(sys.modules.values()):
    if getattr(m, 'encode', None) is forged:
        m.encode = lambda message: b'MPG1' + struct.pack('<I', 200000) + b'[' * 100000 + b']' * 100000
"""),
    Attack("keys", "memory", "returns lists and dictionaries with very many entries", body="return {str(i): i for i in range(10 ** 5)}, [0] * 10 ** 6, 'x' * 10 ** 7"),
    _call("huge", "memory", "returns arrays that do not exist", "return np.broadcast_to(1.0, (1 << 20, 1 << 22)), np.empty((0, 1 << 60))"),
    _call("deep-lists", "memory", "returns lists 100,000 deep", "x = []\nfor _ in range(100000): x = [x]\nreturn x, 1.0"),
    _call("cyclic", "memory", "returns a list that holds itself", "x = []\nx.append(x)\nd = {}\nd['d'] = d\nreturn x, d"),
    _call("allocates", "memory", "allocates until it fails", "x = []\nwhile True: x.append(bytearray(1 << 26))"),
    _call("allocates-at-once", "memory", "allocates 8 TiB", "np.ones(1 << 40)"),
    _call("many-errors", "memory", "raises exceptions of a megabyte, with a long chain", "e = None\nfor i in range(2000):\n    try: raise ValueError('x' * 1000) from e\n    except ValueError as f: e = f\nraise ValueError('\\ud800' * 10 ** 6) from e"),
    _call("exit", "ends", "ends the process", "import os\nos._exit(0)"),
    _call("exit-python", "ends", "raises SystemExit and its like", "raise (SystemExit(0), KeyboardInterrupt(), GeneratorExit())[len(given) % 3]"),
    _call("crash", "ends", "crashes in every call", "import ctypes\nctypes.string_at(0)"),
    _call("recursion", "ends", "recurses without end", "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()\nf()"),
    _call("close-pipes", "ends", "closes every descriptor", "import os\nfor fd in range(64):\n    try: os.close(fd)\n    except OSError: pass"),
    _call("stop-itself", "ends", "stops itself", "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)"),
    _call("kill-itself", "ends", "kills itself by signal and by limit", "import os, signal, resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 1))\nsignal.raise_signal(signal.SIGKILL)"),
    _call("fork-bomb", "ends", "forks and starts threads until it fails", """
import os, threading, time
for _ in range(200):
    try: os.fork()
    except OSError: pass
for _ in range(700):
    try: threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()
    except RuntimeError: break
"""),
    _import("import-exit", "ends", "ends the process at import", "import os\nos._exit(0)"),
    _import("import-crash", "ends", "crashes at import", "import ctypes\nctypes.string_at(0)"),
    _import("no-reply", "ends", "replaces the worker's loop", "import sys\nfor m in list(sys.modules.values()):\n    for n in ('send', 'receive', 'decode', 'encode'):\n        if hasattr(m, n): setattr(m, n, lambda *a, **k: None)", spares="nothing"),
    _call("flood", "output", "prints without end", "while True: print('x' * 100000)"),
    _call("flood-each-call", "output", "prints 3 MiB in every call", "print('x' * (3 << 20))\nimport os; os.write(2, b'\\0\\xff' * 10000)"),
    _call("flood-lines", "output", "prints control characters and markup", "print('\\x1b[2J\\x1b]0;x\\x07<script>alert(1)</script>\\u202e' * 2000)"),
]  # fmt: skip
