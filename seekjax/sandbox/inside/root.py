"""A root file system with nothing in it but Python's standard library, read-only, and a small empty
folder. For `unshare`; bubblewrap makes its own root.
"""

import os
import sys

from syscalls import LIBC, check

READ_ONLY, NO_SETUID, NO_DEVICES, NO_PROGRAMS, REMOUNT, BIND = 1, 2, 4, 8, 32, 4096  # MS_*
# noexec, noatime, nodiratime: a user namespace may not take these off a mount. statvfs uses the
# same bits for them as mount.
KEEP = 8 | 1024 | 2048
DETACH = 2  # MNT_DETACH
# The new root is mounted over this folder first: it always exists, Python never lives there, and no
# process needs it any more.
HERE = "/proc"


def build(library: str, scratch: int) -> None:
    """Make a root whose only host folder is `library`, enter it, and go to its /scratch.

    /scratch has `scratch` bytes. Needs a mount and a user namespace of its own.
    """
    inside = f"/python/lib/{os.path.basename(library)}"
    packages = f"{HERE}{inside}/site-packages"
    mount("tmpfs", HERE, "tmpfs", NO_SETUID | NO_DEVICES, "size=64k,mode=755")
    os.makedirs(HERE + inside)
    os.mkdir(f"{HERE}/scratch")

    # The standard library. Not recursive: if a mount is hidden in there, the kernel refuses.
    mount(library, HERE + inside, None, BIND)
    flags = READ_ONLY | NO_SETUID | NO_DEVICES | (os.statvfs(HERE + inside).f_flag & KEEP)
    mount(None, HERE + inside, None, REMOUNT | BIND | flags)
    if os.path.isdir(packages):
        mount("tmpfs", packages, "tmpfs", READ_ONLY | NO_SETUID | NO_DEVICES, "size=4k")

    # The working folder.
    flags = NO_SETUID | NO_DEVICES | NO_PROGRAMS
    size = f"size={scratch},nr_inodes=64,mode=700"
    mount("tmpfs", f"{HERE}/scratch", "tmpfs", flags, size)

    # Swap the roots: the old one first lies on the new one, and is then taken off.
    os.chdir(HERE)
    check(LIBC.pivot_root(b".", b"."), "pivot_root")
    check(LIBC.umount2(b".", DETACH), "leaving the old root")
    os.chdir("/")
    mount(None, "/", None, REMOUNT | BIND | READ_ONLY | NO_SETUID | NO_DEVICES)
    os.chdir("/scratch")
    check(LIBC.sethostname(b"sandbox", 7), "sethostname")
    move_modules(os.path.dirname(os.__file__), inside)


def move_modules(old: str, new: str) -> None:
    """Tell Python that its library has moved, for the modules that are still to be imported."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file:
            module.__file__ = file.replace(old, new, 1)
        if hasattr(module, "__path__"):
            module.__path__ = [path.replace(old, new, 1) for path in module.__path__]
    sys.path[:] = [new, f"{new}/lib-dynload"]
    sys.path_importer_cache.clear()


def mount(
    source: str | None,
    target: str,
    kind: str | None,
    flags: int,
    options: str = "",
) -> None:
    """Mount a file system. Raises SystemExit if the kernel refuses."""
    source_bytes = os.fsencode(source) if source else None
    kind_bytes = os.fsencode(kind) if kind else None
    result = LIBC.mount(source_bytes, os.fsencode(target), kind_bytes, flags, options.encode())
    check(result, f"mount {target}")
