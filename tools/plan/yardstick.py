"""python -m tools.plan.yardstick --topology=v5e-4 --dim=768: what a minimal bfloat16 transformer reaches by that clock.

A plain encoder of pre-norm blocks (attention and an MLP of four times the width, no biases), a mean-square loss, AdamW;
weights in fp32, all else in bfloat16; every chip holds everything and has examples of its own. It shows how much of a
chip's peak the compiler's estimate grants to such widths, and so what is left to gain in a run's own plan.
"""

import functools

from absl import app, flags

from tools.plan import topology as topologies

TOPOLOGY = flags.DEFINE_string("topology", "v5e-4", "As of `tools.plan`.")
DIM = flags.DEFINE_integer("dim", 768, "Width; heads are of 64.")
DEPTH = flags.DEFINE_integer("depth", 12, "Blocks.")
BATCH = flags.DEFINE_integer("batch", 16, "Examples a chip.")
TOKENS = flags.DEFINE_integer("tokens", 256, "Tokens an example.")
SCAN = flags.DEFINE_boolean("scan", False, "A scan over the blocks in the place of blocks written out.")
REMAT = flags.DEFINE_boolean("remat", False, "Keep what enters a block alone.")


def forward(params, x, *, scan: bool, remat: bool):
    """params: {name: `[depth, …]`}; x `[B, N, D]` → `[B, N, D]`."""
    import jax

    body = functools.partial(jax.checkpoint)(block) if remat else block
    if scan:
        return jax.lax.scan(lambda x, p: (body(x, p), None), x, params)[0]
    for i in range(len(params["qkv"])):
        x = body(x, {name: p[i] for name, p in params.items()})
    return x


def block(x, p):
    """One block of bfloat16 x `[B, N, D]`; its weights are cast here."""
    import jax
    import jax.numpy as jnp

    size, n, d = x.shape
    w = {name: value.astype(x.dtype) for name, value in p.items()}

    def norm(x, scale):
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(-1, keepdims=True)
        return (centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * scale).astype(x.dtype)

    q, k, v = jnp.split(norm(x, p["norm1"]) @ w["qkv"], 3, axis=-1)
    q, k, v = (a.reshape(size, n, -1, 64) for a in (q, k, v))
    scores = jnp.einsum("bnhd,bmhd->bhnm", q, k, preferred_element_type=jnp.float32) / 8
    y = jnp.einsum("bhnm,bmhd->bnhd", jax.nn.softmax(scores, axis=-1).astype(x.dtype), v)
    x = x + y.reshape(size, n, d) @ w["proj"]
    return x + jax.nn.gelu(norm(x, p["norm2"]) @ w["up"]) @ w["down"]


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    topology = topologies.find(TOPOLOGY.value)
    topologies.prepare(topology)
    import jax
    import jax.numpy as jnp
    import optax
    from jax.sharding import Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P

    from pretrain.flops import matmul_flops
    from tools.plan.clock import clock
    from tools.plan.hlo import Hlo

    mesh = Mesh(topology.devices(), "data")
    d, shapes = DIM.value, {}
    for name, shape in dict(
        qkv=(d, 3 * d), proj=(d, d), up=(d, 4 * d), down=(4 * d, d), norm1=(d,), norm2=(d,)
    ).items():
        shapes[name] = jax.ShapeDtypeStruct((DEPTH.value, *shape), jnp.float32, sharding=NamedSharding(mesh, P()))
    rows = (topology.count * BATCH.value, TOKENS.value, d)
    x = jax.ShapeDtypeStruct(rows, jnp.bfloat16, sharding=NamedSharding(mesh, P("data")))
    optimizer = optax.adamw(1e-4)

    def loss(params, x):
        y = forward(params, x, scan=SCAN.value, remat=REMAT.value)
        return jnp.square(y.astype(jnp.float32)).mean()

    def step(params, state, x):
        updates, state = optimizer.update(jax.grad(loss)(params, x), state, params)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(optimizer.init, shapes)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(shapes, state, x).compile()
    found = clock(Hlo(compiled.as_text()), topology.chip, set())
    plain = jax.make_jaxpr(jax.grad(lambda p, x: jnp.square(forward(p, x, scan=True, remat=False)).sum()))(shapes, x)
    flops = matmul_flops(plain) / topology.count
    print(f"{topology.name}: {DEPTH.value} blocks of {d}, {BATCH.value} × {TOKENS.value} tokens a chip")
    reached = flops / topology.chip.flops / found.seconds
    print(f"{found.cycles / 1e6:.1f} M cycles, {found.seconds * 1e3:.1f} ms, MFU {reached:.1%}")
    print(" · ".join(f"{kind} {cycles / found.cycles:.0%}" for kind, cycles in found.by("kind").items()))


if __name__ == "__main__":
    app.run(main)
