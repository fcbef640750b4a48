"""Attention by a kernel of the platform: the `[N, M]` scores stay on the chip, forward and backward.

`cudnn`: cuDNN's flash attention on NVIDIA GPUs (arXiv 2307.08691), in bfloat16. `splash`: JAX's Pallas kernel on TPUs.
The reference is `ops.attention.attend`. What a kernel cannot honour it refuses.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as tpu
from jax.sharding import PartitionSpec as P

from pretrain.sharding import BATCH, TENSOR, current_mesh, device_kind

CHOICES = ("xla", "auto", "cudnn", "splash")
DEVICE = {"cudnn": "NVIDIA", "splash": "TPU"}  # how the names of the devices begin that run them
TILE = {"cudnn": 8, "splash": 128}  # lengths are padded to whole tiles
SHORT = 128  # the scores of fewer tokens are small: `auto` leaves them to XLA


def check(setting: str, *, dtype, width: int, biased: bool, varied: bool):
    """ValueError for a `model.attention` that this model can run nowhere; see `refusal`."""
    if setting not in CHOICES:
        raise ValueError(f"model.attention={setting!r}: must be one of {', '.join(CHOICES)}")
    if setting in DEVICE:
        _insist(setting, refusal(setting, dtype=dtype, width=width, biased=biased, varied=varied))


def refusal(kernel: str, *, dtype, width: int, biased: bool, varied: bool) -> str:
    """Why a kernel cannot do what is asked, or "".

    dtype, width: of a head; biased: something adds to the scores; varied: queries (or heads) of one example differ in
    what they may see, as in a decoder.
    """
    if biased:  # cuDNN could, but a bias is as large as the scores that a kernel saves
        return "it adds no bias to the scores (model.slopes)"
    if kernel == "splash" and varied:
        return "it honours missing keys, but not queries that differ in what they may see (a decoder, a causal tower)"
    if kernel == "cudnn" and jnp.dtype(dtype) != jnp.bfloat16:
        return f"it takes bfloat16, not {jnp.dtype(dtype).name} (model.dtype)"
    if kernel == "cudnn" and (width % 8 or width > 128):
        return f"it takes heads whose width is a multiple of 8 up to 128, not {width} (model.dim / model.heads)"
    return ""


def choose(setting: str, q, k, mask, bias) -> str:
    """Which kernel runs this call of `attend`, or "" for XLA; `auto` takes the device's where it can and pays.

    The device is known while tracing, from the mesh: what `tools.plan` compiles here for TPUs takes their kernel.
    `lax.platform_dependent` would decide later, but carry every kernel's residuals through the scan over layers.
    """
    if setting == "xla":
        return ""
    kind = device_kind()
    wanted = dict(dtype=q.dtype, width=q.shape[-1], biased=bias is not None)
    wanted["varied"] = mask is not None and mask.shape[1:3] != (1, 1)
    if setting != "auto":
        runs = kind.startswith(DEVICE[setting])
        problem = refusal(setting, **wanted) if runs else f"it runs on {DEVICE[setting]} devices, not on {kind!r}"
        _insist(setting, problem)
        return setting
    kernel = next((name for name, prefix in DEVICE.items() if kind.startswith(prefix)), "")
    pays = min(q.shape[1], k.shape[1]) >= SHORT
    return kernel if kernel and pays and not refusal(kernel, **wanted) else ""


def attend_fused(kernel: str, q, k, v, mask):
    """As `attend`; mask `[1 or B, 1 or H, 1 or N, M]` or None. On a mesh a device runs its own examples and heads."""
    size, n, heads, m = *q.shape[:3], k.shape[1]
    mask = jnp.ones((1, 1, 1, m), bool) if mask is None else mask
    mask = jnp.broadcast_to(mask, (size, *mask.shape[1:]))
    # Kernels fill the scores of a query that may look nowhere so that its gradient is wrong: it scores all keys 0.
    some = mask.any(-1, keepdims=True)
    q, mask = jnp.where(some.swapaxes(1, 2), q, 0), mask | ~some
    more_n, more_m = -n % TILE[kernel], -m % TILE[kernel]
    q = jnp.pad(q, ((0, 0), (0, more_n), (0, 0), (0, 0)))
    k, v = (jnp.pad(a, ((0, 0), (0, more_m), (0, 0), (0, 0))) for a in (k, v))
    mask = jnp.pad(mask, ((0, 0), (0, 0), (0, 0), (0, more_m)))
    if mask.shape[2] > 1:
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, more_n), (0, 0)), mode="edge")
    run, mesh = KERNELS[kernel], current_mesh()
    if mesh is not None:
        split = TENSOR if heads % mesh.shape[TENSOR] == 0 else None
        rows, seen = P(BATCH, None, split), P(BATCH, split if mask.shape[1] > 1 else None)
        run = jax.shard_map(run, mesh=mesh, in_specs=(rows, rows, rows, seen), out_specs=rows, check_vma=False)
    return run(q, k, v, mask)[:, :n].astype(jnp.float32)


def _cudnn(q, k, v, mask):
    mask = jnp.broadcast_to(mask, (*mask.shape[:2], q.shape[1], k.shape[1]))  # cuDNN broadcasts no rows
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="cudnn")


def _splash(q, k, v, mask):
    n, m = q.shape[1], k.shape[1]
    block_q, block_k = (max(size for size in (128, 256, 384, 512) if length % size == 0) for length in (n, m))
    blocks = tpu.BlockSizes(
        block_q=block_q, block_kv=block_k, block_q_dkv=block_q, block_kv_dkv=block_k, use_fused_bwd_kernel=True
    )
    everything = tpu.MultiHeadMask([tpu.FullMask((n, m))] * q.shape[2])
    kernel = tpu.make_splash_mha_single_device(everything, block_sizes=blocks)

    def example(q, k, v, seen):  # all queries are of segment 1, as are the keys that they see
        return kernel(q, k, v, segment_ids=tpu.SegmentIds(jnp.ones(n, jnp.int32), seen.astype(jnp.int32)))

    q, k, v = (a.swapaxes(1, 2) for a in (q * q.shape[-1] ** -0.5, k, v))
    return jax.vmap(example)(q, k, v, mask[:, 0, 0]).swapaxes(1, 2)


KERNELS = {"cudnn": _cudnn, "splash": _splash}


def _insist(setting, problem):
    if problem:
        raise ValueError(
            f"model.attention={setting!r}: {problem}; set 'auto', which takes XLA where a kernel cannot, or 'xla'"
        )
