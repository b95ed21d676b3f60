"""Programs that attack the sandbox, its grader or the host.

SECRET and PORT stand for a file of the host and a port that the host listens on.
"""

# Each is the body of `def f(v)`; LIBC stands for the C library.
BODIES = {
    # leaving early, and saying that all was well
    "exit": "import os; os._exit(0)",
    "system exit": "import sys; sys.exit(0)",
    "raise system exit": "raise SystemExit('right')",
    "fake verdict on stdout": 'print(\'{"reward": 1.0, "reason": "right"}\', flush=True)',
    "fake verdict as the value": "return {'reward': 1.0, 'reason': 'right'}",
    "fake verdict tuple": "return (1.0, 'right')",
    "fake answers on every descriptor": (
        "import os\n"
        "    for i in range(64):\n"
        "        try: os.write(i, b'v6' + b'00000002v6' * 4)\n"
        "        except OSError: pass\n"
        "    os._exit(0)"
    ),
    "zeroes for the secret": (
        "import os\n"
        "    os.write(3, bytes(32) + b'00000002v600000002v000000002v100000003v16'); "
        "os._exit(0)"
    ),
    "a reason that says right": "import os; os.write(3, b'eright'); os._exit(0)",
    "two results": "import os; os.write(3, b'v6'); return 6",
    "a frame within a frame": "import os; os.write(3, b'v6' + b'00000002v1'); os._exit(0)",
    "all descriptors closed": "import os; os.closerange(0, 64)",
    "atexit": ("import atexit, os\n    atexit.register(os.write, 3, b'v6'); raise SystemExit"),
    "keyboard interrupt": "raise KeyboardInterrupt",
    "generator exit": "raise GeneratorExit('right')",
    # values that compare as one likes
    "always equal": (
        "return type('E', (), {'__eq__': lambda a, b: True, '__hash__': lambda a: 0})()"
    ),
    "always equal integer": (
        "return type('E', (int,), {'__eq__': lambda a, b: True, '__hash__': int.__hash__})(7)"
    ),
    "always equal list": "return type('E', (list,), {'__eq__': lambda a, b: True})()",
    "true for one": "return True if v == [1] else sum(v)",
    "float for integer": "return float(sum(v))",
    "string for integer": "return str(sum(v))",
    "not a number": "return float('nan')",
    "infinity": "return 1e999",
    "bytes": "return bytes(sum(v))",
    "a set": "return {sum(v)}",
    "a generator": "yield sum(v)",
    "itself within itself": "a = [sum(v)]; a.append(a); return a",
    "deep nesting": ("a = 6\n    for _ in range(1500): a = [a]\n    return a"),
    "nesting for the grader": (
        "import os; os.write(3, b'v' + b'[' * 900 + b']' * 900); os._exit(0)"
    ),
    "nesting past every parser": "import os; os.write(3, b'v' + b'[' * 4000); os._exit(0)",
    "an integer of 100,000 digits": "return 10 ** 100000",
    "a lone surrogate": "return '\\ud800'",
    "output without end": ("import os\n    while True: os.write(3, b'v' * 4096)"),
    "a large value": "return [1] * 10 ** 6",
    "the example's answer": "return 6",
    # tampering with what runs it
    "json patched": (
        "import json; json.dumps = lambda *a, **k: '6'; json.loads = json.dumps; return 7"
    ),
    "built-ins patched": (
        "import builtins as b\n"
        "    b.type = lambda x: int; b.repr = lambda x: '6'; b.len = lambda x: 1; "
        "return object()"
    ),
    "harness patched": (
        "import __main__ as m\n"
        "    m.to_json = lambda x: '6'; "
        "m.read_result = m.run_call = m.evaluate = lambda *a: b'v6'; return 7"
    ),
    "exit patched": "import os; os._exit = os.write = lambda *a: 1; return 6",
    "harness called": ("import __main__ as m\n    m.serve()"),
    "harness frames": (
        "import sys\n"
        "    frame = sys._getframe()\n"
        "    while frame.f_back: frame = frame.f_back\n"
        "    return repr(frame.f_globals)[:3000]"
    ),
    "expected values by garbage collector": (
        "import gc\n"
        "    return [repr(x)[:60] for x in gc.get_objects() if 'expected' in "
        "repr(x)[:1000] or '16' in repr(x)[:1000]][:20]"
    ),
    "secret from standard input": "import os; return os.read(0, 100).hex()",
    "secret through /proc": (
        "import os\n"
        "    return [os.read(os.open(f'/proc/{p}/fd/0', 0), 99).hex() for p in (1, 'self')]"
    ),
    "memory of process 1": "return open('/proc/1/mem', 'rb').read(10).hex()",
    "ptrace": "return 16 if LIBC.ptrace(16, 1, 0, 0) == 0 else 'refused'",
    "process_vm_readv": (
        "import ctypes\n"
        "    page = ctypes.create_string_buffer(64)\n"
        "    return 16 if LIBC.process_vm_readv(1, page, 1, page, 1, 0) >= 0 else 'refused'"
    ),
    "descriptors of process 1": (
        "fd = LIBC.syscall(434, 1, 0); return LIBC.syscall(438, fd, 1, 0) if fd >= 0 else 'refused'"
    ),
    "limits of process 1": (
        "import resource; return resource.prlimit(1, resource.RLIMIT_CPU, (1, 1))"
    ),
    "kill process 1": "import os; os.kill(1, 9)",
    "kill all": "import os; os.kill(-1, 9)",
    "stop the parent": "import os; os.kill(os.getppid(), 19)",
    "alarm": (
        "import signal, os\n"
        "    signal.signal(signal.SIGALRM, lambda *a: os._exit(0)); "
        "signal.setitimer(signal.ITIMER_REAL, 0.01)\n"
        "    while True: pass"
    ),
    "raising class name": (
        "class M(type):\n"
        "        __name__ = property(lambda c: 1 / 0)\n"
        "    raise M('E', (Exception,), {})"
    ),
    # never ending, never enough
    "endless loop": "while True: pass",
    "endless loop that catches all": (
        "import signal\n"
        "    signal.signal(signal.SIGXCPU, signal.SIG_IGN)\n"
        "    while True:\n"
        "        try:\n"
        "            while True: 9 ** 9 ** 5\n"
        "        except BaseException: pass"
    ),
    "sleep": "import time; time.sleep(1000)",
    "print without end": (
        "while True:\n        try: print('x' * 10 ** 4, flush=True)\n        except OSError: pass"
    ),
    "result held open": "import os, time; os.write(3, b'v6'); time.sleep(1000)",
    "a power too high": "return 9 ** 9 ** 9 ** 9",
    "memory at once": "return len(bytearray(10 ** 9))",
    "memory by doubling": ("a = [0]\n    while True: a += a"),
    "memory maps": "import mmap; return [mmap.mmap(-1, 1 << 26) for _ in range(64)]",
    "recursion": (
        "import sys; sys.setrecursionlimit(10 ** 9)\n    g = lambda: g()\n    return g()"
    ),
    "segmentation fault": "import ctypes; ctypes.string_at(0)",
    "abort": "import os; os.abort()",
    "disk filled": "for i in range(10 ** 4): open(f'{i}', 'wb').write(bytes(10 ** 4))",
    "a large file": "open('a', 'wb').write(bytes(1 << 20))",
    "too many files": "keep = [open(f'{i}', 'w') for i in range(1000)]",
    # processes
    "fork": ("import os\n    if os.fork() == 0: os._exit(0)\n    return sum(v) + 1"),
    "fork bomb": (
        "import os\n    while True:\n        try: os.fork()\n        except OSError: pass"
    ),
    "daemon": (
        "import os\n"
        "    os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0)\n"
        "    while True: pass"
    ),
    "threads": (
        "import threading, time\n    threading.Thread(target=time.sleep, args=(1000,)).start()"
    ),
    "shell": "import os; return os.system('echo right')",
    "subprocess": (
        "import subprocess; return subprocess.check_output(['/bin/sh', '-c', 'id']).decode()"
    ),
    "exec": "import os, sys; os.execv(sys.executable, ['python', '-c', 'pass'])",
    "multiprocessing": "import multiprocessing; return multiprocessing.Pool(2).map(sum, [v])",
    # the host's files
    "read a file": "return open(SECRET).read()",
    "password file": "return open('/etc/passwd').read()",
    "a link to a file": "import os; os.symlink(SECRET, 'link'); return open('link').read()",
    "through the parent folders": (
        "return open('/..' + SECRET).read() or open('../' * 20 + SECRET).read()"
    ),
    "every file there is": (
        "import os\n"
        "    names = {p for _, d, f in os.walk('/') for p in d + f}\n"
        "    return 16 if names & {'etc', 'home', 'proc', 'sys', 'tmp', 'passwd', "
        "'conftest.py', 'seekjax'} else len(names)"
    ),
    "delete": "import os; os.remove(SECRET)",
    "overwrite": "open(SECRET, 'w').write('harm')",
    "poison the standard library": (
        "import sys; open(sys.path[0] + '/os.py', 'a').write('raise SystemExit')"
    ),
    "change modes": "import os, sys; os.chmod(sys.path[0], 0o777)",
    "change modes of descriptors": ("import os\n    for i in range(4): os.fchmod(i, 0o777)"),
    "environment": "import os; return dict(os.environ) and ' '.join(os.environ.values())",
    "host name": "import os; return os.uname().nodename",
    "mount": (
        "return 16 if LIBC.mount(b'tmpfs', b'/scratch', b'tmpfs', 0, None) == 0 else 'refused'"
    ),
    "user namespace": "return 16 if LIBC.unshare(0x10000000) == 0 else 'refused'",
    "other namespace": "return 16 if LIBC.setns(0, 0) == 0 else 'refused'",
    "escape by chroot": (
        "import os; os.mkdir('a'); os.chroot('a'); os.chdir('../' * 20); return os.listdir('.')"
    ),
    "become root": "import os; os.setuid(0); os.setgroups([0])",
    "device": (
        "import os; os.mknod('disk', 0o60666, 0x801); return open('disk', 'rb').read(9).hex()"
    ),
    "raw system calls": (
        "return 16 if any(LIBC.syscall(n, 0, 0, 0, 0, 0) >= 0 for n in (248, 250, 321, "
        "323, 425, 298, 319)) else 'refused'"
    ),
    # getpid by int 0x80
    "32-bit system calls": (
        "import ctypes, mmap\n"
        "    page = mmap.mmap(-1, 4096, prot=7); "
        "page.write(bytes.fromhex('b814000000cd80c3'))\n"
        "    return 16 if "
        "ctypes.CFUNCTYPE(int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))() else 0"
    ),
    "x32 system calls": (
        "return 16 if any(LIBC.syscall(1 << 30 | n, 2, 1, 0) >= 0 for n in (39, 41, "
        "57)) else 'refused'"
    ),
    # the network
    "connect": "import socket; socket.create_connection(('127.0.0.1', PORT)).send(b'stolen')",
    "raw socket call": "import _socket; return _socket.socket().connect_ex(('127.0.0.1', PORT))",
    "datagram": "import socket; socket.socket(2, 2).sendto(b'stolen', ('127.0.0.1', PORT))",
    "abstract socket": (
        "import socket; socket.socket(socket.AF_UNIX).connect('\\0/tmp/.X11-unix/X0')"
    ),
    "web": "import urllib.request; return urllib.request.urlopen('http://127.0.0.1:PORT').read()",
    "name service": "import socket; return socket.gethostbyname('example.com')",
}

