"""A root file system with nothing in it but Python's standard library, read-only, and a small empty
folder; for `unshare`, as bubblewrap makes its own."""

import os
import sys

from syscalls import LIBC, check

READ_ONLY, NO_SETUID, NO_DEVICES, NO_PROGRAMS, REMOUNT, BIND = 1, 2, 4, 8, 32, 4096  # MS_*
KEEP = (
    8 | 1024 | 2048
    # noexec, noatime, nodiratime: a user namespace may not take these off a mount, and statvfs
    # spells
    # them as mount does
)
DETACH = 2  # MNT_DETACH
# the new root is mounted over it first: always there, never where Python lives, and no process
# wants it any more
HERE = "/proc"


def build(library: str, scratch: int) -> None:
    """Make `library` the only host folder there is, leave for it, and go to /scratch of `scratch`
    bytes. Needs a mount and a user namespace of its own."""
    inside = f"/python/lib/{os.path.basename(library)}"
    packages = f"{HERE}{inside}/site-packages"
    mount("tmpfs", HERE, "tmpfs", NO_SETUID | NO_DEVICES, "size=64k,mode=755")
    os.makedirs(HERE + inside)
    os.mkdir(f"{HERE}/scratch")
    mount(
        library, HERE + inside, None, BIND
    )  # not recursive: where a mount is hidden in there, the kernel refuses
    flags = READ_ONLY | NO_SETUID | NO_DEVICES | (os.statvfs(HERE + inside).f_flag & KEEP)
    mount(None, HERE + inside, None, REMOUNT | BIND | flags)
    if os.path.isdir(packages):
        mount("tmpfs", packages, "tmpfs", READ_ONLY | NO_SETUID | NO_DEVICES, "size=4k")
    mount(
        "tmpfs",
        f"{HERE}/scratch",
        "tmpfs",
        NO_SETUID | NO_DEVICES | NO_PROGRAMS,
        f"size={scratch},nr_inodes=64,mode=700",
    )
    os.chdir(HERE)
    check(LIBC.pivot_root(b".", b"."), "pivot_root")  # the old root now lies on the new one ...
    check(LIBC.umount2(b".", DETACH), "leaving the old root")  # ... and is taken off
    os.chdir("/")
    mount(None, "/", None, REMOUNT | BIND | READ_ONLY | NO_SETUID | NO_DEVICES)
    os.chdir("/scratch")
    check(LIBC.sethostname(b"sandbox", 7), "sethostname")
    move_modules(os.path.dirname(os.__file__), inside)


def move_modules(old: str, new: str) -> None:
    """Let Python find its library at another place, and what is still to be imported of packages it
    has begun."""
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None):
            module.__file__ = module.__file__.replace(old, new, 1)
        if hasattr(module, "__path__"):
            module.__path__ = [path.replace(old, new, 1) for path in module.__path__]
    sys.path[:] = [new, f"{new}/lib-dynload"]
    sys.path_importer_cache.clear()


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    source, target, kind = (os.fsencode(text) if text else None for text in (source, target, kind))
    check(LIBC.mount(source, target, kind, flags, options.encode()), f"mount {os.fsdecode(target)}")
