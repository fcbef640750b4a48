"""Worker processes and what they put into shared memory end with the program that started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import laws

PROGRAM = """
import multiprocessing
import numpy as np
from data_pipeline.pipeline import Encoder, train_batches
from data_pipeline.spec import Modality


class Source:
    def __len__(self):
        return 64

    def __getitem__(self, i):
        return {"row": i, "v": np.full((256, 256), i, np.float32)}


if __name__ == "__main__":
    encode = Encoder((Modality("v", "vectors", (256, 256), "v", targets=False),), {}, True)
    batches = iter(train_batches(Source(), encode, batch_size=4, seed=0, workers=2))
    kept = [next(batches)["v"]["vectors"] for _ in range(3)]
    print(*(p.pid for p in multiprocessing.active_children()), flush=True)
    print(*(array.shm.name for array in kept), flush=True)
    for batch in batches:
        pass
"""


def alive(pid) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_workers_and_shared_memory_end_with_a_killed_run(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    env = os.environ | {"PYTHONPATH": str(laws.ROOT)}
    process = subprocess.Popen([sys.executable, program], env=env, stdout=subprocess.PIPE, text=True)
    workers = process.stdout.readline().split()
    segments = [Path("/dev/shm") / name for name in process.stdout.readline().split()]
    assert len(workers) == 2 and all(map(alive, workers))
    assert len(segments) == 3 and all(s.exists() for s in segments)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.time() + 20
    while time.time() < deadline and (any(map(alive, workers)) or any(s.exists() for s in segments)):
        time.sleep(0.05)
    assert not any(map(alive, workers)), "a worker outlived its program"
    assert not any(s.exists() for s in segments), "shared memory outlived its program"
