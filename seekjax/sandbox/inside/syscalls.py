"""What a process may ask of the kernel: no privileges, and of some 400 system calls the few that a
pure function in Python needs.
"""

import ctypes
import os
import struct

LIBC = ctypes.CDLL(None, use_errno=True)

# Every other call is answered "not implemented": fork, clone, execve, socket, ptrace, kill, mount,
# chmod, io_uring, bpf, memfd_create, ...
CALLS = {
    "x86_64": {
        "read": 0,
        "write": 1,
        "open": 2,
        "close": 3,
        "stat": 4,
        "fstat": 5,
        "lstat": 6,
        "lseek": 8,
        "mmap": 9,
        "mprotect": 10,
        "munmap": 11,
        "brk": 12,
        "rt_sigaction": 13,
        "rt_sigprocmask": 14,
        "rt_sigreturn": 15,
        "pread64": 17,
        "readv": 19,
        "writev": 20,
        "access": 21,
        "sched_yield": 24,
        "mremap": 25,
        "madvise": 28,
        "nanosleep": 35,
        "getpid": 39,
        "exit": 60,
        "uname": 63,
        "getcwd": 79,
        "readlink": 89,
        "gettimeofday": 96,
        "getuid": 102,
        "getgid": 104,
        "geteuid": 107,
        "getegid": 108,
        "getppid": 110,
        "sigaltstack": 131,
        "gettid": 186,
        "time": 201,
        "futex": 202,
        "getdents64": 217,
        "restart_syscall": 219,
        "clock_gettime": 228,
        "clock_getres": 229,
        "clock_nanosleep": 230,
        "exit_group": 231,
        "openat": 257,
        "newfstatat": 262,
        "readlinkat": 267,
        "faccessat": 269,
        "getrandom": 318,
    },
    "aarch64": {
        "getcwd": 17,
        "faccessat": 48,
        "openat": 56,
        "close": 57,
        "getdents64": 61,
        "lseek": 62,
        "read": 63,
        "write": 64,
        "readv": 65,
        "writev": 66,
        "pread64": 67,
        "readlinkat": 78,
        "newfstatat": 79,
        "fstat": 80,
        "exit": 93,
        "exit_group": 94,
        "futex": 98,
        "nanosleep": 101,
        "clock_gettime": 113,
        "clock_getres": 114,
        "clock_nanosleep": 115,
        "sched_yield": 124,
        "restart_syscall": 128,
        "sigaltstack": 132,
        "rt_sigaction": 134,
        "rt_sigprocmask": 135,
        "rt_sigreturn": 139,
        "uname": 160,
        "gettimeofday": 169,
        "getpid": 172,
        "getppid": 173,
        "getuid": 174,
        "geteuid": 175,
        "getgid": 176,
        "getegid": 177,
        "gettid": 178,
        "brk": 214,
        "munmap": 215,
        "mremap": 216,
        "mmap": 222,
        "mprotect": 226,
        "madvise": 233,
        "getrandom": 278,
    },
}
# AUDIT_ARCH_*: the same number means another call on another architecture.
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# The answers of a filter. C libraries fall back on something else after ENOSYS.
ALLOW = 0x7FFF0000  # SECCOMP_RET_ALLOW
REFUSE = 0x00050000 | 38  # SECCOMP_RET_ERRNO | ENOSYS
KILL = 0x80000000  # SECCOMP_RET_KILL_PROCESS

# The instructions of a filter.
LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2
SIGKILL = 9
CAPABILITY_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3


def filter_program(machine: str) -> list[tuple[int, int, int, int]]:
    """Return the filter as (code, jump if true, jump if false, operand).

    It reads struct seccomp_data: the call's number at 0, the architecture at 4.
    """
    if machine not in CALLS:
        raise SystemExit(
            f"the system calls of {machine} are not known, only those of {' and '.join(CALLS)}"
        )

    # Each check jumps to ALLOW, the last line. The x32 calls of x86_64 have bit 30 set, so none of
    # them is among these numbers.
    numbers = sorted(CALLS[machine].values())
    checks = [(EQUAL, len(numbers) - i, 0, number) for i, number in enumerate(numbers)]
    return [
        (LOAD, 0, 0, 4),
        (EQUAL, 1, 0, ARCHITECTURES[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, 0),
        *checks,
        (RETURN, 0, 0, REFUSE),
        (RETURN, 0, 0, ALLOW),
    ]


class Filter(ctypes.Structure):
    """The kernel's struct sock_fprog."""

    _fields_ = [("length", ctypes.c_ushort), ("lines", ctypes.c_char_p)]


def check(result: int, what: str) -> None:
    """Raise SystemExit with the name of a call that failed: without it the sandbox has a hole."""
    if result:
        raise SystemExit(f"{what}: {os.strerror(ctypes.get_errno())}")


def prctl(
    option: int,
    value: int,
    address: int = 0,
) -> int:
    """Set a property of this process; 0 if the kernel agrees."""
    return LIBC.prctl(option, *map(ctypes.c_ulong, (value, address, 0, 0)))


def drop_privileges() -> None:
    """Give up all capabilities for good.

    No other process may look into this one, and it dies with the process that started it.
    """
    # Until there is no capability of that number, or no right to drop it.
    capability = 0
    while prctl(PR_CAPBSET_DROP, capability) == 0:
        capability += 1

    header = ctypes.create_string_buffer(struct.pack("Ii", CAPABILITY_VERSION, 0), 8)
    none = ctypes.create_string_buffer(24)
    check(LIBC.capset(header, none), "giving up capabilities")
    check(prctl(PR_SET_NO_NEW_PRIVS, 1), "PR_SET_NO_NEW_PRIVS")
    check(prctl(PR_SET_DUMPABLE, 0), "PR_SET_DUMPABLE")
    check(prctl(PR_SET_PDEATHSIG, SIGKILL), "PR_SET_PDEATHSIG")


def restrict() -> None:
    """Let this process make the calls of CALLS and no others, for good.

    `drop_privileges` has to come before.
    """
    lines = filter_program(os.uname().machine)
    code = b"".join(struct.pack("HBBI", *line) for line in lines)
    fields = Filter(len(lines), code)
    result = prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(fields))
    check(result, "the system call filter")
