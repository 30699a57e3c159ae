"""How much memory a piece of work takes at its peak."""

import threading
from contextlib import contextmanager

import psutil
import torch


MIB = 2**20
SAMPLING_INTERVAL = 0.01  # seconds


@contextmanager
def watch_memory(device: torch.device):
    """Gives a list that holds the peak of a block in MiB at its end.

    On CUDA the most that torch had allocated, weights included; on other devices by how much the process's resident
    set grew at most.
    """
    peak = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.append(torch.cuda.max_memory_allocated(device) / MIB)
        return
    process, done = psutil.Process(), threading.Event()
    start = process.memory_info().rss
    samples = [start]

    def sample():
        while not done.wait(SAMPLING_INTERVAL):
            samples.append(max(samples.pop(), process.memory_info().rss))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
    peak.append((samples[0] - start) / MIB)
