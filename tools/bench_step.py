"""python -m tools.bench_step --config=configs/fourm_mod7.py:tiny: what a train step costs here, and where.

Prints, as medians over repeats: step time, tokens/s, model FLOP/s and their share of the machine's own matmul peak
(measured in the same run), peak temporary memory as XLA reports it, and the step's parts: masking, embedding, encoder,
decoder, loss, optimizer. `--compare` puts the dense cross-entropy beside the grouped one. Batches are synthetic.
"""

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from flax import nnx

from pretrain import build, config_flag, optim
from pretrain.frozen import from_dict
from pretrain.models import encdec
from pretrain.ops.cross_entropy import dense_nll
from pretrain.restore import init_function
from pretrain.step import example_keys, init_state, make_train_step
from tools.synthetic import batch

CONFIG = config_flag.define("A run with an objective `masked`.")
BATCH = flags.DEFINE_integer("batch", 8, "Examples a step.")
INPUTS = flags.DEFINE_integer("inputs", 256, "Input tokens an example.")
TARGETS = flags.DEFINE_integer("targets", 256, "Target tokens an example.")
DTYPE = flags.DEFINE_string("dtype", "float32", "Type of the matmul operands.")
REPEATS = flags.DEFINE_integer("repeats", 7, "Repeats of everything; medians are printed.")
COMPARE = flags.DEFINE_boolean("compare", False, "Also the dense cross-entropy: time of the step, and its memory.")
flags.mark_flags_as_required(["config"])


class DenseModel(encdec.Model):
    """The same network with the logits of every token over every vocabulary."""

    def nll(self, y, queries, labels, **more):
        tables = [self.tokens.head(v) for v in self.tokens.targets]
        vocab = self.tokens.target_of(queries.modality)
        return dense_nll(y, tables, vocab, labels, queries.valid, dtype=jnp.dtype(self.config.dtype), **more)


class FreeModel(encdec.Model):
    """The same network with a loss that costs nothing: what is left is not the cross-entropy's."""

    def nll(self, y, queries, labels, **more):
        return jnp.where(queries.valid, y.mean(-1), 0.0)


class Bench:
    """A run's compiled step, and its parts, on one synthetic batch."""

    def __init__(self, run, network=None):
        self.run, self.objectives = run, build.objectives(run)
        make = build.model(run, self.objectives)
        if network:
            config = from_dict(encdec.Config, {k: v for k, v in run.model.items() if k != "model"}, "model")
            make = lambda rngs: network(config, run.modalities, (), rngs)
        self.graph, init = init_function(make, self.objectives, 0)
        params = jax.jit(init)()
        self.optimizer = optim.make_optimizer(run.optim, params, run.steps, init.roles)
        self.state = init_state(params, self.optimizer, False)
        self.data = jax.tree.map(jnp.asarray, batch(run.modalities, run.batch_size, 0))
        step = make_train_step(self.graph, self.objectives, self.optimizer, seed=0)
        self.step = jax.jit(step, donate_argnums=0).lower(self.state, self.data).compile()

    def seconds(self) -> float:
        """One step, state donated."""
        start = time.perf_counter()
        self.state, metrics = self.step(self.state, self.data)
        jax.block_until_ready((self.state, metrics))
        return time.perf_counter() - start

    def parts(self) -> dict:
        """{part: compiled function of no argument}; the network's parts forward and backward, each with its inputs."""
        objective, keys = self.objectives["masked"], example_keys(0, 0, self.run.batch_size)
        view = jax.jit(objective.view)
        inputs, dense, queries, labels = view(self.data, keys)
        params = self.state.params["model"]

        def model(p):
            return nnx.merge(self.graph, p)

        def grad(f, *args):
            # All data are arguments: as constants XLA would fold half the work away.
            compiled = jax.jit(jax.grad(lambda args, data: jnp.sum(f(*args, *data))))
            return lambda: compiled(args, (inputs, dense, queries, labels, encoded))

        x = jax.jit(lambda p: model(p).tokens.content(inputs, dense) + model(p).tokens.place(inputs))(params)
        encoded = jax.jit(lambda p: model(p).encode(inputs, inserted=x))(params)
        y = jax.jit(lambda p: model(p).decode(encoded, queries))(params)
        grads = jax.tree.map(jnp.ones_like, self.state.params)
        # Copies, donated at every call as the step donates its state.
        held = jax.tree.map(jnp.copy, (self.state.params, self.state.opt_state))

        def update(held, grads):
            params, opt_state = held
            return optim.apply(self.optimizer, grads, opt_state, params, jnp.isfinite(optax.tree.norm(grads)))

        update = jax.jit(update, donate_argnums=0)

        def optimizer():
            nonlocal held
            held = update(held, grads)
            return held

        return {
            "masking": lambda: view(self.data, keys),
            "embedding": grad(
                lambda p, i, d, q, *_: model(p).tokens.content(i, d).sum() + model(p).tokens.queries(q).sum(), params
            ),
            "encoder": grad(lambda p, x, i, *_: model(p).encode(i, inserted=x).x, params, x),
            "decoder": grad(lambda p, x, i, d, q, _, e: model(p).decode(e._replace(x=x), q), params, encoded.x),
            "loss": grad(lambda p, y, i, d, q, labels, _: model(p).nll(y, q, labels), params, y),
            "optimizer": optimizer,
        }  # fmt: skip

    def memory(self) -> float:
        """Bytes of temporaries of the step."""
        return self.step.memory_analysis().temp_size_in_bytes

    def flops(self) -> float:
        """Of the matmuls that learning takes: 6 a parameter of the trunk and token, attention, and each head's own."""
        m, b = self.state.params["model"], self.run.batch_size
        _, _, queries, _ = self.objectives["masked"].view(self.data, example_keys(0, 0, b))
        n, t, d = INPUTS.value, TARGETS.value, self.run.model["dim"]
        size = {k: sum(x.size for x in jax.tree.leaves(m[k])) for k in ("encoder", "decoder")}
        kv = np.prod(m["decoder"]["cross_attn"]["kv"]["kernel"].shape)  # runs over the inputs, not the targets
        depth = {k: m[k]["mlp"]["norm"]["scale"].shape[0] for k in size}
        matmuls = n * (size["encoder"] + kv + d * d) + t * (size["decoder"] - kv)
        attention = 2 * d * (depth["encoder"] * n * n + depth["decoder"] * (t * t + t * n))
        vocabs = np.asarray([x.vocab_size if x.targets else 0 for x in self.run.modalities])
        heads = d * np.where(queries.valid, vocabs[np.asarray(queries.modality)], 0).sum()
        return 6.0 * (b * (matmuls + attention) + heads)


