"""Attacks that read, write or reach what they may not: a statement that does not raise has reached its goal."""

from __future__ import annotations

from autograder.selftest.attacks import Attack, tries

LOCAL = ("all layers", "a user")  # in a container only what setup.sh installed is there, and it may be read


def _reach(name: str, group: str, says: str, *statements: str, **more: object) -> Attack:
    return Attack(name, group, says, body=tries(*statements), **more)  # type: ignore[arg-type]


_FCNTL = "import fcntl, struct, numpy\nf = open(numpy.__file__)\n"
_LOCK = "fcntl.fcntl(f, {0}, struct.pack('hhqqi4x', fcntl.F_RDLCK, 0, 0, 1, 0))"
_SYSCALL = "import ctypes; assert ctypes.CDLL(None).syscall({0}) >= 0"

ATTACKS = [
    _reach("results-file", "results", "opens, closes or replaces the results file",
        "open(AT['results'], 'w').write('{\"score\": 1000}')", "import os; os.chmod(AT['results'], 0o400)",
        "import os; os.replace(AT['open'] + '/x', AT['results'])", "import os; os.truncate(AT['results'], 0)",
        "import os; os.utime(AT['results'])"),
    _reach("daemon", "results", "leaves a process that writes the results later",
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        for _ in range(600):\n"
        "            time.sleep(0.1)\n            open(AT['results'], 'w').write('{\"score\": 1000}')\n    os._exit(0)"),
    _reach("edit-grader", "results", "edits the grader and its script",
        "open('/autograder/run_autograder', 'a').write('echo')", "open(AT['source'] + '/grading/grade.py', 'a').write('#')",
        "open(AT['source'] + '/__init__.py', 'r+').write('#')", "open('/etc/ld.so.preload', 'w').write('x')"),
    _reach("links", "results", "makes links and pipes where root may follow",
        "import os; os.symlink('/etc/shadow', AT['open'] + '/link')", "import os; os.link('/etc/passwd', AT['open'] + '/p')",
        "import os; os.mkfifo(AT['open'] + '/fifo')", "import os; os.symlink('/etc/shadow', 'results.json')",
        "import os; os.mkdir(AT['open'] + '/d')", "import os; os.mknod(AT['open'] + '/n')"),
    _reach("answer-file", "secrets", "reads the module that has the answer", "open(AT['answer']).read()"),
    _reach("answer-import", "secrets", "runs the library's own answer from its file",
        "names = {'__name__': 'answer'}\nexec(open(AT['answer']).read(), names)"),
    _reach("answer-search", "secrets", "looks for another minipeft in every folder of the path and around Python",
        "import glob, os, sys, numpy\nroots = {sys.prefix, sys.base_prefix, os.path.dirname(os.path.dirname(numpy.__file__)), *sys.path}\n"
        "found = [f for r in roots for p in ('*', 'lib/python3*/site-packages', 'lib/python3*/dist-packages', '../../../..')\n"
        "         for f in glob.glob(os.path.join(r, p, 'minipeft/**/*.py'), recursive=True)]\n"
        "own = os.path.dirname(os.path.dirname(sys.modules['minipeft'].__file__))\n"
        "assert any('NotImplementedError(\"hw' not in open(f).read() for f in found if os.path.realpath(f).find(os.path.realpath(own)) < 0)"),
    _reach("packages", "secrets", "imports or reads packages next to NumPy",
        "import scipy", "import tqdm", "import sklearn", "import os, numpy, glob\np = os.path.dirname(os.path.dirname(numpy.__file__))\n"
        "assert [open(f, 'rb').read(1) for f in glob.glob(p + '/[a-mo-z]*/__init__.py')]",
        "import os, sysconfig\np = sysconfig.get_path('purelib')\nassert [n for n in os.listdir(p) if not n.startswith('numpy')]",
        "import os, sys, numpy\nsys.path.append(os.path.dirname(os.path.dirname(numpy.__file__)))\nimport tqdm, scipy", layers=LOCAL),
    _reach("grader-files", "secrets", "reads the grader's cases, mutants and references",
        "import glob\nassert [open(f).read() for f in glob.glob(AT['source'] + '/**/cases.py', recursive=True)]",
        "import os; assert os.listdir(AT['source'])", "open(AT['source'] + '/__init__.py').read()"),
    _reach("grader-modules", "secrets", "imports the grader's cases, checks and mutants",
        "import autograder.homeworks.case", "import autograder.grading.check", "import autograder.homeworks.mutant",
        "import autograder.grading.reference", "import autograder.feedback",
        "import sys\nassert [m for m in sys.modules if m.endswith(('cases', '.check', 'mutants', 'reference'))]"),
    _reach("seed-file", "secrets", "reads the seed and files of staff",
        "open(AT['seed']).read()", "open('/etc/shadow').read()", "import os; os.listdir('/root')",
        "import os; open(os.path.expanduser('~root/.ssh/id_rsa')).read()",
        "open('/autograder/submission_metadata.json').read()", "open('/autograder/source/seed').read()"),
    _reach("seed-in-arguments", "secrets", "looks for the seed in arguments and environments of processes",
        "import glob\nfound = b''\nfor f in [*glob.glob('/proc/[0-9]*/cmdline'), *glob.glob('/proc/[0-9]*/environ')]:\n"
        "    try: found += open(f, 'rb').read()\n    except OSError: pass\nassert AT['secret'] in found.hex() or b'--seed=' in found or b'--seed\\0' in found"),
    _reach("siblings", "secrets", "reads what others handed in",
        "open(AT['sibling']).read()", "import os; os.listdir(os.path.dirname(AT['sibling']))"),
    _reach("workspace", "secrets", "reads the folders of other workers and of other graders",
        "import glob, os\nme = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))\n"
        "others = [f for f in glob.glob(AT['tmp'] + '/*/worker-*') if not os.path.samefile(f, me)]\nassert [n for f in others for n in os.listdir(f)]",
        "import os; os.listdir(AT['tmp'])", "import os; os.listdir(AT['handed'])"),
    Attack("prerequisites-beside", "secrets", "reads the library's bodies of the prerequisites from its own module", places=("6.2",), stubs=True,
        body="text = ''\nimport glob, os\nfor f in glob.glob(os.path.join(os.path.dirname(os.path.abspath(__file__)), '**/*.py'), recursive=True):\n    text += open(f).read()\n"
        "won = 'NotImplementedError(\"hw6.1' not in text\n"),
    Attack("references-in-memory", "secrets", "hunts for expected values and code with gc and frames",
        body="import gc, sys, types\nf = sys._getframe(1)\nwhile f:\n    names = {**f.f_locals, **f.f_globals}\n"
        "    won = won or any(n in ('expected', 'right', 'reference', 'seed', 'case', 'mutants') for n in f.f_locals) or 'judge' in names\n    f = f.f_back\n"
        "for o in gc.get_objects():\n    won = won or (isinstance(o, type) and o.__name__ in ('Case', 'Verdict', 'Mutant')) or (\n"
        "        isinstance(o, types.ModuleType) and o.__name__.startswith('autograder') and o.__name__.endswith(('cases', 'check', 'reference')))\n"),
    _reach("inherited", "secrets", "reads from every descriptor and from the environment",
        "import os\nfor fd in range(3, 256):\n    try: kind = os.fstat(fd).st_mode & 0o170000\n    except OSError: continue\n    assert kind != 0o100000\n    if kind == 0o010000: continue\nassert False",
        "import os; assert 'GRADESCOPE' in str(os.environ) or 'PYTHONPATH' in os.environ or 'SEED' in str(os.environ).upper()",
        "import os\nfor fd in range(0, 256):\n    try: link = os.readlink('/proc/self/fd/%d' % fd)\n    except OSError: continue\n    assert not link.startswith('/') or link.startswith('/dev/null')\nassert False"),
    _reach("metadata-of-files", "secrets", "asks for the size and the target of any path",  # what a mount namespace hides
        "import os; os.stat(AT['seed'])", "import os; os.stat('/etc/shadow')", "import os; os.stat(AT['sibling'])",
        "import os; os.readlink('/proc/%d/exe' % AT['pid'])", layers=("all layers",)),
    _reach("proc", "processes", "reads the grader's memory and state",
        "open('/proc/%d/mem' % AT['pid'], 'rb')", "open('/proc/%d/environ' % AT['pid']).read()", "import os; os.listdir('/proc/%d/fd' % AT['pid'])",
        "open('/proc/%d/maps' % AT['pid']).read()", "import ctypes; assert ctypes.CDLL(None).ptrace(16, AT['pid'], 0, 0) == 0",
        "import ctypes; assert ctypes.CDLL(None).process_vm_readv(AT['pid'], 0, 0, 0, 0, 0) == 0"),
    _reach("kill", "processes", "kills the grader and everything else",
        "import os, signal; os.kill(AT['pid'], signal.SIGKILL)", "import os, signal; os.kill(-1, signal.SIGKILL)",
        "import os, signal; os.kill(os.getppid(), signal.SIGTERM)", "import os; os.killpg(0, 9)",
        "import signal; signal.pidfd_send_signal(0, 9)", _SYSCALL.format("129, AT['pid'], 9, 0")),
    _reach("file-locks", "processes", "talks to another worker through locks of a file that both can read",
        *(_FCNTL + _LOCK.format(n) for n in ("fcntl.F_GETLK", "fcntl.F_SETLK", "36", "37")),
        _FCNTL + "fcntl.flock(f, fcntl.LOCK_SH)", _FCNTL + "fcntl.lockf(f, fcntl.LOCK_SH)"),
    _reach("signals-by-files", "processes", "has the kernel signal the grader when a pipe is written (F_SETOWN, SIGIO)",
        "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, AT['pid'])\nfcntl.fcntl(r, 10, 9)\nfcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC)\nos.write(w, b'x')",
        "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, 10, 9)",
        "import fcntl, os, struct\nr, w = os.pipe()\nfcntl.fcntl(r, 15, struct.pack('ii', 1, AT['pid']))",
        "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC)\nassert fcntl.fcntl(r, fcntl.F_GETFL) & os.O_ASYNC"),
    _reach("leases", "processes", "asks to be told of what others do to files",
        _FCNTL + "fcntl.fcntl(f, 1024, fcntl.F_RDLCK)", "import fcntl, os\nd = os.open(os.path.dirname(os.__file__), os.O_RDONLY)\nfcntl.fcntl(d, 1026, 1)",
        _FCNTL + "fcntl.fcntl(f, 1036, struct.pack('Q', 0)) and fcntl.fcntl(f, 1040, 1)"),
    _reach("shared-memory", "processes", "meets another worker in shared memory, queues or semaphores",
        "import ctypes; assert ctypes.CDLL(None).shmget(0x1234, 4096, 0o1666) >= 0", "open('/dev/shm/minipeft-x', 'w').write('x')",
        "open('/tmp/minipeft-x', 'w').write('x')", "import ctypes; assert ctypes.CDLL(None).semget(0x1234, 1, 0o1666) >= 0",
        "import ctypes; assert ctypes.CDLL(None).msgget(0x1234, 0o1666) >= 0",
        "import ctypes; assert ctypes.CDLL(None).mq_open(b'/minipeft', 0o102, 0o666, None) >= 0", "import os; os.memfd_create('x')"),
    _reach("shared-futex", "processes", "waits on a futex that another process can wake",
        "import ctypes, mmap, numpy\nf = open(numpy.__file__, 'rb')\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "libc.mmap.restype = ctypes.c_void_p\np = libc.mmap(None, ctypes.c_size_t(4096), 1, 1, f.fileno(), ctypes.c_long(0))\n"
        "assert libc.syscall(202, ctypes.c_void_p(p), 1, 1, 0, 0, 0) >= 0",
        "import ctypes, mmap, numpy\nf = open(numpy.__file__, 'rb')\nm = mmap.mmap(f.fileno(), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ)\n"
        "p = np.frombuffer(m, np.uint32).ctypes.data\nassert ctypes.CDLL(None).syscall(202, ctypes.c_void_p(p), 1, 1, 0, 0, 0) >= 0"),
    _reach("clocks", "processes", "reads the processor time of another process, and counts those of the machine",
        "import ctypes, os\nt = ctypes.create_string_buffer(16)\nassert ctypes.CDLL(None).clock_gettime(ctypes.c_int((~(os.getppid() or 1) << 3) | 2), t) == 0",
        "import ctypes\nt = ctypes.create_string_buffer(128)\nassert ctypes.CDLL(None).sysinfo(t) == 0",
        "import os; os.getloadavg()"),
    _reach("who-else", "processes", "asks which processes there are", "import os; assert os.getppid() > 0 and os.sched_getaffinity(os.getppid())",
        "import ctypes, os\nc = ctypes.CDLL(None)\nassert [p for p in range(1, 5000) if p != os.getpid() and c.getpgid(p) >= 0]",
        "import ctypes, os\nc = ctypes.CDLL(None)\nassert [p for p in range(1, 5000) if p != os.getpid() and c.getsid(p) >= 0]",
        "import os; os.getpriority(os.PRIO_PROCESS, AT['pid'])"),
    _reach("many-threads", "processes", "starts more than 64 threads",
        "import threading\nthreading.stack_size(65536)\nstop = threading.Event()\nn = 0\ntry:\n    for n in range(1000): threading.Thread(target=stop.wait, daemon=True).start()\n"
        "except BaseException: pass\nstop.set()\nassert n > 64"),
    _reach("fork", "kernel", "forks", "import os\nif os.fork() == 0: os._exit(0)", "import os; os.posix_spawn('/bin/true', ['true'], {})",
        "import subprocess; subprocess.run(['/bin/true'])"),
    _reach("namespaces", "kernel", "makes namespaces, uses bpf, io_uring, userfaultfd, keys",
        "import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0",
        *(_SYSCALL.format(n) for n in ("321, 0, 0, 0", "425, 1, 0", "323, 0", "250, 0, -3, 1", "298, 0, 0, 0, 0, 0", "435, 0, 0"))),
    _reach("setuid", "kernel", "becomes root again", "import os; os.setuid(0); assert os.getuid() == 0 and AT['pid'] and open('/etc/shadow')",
        "import os; os.setresuid(0, 0, 0); assert False", "import os; os.execv('/usr/bin/passwd', ['passwd'])",
        "import subprocess; subprocess.run(['/bin/su', '-c', 'id'], timeout=2)"),
    _reach("stays-root", "kernel", "is still root", "import os; assert 0 in os.getresuid() and AT['root']", "import os; assert 0 in os.getgroups() and AT['root']"),
    _reach("sockets", "kernel", "opens sockets", "import socket; socket.create_connection(('127.0.0.1', 9), 1)",
        "import socket; socket.socket(socket.AF_UNIX)", "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "import socket; socket.socketpair()", "import socket; socket.socket(17, 3)"),
    _reach("native", "kernel", "runs machine code that it wrote itself",
        "import ctypes, mmap\nm = mmap.mmap(-1, 4096, prot=7)\nm.write(b'\\xb8\\x39\\x00\\x00\\x00\\x0f\\x05\\xc3')\n"
        "f = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()\nif f == 0: ctypes.CDLL(None)._exit(0)\nassert f > 0",
        "import ctypes; assert ctypes.CDLL(None).system(b'id > /dev/shm/out') == 0"),
    _reach("limits", "kernel", "raises its own limits",
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))", "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
        "import resource; assert resource.getrlimit(resource.RLIMIT_AS)[1] == resource.RLIM_INFINITY",
        "import resource; assert resource.getrlimit(resource.RLIMIT_CORE)[1] != 0", "import os; os.nice(-5)"),
    _reach("terminal", "kernel", "pushes characters into the terminal", "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSTI, b'x')",
        "import os; os.open('/dev/tty', os.O_RDWR)", "import os; os.setsid()"),
    _reach("leave-files", "traces", "leaves files in every folder that it can", "open(AT['open'] + '/f', 'w').write('x')",
        "import tempfile; tempfile.TemporaryFile()", "open('/dev/shm/big', 'wb').write(b'x')", "import os; os.mkdir('left')",
        "import os; os.open('/tmp', 0o20200000 | 2)"),
]  # fmt: skip
