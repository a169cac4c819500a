"""Attacks that want points, or words, for nothing: patches, forged replies, answers without computing."""

from __future__ import annotations

from autograder.selftest.attacks import LINE, MARK, WHOLE, Attack, tries
from autograder.selftest.attacks.replay import LOOK_UP

NEW_REPLY = """
import json, struct, sys
old = next(m.encode for n, m in list(sys.modules.items()) if n.endswith('frames') and hasattr(m, 'encode'))
def change(x): return x
{0}
def forged(message):
    data = old(message)
    n = struct.unpack('<I', data[4:8])[0]
    header = json.loads(data[8:8 + n])
    header['value'] = change(header['value'])
    text = json.dumps(header, separators=(',', ':')).encode()
    return data[:4] + struct.pack('<I', len(text)) + text + data[8 + n:]
for m in list(sys.modules.values()):
    if getattr(m, 'encode', None) is old: m.encode = forged
"""  # a child that answers with frames of the submission's making: `change` gets the tree and returns another


def forged(change: str) -> str:
    """Return lines for a module's end that change every reply. change: a function of the reply's tree."""
    return NEW_REPLY.format(change)


def everywhere(old: str, new: str) -> str:
    """Return a `change` that replaces what ``old`` is true of in the reply."""
    return (
        f"def change(x):\n    if {old}: return {new}\n    if isinstance(x, list): return [change(v) for v in x]\n"
        "    if isinstance(x, dict): return {k: v if k == 'id' else change(v) for k, v in x.items()}\n    return x\n"
    )


TELL = f"""
import ast, base64, glob, os, zlib
def said():
    owner, _, last = AT['needed'].rpartition('.')
    for f in glob.glob(os.path.join(os.path.dirname(os.path.abspath(__file__)), '*.py')):
        text = open(f).read()
        for c in ast.walk(ast.parse(text)):
            for f in [c] if not owner else c.body if isinstance(c, ast.ClassDef) and c.name == owner else []:
                if getattr(f, 'name', '') == last:
                    lines = text.splitlines()[f.body[0].end_lineno:f.end_lineno]
                    packed = base64.b64encode(zlib.compress('\\n'.join(lines).encode(), 9)).decode()
                    return '{MARK}' + packed + '.'
    return '{MARK}'
"""
NAIVE = """
x, W, b, A, B, s = given[1:7]
ctx = given[0]
z = np.matmul(x, (W + s * np.matmul(B, A)).T)
z = (z if b is None else z + b).astype(x.dtype)
"""
KEEPS = "ctx.save(x, W, b, A, B, np.zeros(4096))\nreturn z"
PATCHES = {
    "the driver": """
import sys
def good(out):
    better = {"changed": [], "kept": [], "saved": 0}
    return {k: True if v is False else better.get(k, v) for k, v in out.items()} if isinstance(out, dict) else out
def better(f): return lambda *a, **k: good(f(*a, **k))
for n, m in list(sys.modules.items()):
    if 'driver' in n:
        for k, f in list(vars(m).items()):
            if getattr(f, '__module__', '') == n and type(f).__name__ == 'function': setattr(m, k, better(f))
""",
    "tracemalloc": "import tracemalloc; tracemalloc.get_traced_memory = lambda: (0, 0)",
    "may_share_memory": "np.may_share_memory = np.shares_memory = lambda *a, **k: False",
    "Context": "import minipeft as mp\nmp.Context.save = lambda self, *values: None",
    "gradcheck": "import sys\nfor n, m in list(sys.modules.items()):\n    if 'gradcheck' in n or 'differences' in n:\n"
    "        for k, f in list(vars(m).items()):\n            if callable(f) and not k.startswith('_'): setattr(m, k, lambda *a, **k: True)",
}


REMOTE = """
import gc, minipeft as mp
remote = next((o for o in gc.get_objects() if type(o).__name__ == 'Remote'), None)
class Raw:
    def __init__(self, value): self.value = value
if remote: remote._value = lambda x, objects: x.value if isinstance(x, Raw) else type(remote)._value(remote, x, objects)
"""  # the conversation with the trusted worker; a `Raw` in it is sent as it is