def matmul_peak(dtype, size=2048) -> float:
    """FLOP/s of one square matmul with fp32 accumulation, the best of several."""
    a = jnp.ones((size, size), dtype)
    dot = jax.jit(lambda a: jax.lax.dot(a, a, preferred_element_type=jnp.float32))
    return 2 * size**3 / min(timed(lambda: dot(a)) for _ in range(10))


def timed(f) -> float:
    start = time.perf_counter()
    jax.block_until_ready(f())
    return time.perf_counter() - start


def median(f) -> float:
    f()
    return statistics.median(timed(f) for _ in range(REPEATS.value))


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    config = CONFIG.value
    config.batch_size, config.accum, config.model.dtype = BATCH.value, 1, DTYPE.value
    config.objectives.masked.input_tokens = (INPUTS.value, INPUTS.value)
    config.objectives.masked.target_tokens = (TARGETS.value, TARGETS.value)
    run = build.parse(config)
    bench = Bench(run)
    bench.seconds()
    rivals = {"grouped": bench}
    if COMPARE.value:
        rivals["dense"] = Bench(run, DenseModel)
        rivals["dense"].seconds()
    peak = matmul_peak(DTYPE.value)
    times = {name: [] for name in rivals}
    for _ in range(REPEATS.value):  # in turns, so that a noisy moment hits both
        for name, rival in rivals.items():
            times[name].append(rival.seconds())
    step = statistics.median(times["grouped"])
    tokens, flops = BATCH.value * (INPUTS.value + TARGETS.value), bench.flops()
    print(f"{jax.devices()[0].device_kind}, {DTYPE.value}: matmul peak {peak / 1e9:.0f} GFLOP/s")
    print(f"step {step:.3f} s · {tokens / step:,.0f} tokens/s · {flops / step / 1e9:.0f} GFLOP/s, ", end="")
    print(f"{flops / step / peak:.0%} of the peak")
    print(f"temporaries {bench.memory() / 2**20:,.0f} MiB beside the state")
    for name, part in bench.parts().items():
        seconds = median(part)
        print(f"  {name:10} {seconds * 1e3:8.1f} ms  {seconds / step:6.1%} of the step")
    if COMPARE.value:
        free = Bench(run, FreeModel).memory()
        extra = {name: rival.memory() - free for name, rival in rivals.items()}
        ratio = statistics.median(d / g for d, g in zip(times["dense"], times["grouped"]))
        print(
            f"dense cross-entropy: step {statistics.median(times['dense']):.3f} s, {ratio:.2f} × the grouped one · "
            f"temporaries {rivals['dense'].memory() / 2**20:,.0f} MiB; the grouped one takes "
            f"{extra['grouped'] / extra['dense']:.0%} of the dense one's extra memory"
        )


if __name__ == "__main__":
    app.run(main)
