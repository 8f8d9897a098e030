import os
import subprocess
import sys
import time

from xray_batch.bench.usage import MemoryPeak, cpu_seconds, memory_bytes

#: A process that starts one that works for a while and holds 64 MB, then waits to be told to end.
PARENT = """
import subprocess, sys
child = "b = bytearray(64 << 20); b[::4096] = b'1' * len(b[::4096]); print(sum(range(10**7)), flush=True); input()"
with subprocess.Popen([sys.executable, "-c", child], stdin=sys.stdin) as process:
    process.wait()
"""


def test_descendants_count():
    """CPU time and memory of a process are those of the processes that it started, too."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=pipe, stdout=pipe) as process:
        with MemoryPeak(process.pid, seconds=0.01) as peak:
            process.stdout.readline()
            alone = memory_bytes(process.pid)
            assert cpu_seconds(process.pid) > 0.05
            while not peak.largest:
                time.sleep(0.01)
        process.communicate(b"\n")
    assert alone > 64 << 20
    assert peak.largest > 0


def test_a_process_that_is_gone_uses_nothing():
    """A process that has ended, and been waited for, counts as nothing."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert (cpu_seconds(process.pid), memory_bytes(process.pid)) == (0.0, 0)


def test_this_process_counts():
    """A process may ask about itself."""
    assert cpu_seconds(os.getpid()) > 0
    assert memory_bytes(os.getpid()) > 1 << 20