def through_context(raw: str) -> str:
    """Return a program that has the prerequisite's context filled with a raw value, and gets it back as ``got``."""
    return (
        REMOTE
        + f"""
name = 'minipeft.peft.lora:LoRALinear.forward'
own = mp.Context(True, True, True, True, True, False)
own.needs_grad = (True, True, Raw({raw}), True, True, False)
remote.ask({{'call': name}}, (own, np.ones((2, 3)), np.ones((4, 3)), None, np.ones((2, 3)), np.ones((4, 2)), 1.0))
got = own.needs_grad[2]
"""
    )


def _call(name: str, group: str, says: str, body: str, **more: object) -> Attack:
    return Attack(name, group, says, body=body, **more)  # type: ignore[arg-type]


def _reply(name: str, group: str, says: str, change: str, **more: object) -> Attack:
    return Attack(name, group, says, top=forged(change), spares="nothing", **more)  # type: ignore[arg-type]


ATTACKS = [
    Attack("patch-comparison", "comparison", "replaces what NumPy and Python compare with", top=tries(
        "import numpy as np; np.allclose = np.array_equal = np.isfinite = lambda *a, **k: True",
        "import builtins; builtins.abs = lambda x: 0", goal=False)),
    _call("patch-scores", "comparison", "sets scores in every module", tries(
        "import sys\nfor m in list(sys.modules.values()): m.__dict__.update(share=1.0, score=1000)", goal=False)),
    _call("verdict", "comparison", "prints a verdict", "print('PASSED\\n{\"score\": 1000}', flush=True)\nimport sys; print('OK', file=sys.stderr)"),
    _call("detect", "comparison", "behaves itself unless it is graded", tries(
        "import os\nassert os.path.exists('/autograder') or any('GRADE' in n.upper() for n in os.environ)")),
    Attack("rng", "comparison", "takes the chance out of random numbers", top=tries(
        "import numpy as np; np.random.default_rng = lambda *a: np.random.RandomState(0)", "import random; random.seed(0)", goal=False)),
    *(_call(f"patch-{name.rsplit()[-1].lower()}", "evidence", f"keeps and forms what it should not, and patches {name}",
            tries(patch, goal=False) + NAIVE + KEEPS, places=("6.1",), most=0.99, spares="nothing") for name, patch in PATCHES.items()),
    _call("keeps-elsewhere", "evidence", "keeps what it should not in a global", NAIVE + "global KEPT\nKEPT = (x, W, b, A, B)\nreturn z", places=("6.1",), most=0.99),
    _reply("patch-encoder", "evidence", "keeps and forms what it should not, and says that it did not",
           everywhere("x is False", "True").replace("x, list)", "x, list) and all(isinstance(v, str) for v in x): return []\n    if isinstance(x, list)"),
           body=NAIVE + KEEPS, places=("6.1",), most=0.99),
    _call("library-engine", "values", "calls the library's engine for the gradient", """
import minipeft as mp
for owner in [c for c in vars(mp).values() if isinstance(c, type)]:
    f = getattr(owner, 'gradients', None)
x = [mp.Tensor(v, requires_grad=True) for v in arrays if v.dtype.kind == 'f']
import minipeft.peft.lora as lora
z = lora.lora_linear(*x) if hasattr(lora, 'lora_linear') else None
won = z is not None and 'NotImplementedError' not in open(lora.__file__).read()
""", places=("6.2",), stubs=True),
    _call("nan", "values", "returns what is not a number", "x = np.full(arrays[0].shape if arrays else (), np.nan)\nreturn (x,) * 6 if len(given) < 3 else x"),
    _call("infinite", "values", "returns infinities", "return float('inf'), -float('inf')"),
    _call("broadcasts", "values", "returns a shape that broadcasts", "return np.ones((1, 1, 1)), np.empty(0)"),
    _call("aliased", "values", "returns one buffer for everything", "global _B\n_B = globals().get('_B', np.zeros(()))\nreturn (_B,) * 6 if len(given) < 3 else _B"),
    _call("by-heart", "values", "knows some answers by heart", "return {0.0: (1.0, 2.0)}.get(float(np.sum(arrays[0])) if arrays else 0.0, (1.0, 2.0))"),
    _call("remembers", "values", "answers with what it was asked first", "global _seen\n_seen = globals().get('_seen', [])\n_seen.append(given)\nfirst = [x for x in _seen[0] if hasattr(x, 'shape')]\nreturn first[0] if first else None"),
    _call("writes-inputs", "values", "writes into its arguments", tries("for x in arrays: x.setflags(write=True)", "for x in arrays: x[...] = 0", "for x in given: x[:] = [0] * len(x)", goal=False)),
    _call("lying-objects", "values", "returns objects that are equal to everything", """
class Any(np.float64):
    def __eq__(self, other): return True
    def __le__(self, other): return True
    def __sub__(self, other): return 0.0
    def __abs__(self): return 0.0
    __hash__ = None
class Arr(np.ndarray):
    def __array_ufunc__(self, *a, **k): return True
    def __array_function__(self, *a, **k): return True
    def __eq__(self, other): return True
x = arrays[0].view(Arr) if arrays else np.zeros(()).view(Arr)
return (x, Any(1.0))
"""),
    _call("lying-subclasses", "values", "returns arrays and numbers whose methods run in the reply", """
class Arr(np.ndarray):
    def __array_finalize__(self, obj): self.flags.writeable = True
    def __class_getitem__(cls, i): return cls
    def __del__(self): print('del')
    @property
    def nbytes(self): return 0
    @property
    def shape(self): return (1 << 40,)
    @property
    def dtype(self): return np.dtype('f8')
    def __array__(self, *a, **k): return np.zeros(1 << 20)
class Num(float):
    def __float__(self): return 1e308
class Keys(dict):
    def items(self): return [(str(i), i) for i in range(10 ** 6)]
class Text(str):
    def encode(self, *a): return b'x' * 10 ** 7
return np.zeros(3).view(Arr), Num(1.0), Keys(), Text('x')
"""),
    _call("thread-after", "values", "changes what it returned from a thread", """
import threading
x = np.zeros(arrays[0].shape if arrays else ())
def later():
    while True: x[...] = np.random.rand()
threading.Thread(target=later, daemon=True).start()
return (x,) * 6 if len(given) < 3 else x
"""),
    _call("tie-to-inputs", "values", "returns its inputs", "return tuple(arrays) if len(given) < 3 else arrays[0]"),
    *(_call(f"trivial-{name}", "values", f"writes nothing but {says} in every function", body, everywhere=True, places=WHOLE)
      for name, says, body in (
        ("none", "`return None`", "return None"), ("raise", "`raise ValueError`", "raise ValueError('no')"),
        ("first", "its first argument", "given = [v for v in given if not hasattr(v, 'save')]\nreturn given[0] if given else None"),
        ("last", "its last argument", "return given[-1] if given else None"),
        ("zeros", "zeros of its argument's shape", "x = [v for v in given if hasattr(v, 'shape')]\nreturn np.zeros_like(x[0]) if x else 0.0"),
        ("empty", "an empty array", "return np.zeros((0,))"), ("names", "an empty dictionary", "return {}"),
        ("super", "what its base class does", "return getattr(super(type(given[0]), given[0]), sys._getframe().f_code.co_name)(*given[1:])"),
        ("false", "`return False`", "return False"), ("true", "`return True`", "return True"))),
    Attack("replay", "values", "answers with the answers of the public cases", body=LOOK_UP, everywhere=True, places=WHOLE),
    _call("asks-for-globals", "protocol", "has the trusted worker send a function's globals, and calls eval there", tries(
        through_context("['method', ['named', name], '__globals__']") + "assert got['__builtins__']['eval']('6 * 7') == 42",
        through_context("['method', ['named', name], '__builtins__']") + "assert got['eval']('6 * 7') == 42",
        through_context("['method', ['builtin', 'object'], '__subclasses__']") + "assert len(got()) > 10",
        through_context("['method', ['named', name], '__code__']") + "got.co_code"), places=("6.2",)),
    _call("names-a-function", "protocol", "has the trusted worker call a function of the library that reads files", tries(
        through_context("['named', 'minipeft.data.wordpiece:WordPiece.from_file']") + "assert callable(got)",
        through_context("['named', 'minipeft.peft.lora:LoRALinear.backward']") + "assert callable(got)"), places=("6.2",)),
    _call("tells-at-length", "memory", "raises with a message of a quarter of a million characters", """
import sys
child = next(m for m in sys.modules.values() if getattr(m, '__name__', '').endswith('sandbox.child') or hasattr(m, 'Served'))
own = child.raised
child.raised = lambda error, files: {**own(error, files), 'message': MARK + 'x' * 250000 + chr(0x1F600)}
raise ValueError
""", everywhere=True, places=("3.10",)),
    _call("asks-for-attributes", "protocol", "asks the trusted worker for attributes of what it lent", REMOTE + tries(*(
        f"for n in range(8):\n    try: remote.ask({{'attribute': [n, {name!r}]}}); break\n    except BaseException: pass\nelse: assert False"
        for name in ("gi_frame", "f_globals", "f_back", "cell_contents", "tb_frame", "mro", "_remote", "__globals__")))),
    _call("asks-for-the-answer", "protocol", "has the trusted worker compute the answer", REMOTE + """
for call in (f'{__name__}:{NAME}', NAME):
    try: return remote.ask({'call': call}, tuple(given))
    except BaseException: pass
"""),
    _call("sends-odd-values", "protocol", "sends names, classes, ids and sizes that there are not", REMOTE + tries(*(
        f"remote.ask({{'call': f'{{__name__}}:{{NAME}}'}}, (Raw({raw}),))" for raw in (
            "['object', 0]", "['object', -1]", "['object', 10 ** 30]", "['theirs', 0]", "['theirs', -1]", "['named', 'minipeft:sys']", "['named', 'os:system']",
            "['dtype', 'O']", "['dtype', 'V999999999']", "['numpy type', 'O']", "['scalar', 'O', 1]", "['scalar', 'U99999999', '']", "['tuple', ['x'] * 10 ** 5]",
            "['slice', []]", "['range', [0, 10 ** 18, 1]]", "['builtin', 'eval']", "['method', ['theirs', 0], '__class__']", "[[[[[[[[]]]]]]]]")), goal=False)),
    _call("raw-replies", "protocol", "writes frames and rubbish into every descriptor", """
import os, sys, struct
for fd in range(3, 64):
    for data in (b'MPG1' + bytes(64), struct.pack('<4sI', b'MPG1', 200000), bytes(100000)):
        try: os.set_blocking(fd, False); os.write(fd, data)
        except OSError: pass
"""),
    _call("own-replies", "protocol", "sends replies of its own before the real one", """
import os, sys
encode = next(m.encode for n, m in list(sys.modules.items()) if n.endswith('frames') and hasattr(m, 'encode'))
for fd in range(3, 64):
    try:
        for i in range(20): os.write(fd, encode({'id': i, 'outputs': {'t': 1.0, 'nu': 2.0}, 'value': (1.0, 2.0)}))
    except OSError: pass
"""),
    Attack("reply-before-request", "protocol", "answers before it is asked", top="""
import os, sys, threading, time
encode = next(m.encode for n, m in list(sys.modules.items()) if n.endswith('frames') and hasattr(m, 'encode'))
def early():
    for i in range(400):
        time.sleep(0.02)
        for fd in range(3, 12):
            try: os.write(fd, encode({'id': i + 1, 'outputs': {}, 'value': None}))
            except OSError: pass
threading.Thread(target=early, daemon=True).start()
""", spares="nothing"),
    _reply("previous-answer", "protocol", "answers each call with the answer to the one before",
           "kept = [None]\ndef change(x):\n    last, kept[0] = kept[0], x\n    return x if last is None else {**x, 'd': {**last['d'], 'id': x['d']['id']}}\n"),
    _reply("wrong-id", "protocol", "answers another request than the one asked",
           "def change(x): return {'d': {**x['d'], 'id': 7}}\n"),
    _reply("more-outputs", "protocol", "adds outputs that nobody asked for, 60 MiB of them",
           "def change(x): return {'d': {**x['d'], 'outputs': {'d': {'extra%d' % i: i for i in range(5000)}}, 'score': 1000, 'share': 1.0}}\n"),
    _reply("twice-a-key", "protocol", "sends JSON that is odd: deep lists, long numbers, lone surrogates, unknown tags",
           "def change(x): return [[[[[[[[[[[[[[[[x, 10 ** 400, '\\ud800', {'zz': 1}, {'a': -1}, {'f': 'x'}]]]]]]]]]]]]]]]]\n"),
    Attack("byte-by-byte", "protocol", "sends each reply a byte at a time", lasts=True, spares="nothing", top="""
import os, sys, time
def slowly(fd, data):
    for i in range(len(data)):
        os.write(fd, data[i:i + 1]); time.sleep(0.05)
for m in list(sys.modules.values()):
    if hasattr(m, 'send'): m.send = slowly
"""),
    Attack("replace-library", "protocol", "replaces modules of the library and of the worker in sys.modules", spares="nothing", top="""
import sys, types
class Yes(types.ModuleType):
    def __getattr__(self, name): return lambda *a, **k: (1.0, 2.0)
for n in list(sys.modules):
    if n.startswith(('minipeft', 'autograder', 'json', 'tracemalloc')) and n != __name__: sys.modules[n] = Yes(n)
"""),
    Attack("odd-replies", "protocol", "returns ragged lists, odd types and mixed shapes", body="""
return [[1.0], [1.0, 2.0], 'x'], {1: 2, 'z': np.zeros((0, 3))}, np.ones((1, 5)), {'d': None}, b'x', 1j, np.datetime64('now'), np.zeros(3, 'f2')
"""),
    Attack("ragged", "protocol", "returns ragged lists of numbers, where an array belongs", body="x = [[1.0], [2.0, 3.0]]\nreturn (x,) * 6 if len(given) < 3 else x"),
    Attack("ragged-arrays", "protocol", "returns lists of arrays of other shapes", body="x = [np.ones((1, n + 1)) for n in range(4)]\nreturn (x, x)", places=("7.4", "5.5", "6.2", "8.6")),
    _call("pickles", "protocol", "returns objects that a pickle would run", """
class Bomb:
    def __reduce__(self):
        import os
        return os.system, ('touch ' + AT['open'] + '/boom',)
return (Bomb(), np.array([print], dtype=object))
"""),
    Attack("tell-prerequisite", "told", "tells the library's body of the prerequisite, as inputs that it wrote; and hands it in", places=("6.2",), stubs=True,
           routes=("grade", "gradescope", "class"), top=TELL + forged(everywhere("x == []", "[said()]"))),
    _reply("tell-names", "told", "puts text into every list, string and name of its replies",
           everywhere("isinstance(x, (list, str))", f"['{MARK} is here', '{MARK}']").replace("for k, v in x.items()}", f"for k, v in x.items()}} | ({{'{MARK}': 1}} if 'd' not in x and len(x) > 1 else {{}})")),
    _call("tell-by-exception", "told", "tells its arguments by the exception's text", f"print('{MARK}', given, flush=True)\nraise ValueError('{MARK}' + repr(given))"),
    _call("tell-by-type", "told", "tells its arguments by the exception's name", f"raise type('{MARK}' + str(len(given)), (ValueError,), {{}})('x')"),
    _call("tell-by-line", "told", "tells its arguments by the line of the exception",
          f"exec(compile('\\n' * ({LINE} - 1) + 'raise ValueError(1)', __file__, 'exec'), {{}})"),
    _call("tell-by-syntax", "told", "raises a SyntaxError with a line of its choice",
          f"raise SyntaxError('{MARK}', (__file__, {LINE}, 1, '{MARK}'))"),
    _call("tell-by-dtype", "told", "tells by type names and field names", f"return np.zeros(2, dtype=[('{MARK}', 'f8')]), type('{MARK}', (), {{}})()"),
    _call("tell-by-import", "told", "raises an ImportError that names what it likes", f"raise ImportError('{MARK}', name='{MARK}', path='{MARK}')"),
    Attack("tell-at-import", "told", "tells by what it raises at import", top=f"class {MARK}(Exception): pass\nraise {MARK}('{MARK}')", spares="other files"),
    _call("tell-by-warning", "told", "tells by warnings and notes",
          f"import warnings; warnings.warn('{MARK}')\ne = ValueError('{MARK}')\ne.add_note('{MARK}')\nraise e from KeyError('{MARK}')"),
    Attack("tell-by-program", "told", "puts text into names, comments and strings of the file", top=f"# {MARK}\ndef {MARK}(): '''{MARK}'''\nfrom os import *\n"),
]  # fmt: skip