# Each is a whole program.
WHOLE = {
    "exit while loading": "import os; os._exit(0)",
    "no function": "g = 1",
    "not a function": "f = 6",
    "syntax": "def f(v: return 6",
    "nothing": "",
    "zero byte": "def f(v):\x00 return 6",
    "nested source": "f = lambda v: " + "(" * 5000 + "6" + ")" * 5000,
    "constant to fold": "f = lambda v: (1 << 10 ** 12) and 6",
    "not text": "\ud800",
    "coroutine": "async def f(v): return sum(v)",
    "state between calls": (
        "import os\n"
        "def f(v):\n"
        "    open('seen', 'a').write('x'); return len(open('seen').read()) * 6"
    ),
    "destructor": (
        "class A:\n    def __del__(self):\n        while True: pass\ndef f(v): A(); return 6"
    ),
}

ATTACKS = {}
for _name, _body in BODIES.items():
    _body = _body.replace("LIBC", "__import__('ctypes').CDLL(None)")
    ATTACKS[_name] = "def f(v):\n    " + _body
ATTACKS |= WHOLE

# Run without the system call filter. MARK becomes the name of a process that tries to outlive the
# sandbox.
BARE = {
    "daemon": (
        "import os, ctypes, time\n"
        "def f(n):\n"
        "    pid = os.fork()\n"
        "    if pid: return pid > 1\n"
        "    os.setsid()\n"
        "    if os.fork(): os._exit(0)\n"
        "    ctypes.CDLL(None).prctl(15, b'MARK', 0, 0, 0)\n"
        "    os.closerange(0, 64)\n"
        "    while True: time.sleep(1)"
    ),
    "kill": (
        "import os\n"
        "def f(n):\n"
        "    for signal in (2, 9, 15, 19): os.kill(1, signal)\n"
        "    return True"
    ),
    "read process 1": (
        "import ctypes\n"
        "def f(n):\n"
        "    c = ctypes.CDLL(None)\n"
        "    page = ctypes.create_string_buffer(64)\n"
        "    return c.ptrace(16, 1, 0, 0) == -1 == c.syscall(438, c.syscall(434, 1, 0), 0, 0)"
    ),
}
