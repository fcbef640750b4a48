"""Eight fake CPU devices, a compilation cache, and a small token store made of real emoji."""

import importlib.metadata
import os

# Tiny models spend their time in the compiler: let it optimize less. Processes that tests start inherit this.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones do not know it
    QUICK += " --xla_cpu_use_fusion_emitters=false"  # a train step compiles in half the time
# Eight devices on a busy core or two meet late: XLA kills a process that waits for 40 s.
QUICK += " --xla_cpu_collective_call_terminate_timeout_seconds=600"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK} --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.abspath(".cache/jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

import numpy as np
import pytest

from data_pipeline.image import palette
from data_pipeline.pictures import read_image
from data_pipeline.sources.emoji import Source
from data_pipeline.sources.tokens import Writer, write_codes

STYLES = {
    "render3d": "rgb",
    "flat": "rgb",
    "noto": "rgb",
    "line": "gray",
    "mono": "gray",
    "mask": "gray",
    "edges": "gray",
}


def pytest_collection_modifyitems(items):
    """Whole runs come first: they take longest, and a worker that met them last would end alone."""
    longest = ("test_processes.py", "test_sharding.py", "test_laws.py", "test_train.py")
    items.sort(key=lambda item: longest.index(item.path.name) if item.path.name in longest else len(longest))


def toy_tokens(image) -> np.ndarray:
    """uint8 `[64, 64, C]` → `[64]`: an 8×8 grid of patch means, a tokenizer that needs no training."""
    patches = image.reshape(8, 8, 8, 8, -1).mean((1, 3, 4))
    return (patches.ravel() * 4).astype(np.int16)


@pytest.fixture(scope="session")
def token_store(tmp_path_factory):
    """64 training, 16 validation and 16 test emoji under toy tokenizers of 1024 codes."""
    path = tmp_path_factory.mktemp("store")
    codes = np.stack(np.unravel_index(np.arange(1024), (16, 8, 8)), 1).astype(np.float32)
    modalities = {t: [m for m, owner in STYLES.items() if owner == t] for t in ("rgb", "gray")}
    about = {t: {"workdir": "none", "digest": "toy", "vocab_size": 1024, "shape": [8, 8], "modalities": m,
                 "codes": write_codes(path, t, codes)}
             for t, m in modalities.items()}  # fmt: skip
    writer = Writer(path, tokenizers=about, licence="see data_pipeline/emoji_corpus/LICENSES")
    for split, count in (("train", 64), ("val", 16), ("test", 16)):
        source = Source(split)
        writer.write_split(split, (record(source[i]) for i in range(count)))
    writer.close()
    return path


def record(example):
    out = {k: v for k, v in example.items() if not isinstance(v, np.ndarray)}
    for name in STYLES:
        field = "edges:render3d" if name == "edges" else name
        out[name] = toy_tokens(read_image(example, field, None, 64))[None]
    return out | {"palettes": [palette(example["render3d"][::4, ::4], n) for n in (1, 2, 3)]}


@pytest.fixture(scope="module")
def toy_workdir(token_store, tmp_path_factory):
    """A workdir of an untrained network on two of its modalities, pictures, whose tokenizer is a toy, and captions."""
    import tiny
    from toy_run import Toy, write_run

    from pretrain.evals.base import Context

    workdir = tmp_path_factory.mktemp("run")
    write_run(tiny.emoji_run(token_store), workdir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Context, "tokenizers", {"rgb": Toy()})
        yield workdir
