"""What a process may ask of the kernel: no privileges, and of some 400 system calls the few that a
pure function in Python needs."""

import ctypes
import os
import struct

LIBC = ctypes.CDLL(None, use_errno=True)

# Whatever is not here is answered "not implemented": fork, clone, execve, socket, ptrace, kill,
# mount, chmod, io_uring, bpf, memfd_create, ...
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
ARCHITECTURES = {
    "x86_64": 0xC000003E,
    "aarch64": 0xC00000B7,
}  # AUDIT_ARCH_*: the same number means another call on another architecture
ALLOW, REFUSE, KILL = (
    0x7FFF0000,
    0x00050000 | 38,
    0x80000000,
)  # SECCOMP_RET_ALLOW, _ERRNO | ENOSYS (C libraries fall back on it), _KILL_PROCESS
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K


def program(machine: str) -> list[tuple[int, int, int, int]]:
    """The filter as (code, jump if true, jump if false, operand), over struct seccomp_data: the
    call's number at 0, the architecture at 4."""
    if machine not in CALLS:
        raise SystemExit(
            f"the system calls of {machine} are not known, only those of {' and '.join(CALLS)}"
        )
    numbers = sorted(
        CALLS[machine].values()
    )  # the x32 calls of x86_64 have bit 30 set, and so are none of these
    checks = [
        (EQUAL, len(numbers) - i, 0, number) for i, number in enumerate(numbers)
    ]  # to ALLOW, the last line
    return [
        (LOAD, 0, 0, 4),
        (EQUAL, 1, 0, ARCHITECTURES[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, 0),
        *checks,
        (RETURN, 0, 0, REFUSE),
        (RETURN, 0, 0, ALLOW),
    ]


class Filter(ctypes.Structure):  # struct sock_fprog
    _fields_ = [("length", ctypes.c_ushort), ("lines", ctypes.c_char_p)]


def check(result: int, what: str) -> None:
    """SystemExit that names the call which failed: without it the sandbox would have a hole."""
    if result:
        raise SystemExit(f"{what}: {os.strerror(ctypes.get_errno())}")


def prctl(option: int, value: int, address: int = 0) -> int:
    return LIBC.prctl(option, *map(ctypes.c_ulong, (value, address, 0, 0)))


def drop_privileges() -> None:
    """No capability, none to be had again, no other process may look into this one, and it dies
    with the one that started it."""
    capability = 0
    while (
        prctl(24, capability) == 0
    ):  # PR_CAPBSET_DROP, until there is no capability of that number or no right to drop it
        capability += 1
    header, none = (
        ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0), 8),
        ctypes.create_string_buffer(24),
    )
    check(LIBC.capset(header, none), "giving up capabilities")
    check(prctl(38, 1), "PR_SET_NO_NEW_PRIVS")
    check(prctl(4, 0), "PR_SET_DUMPABLE")
    check(prctl(1, 9), "PR_SET_PDEATHSIG")


def restrict() -> None:
    """Let this process make the calls of CALLS and no others, for good; `drop_privileges` comes
    before."""
    lines = program(os.uname().machine)
    fields = Filter(len(lines), b"".join(struct.pack("HBBI", *line) for line in lines))
    check(
        prctl(22, 2, ctypes.addressof(fields)), "the system call filter"
    )  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
