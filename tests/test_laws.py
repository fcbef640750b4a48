"""The laws of whole runs, each in processes of its own, on the tiny emoji run."""

import random
import re

import laws
import pytest

CONFIG = "configs/emoji.py:tiny"

pytestmark = pytest.mark.slow


def test_resumed_equals_uninterrupted(token_store, tmp_path):
    overrides = {"data.path": token_store, "steps": 60, "log.every": 1, "evals.val.every": 10, "checkpoint.every": 10}
    # A save waits for the one before it: once step 20 is past, the checkpoint of step 10 is complete.
    kill_after = random.randint(21, 50)
    out = laws.resumed_equals_uninterrupted(CONFIG, tmp_path, overrides, kill_after)
    assert int(re.search(r"resuming .* from step (\d+) of 60", out)[1]) >= 10


def test_eight_devices_equal_one(token_store, tmp_path):
    overrides = {"data.path": token_store, "steps": 20, "log.every": 1, "evals.val.every": 20, "checkpoint.every": 20}
    out = laws.meshes_agree(CONFIG, tmp_path, overrides, "data=2,fsdp=2,tensor=2")
    assert "Involuntary full rematerialization" not in out  # XLA found a way from every layout to the next
