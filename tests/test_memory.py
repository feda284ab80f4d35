"""Freed memory is used again: in processes of their own, since it stays so until a process ends."""

import subprocess
import sys

import pytest


# Pages of 64 MiB that the kernel has to clear, in the second of two rounds.
FAULTS = """
import ctypes, resource, sys
from hf_quals.memory import reuse_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
assert reuse_freed_memory() if sys.argv[1] == "reuse" else True
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(2**26)
    ctypes.memset(block, 1, 2**26)
    libc.free(block)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults * resource.getpagesize() / 2**26)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="about glibc's allocator")
def test_freed_memory_is_not_cleared_again():
    shares = {}
    for how in ("leave", "reuse"):
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        shares[how] = float(done.stdout)
    # With huge pages one fault clears many pages.
    assert shares["leave"] > 0
    assert shares["reuse"] < 0.01 * max(shares["leave"], 0.5)


def test_other_systems_are_left_alone(monkeypatch):
    from hf_quals.memory import reuse_freed_memory

    monkeypatch.setattr(sys, "platform", "darwin")
    assert reuse_freed_memory() is False
