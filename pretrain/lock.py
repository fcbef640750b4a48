"""One program at a time in a folder: a lock that says who holds it, and that ends with the program, killed or not.

On a disk the kernel holds it. What was left by another host, or lies in a bucket, where no kernel does, is watched: the
holder renews it every `BEAT` seconds, and one that stays as it is for three of them is taken over.
"""

import fcntl
import json
import os
import socket
import threading
import time

from pretrain.storage import locate

BEAT = 20.0  # seconds


class Lock:
    """`with Lock(folder):` of a folder that exists. ValueError if another program, or another lock here, has it."""

    def __init__(self, folder, name: str = ".lock"):
        self._folder, self._file, self._number, self._ended = folder, locate(folder) / name, None, threading.Event()
        self._me = {"pid": os.getpid(), "host": socket.gethostname()}

    def __enter__(self):
        by_kernel = False if str(self._file).startswith("gs://") else self._open()
        holder = self._read()
        here = holder.get("host") == self._me["host"]
        if holder and not (here and (by_kernel or not _runs(holder["pid"]))):
            self._watch(holder)
        self._write(0)
        threading.Thread(target=self._renew, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        try:
            self._file.unlink()
        except OSError:  # whoever removed the folder took it along
            pass
        if self._number is not None:
            os.close(self._number)

    def _open(self) -> bool:
        """Whether the kernel gave the lock: some network storage knows none."""
        while True:
            self._number = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(self._number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._number)
                self._refuse(self._read())
            except OSError:
                return False
            try:
                if os.stat(self._file).st_ino == os.fstat(self._number).st_ino:
                    return True
            except FileNotFoundError:
                pass
            os.close(self._number)  # its last holder removed it in between

    def _watch(self, holder: dict):
        print(f"{self._folder}: waiting {3 * BEAT:.0f} s to see whether {_who(holder)} still uses it", flush=True)
        time.sleep(3 * BEAT)
        if (now := self._read()) not in ({}, holder):
            if self._number is not None:
                os.close(self._number)
            self._refuse(now)

    def _refuse(self, holder: dict):
        raise ValueError(
            f"{self._folder}: in use by {_who(holder)}: stop that one or wait for its end, or take another folder"
        )

    def _read(self) -> dict:
        """Who has it, {} if nobody."""
        try:
            held = json.loads(self._file.read_text())
            return held if {"pid", "host"} <= held.keys() else {}
        except (OSError, ValueError, AttributeError):
            return {}

    def _write(self, beat: int):
        text = json.dumps(self._me | {"beat": f"{beat:09d}"})
        if self._number is None:
            self._file.write_text(text)
            return
        os.pwrite(self._number, text.encode(), 0)
        os.ftruncate(self._number, len(text))

    def _renew(self):
        beat = 0
        while not self._ended.wait(BEAT):
            beat += 1
            try:
                self._write(beat)
            except OSError:  # a network that is away for a while; a folder that is gone is noticed by what writes there
                pass


def _who(holder: dict) -> str:
    return f"process {holder['pid']} on {holder['host']}" if holder else "another program"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
