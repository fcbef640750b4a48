"""python -m tools.bench_step --config=configs/fourm_mod7.py:tiny: what a train step costs here, and where.

Prints, as medians over repeats: step time, tokens/s, model FLOP/s and their share of the machine's own matmul peak
(measured in the same run), peak temporary memory as XLA reports it, and the step's parts: masking, embedding, encoder,
decoder, loss, optimizer. On a TPU the compiler's own estimate stands beside the step. `--compare` puts the dense
cross-entropy beside the grouped one. Batches are synthetic.
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
from pretrain.chips import chip_of
from pretrain.models.parts import head
from pretrain.models.parts.base import Build
from pretrain.models.passes import ONLINE, leaves
from pretrain.ops.cross_entropy import dense_nll
from pretrain.program import compiler_options
from pretrain.restore import init_function
from pretrain.step import example_keys, init_state, make_train_step
from tools.plan.clock import clock
from tools.plan.hlo import Hlo
from tools.synthetic import batch

CONFIG = config_flag.define("A run with an objective `masked`.")
BATCH = flags.DEFINE_integer("batch", 8, "Examples a step.")
INPUTS = flags.DEFINE_integer("inputs", 256, "Input tokens an example.")
TARGETS = flags.DEFINE_integer("targets", 256, "Target tokens an example.")
DTYPE = flags.DEFINE_string("dtype", "float32", "Type of the matmul operands.")
REPEATS = flags.DEFINE_integer("repeats", 7, "Repeats of everything; medians are printed.")
COMPARE = flags.DEFINE_boolean("compare", False, "Also the dense cross-entropy: time of the step, and its memory.")
flags.mark_flags_as_required(["config"])


class DenseHead(head.Part):
    """The same head with the logits of every token over every vocabulary."""

    def __call__(self, stream, labels, asked, **more):
        embed = getattr(asked.network, self.config.table)
        tables, vocab = [embed.head(v) for v in embed.targets], embed.target_of(stream.modality)
        return dense_nll(stream.x, tables, vocab, labels, stream.valid, dtype=self.dtype, **more)


class FreeHead(head.Part):
    """A loss that costs nothing: what is left of the step is not the cross-entropy's."""

    def __call__(self, stream, labels, asked, **more):
        return jnp.where(stream.valid, stream.x.mean(-1), 0.0)


class Bench:
    """A run's compiled step, and its parts, on one synthetic batch. head_part: in the place of the network's head."""

    def __init__(self, run, head_part=head.Part):
        self.run, self.objectives = run, build.objectives(run)
        make = build.models(run, self.objectives)[ONLINE]

        def network(rngs):
            made = make(rngs)
            made.head = head_part(made.states["head"], Build("head", {}, (), build.model_config(run).numerics))
            return made

        self.graphs, init = init_function({ONLINE: network}, self.objectives, 0)
        params = jax.jit(init)()
        self.optimizer = optim.make_optimizer(run.optim, params, run.steps, init.roles)
        self.state = init_state(params, self.optimizer)
        self.data = jax.tree.map(jnp.asarray, batch(run.modalities, run.batch_size, 0))
        step = make_train_step(self.graphs, self.objectives, self.optimizer, seed=0)
        options = compiler_options(jax.devices()[0])
        self.step = jax.jit(step, donate_argnums=0, compiler_options=options).lower(self.state, self.data).compile()

    def seconds(self) -> float:
        """One step, state donated."""
        start = time.perf_counter()
        self.state, metrics = self.step(self.state, self.data)
        jax.block_until_ready((self.state, metrics))
        return time.perf_counter() - start

    def masked(self):
        """(masking(data), what it gives) of the objective that masks."""
        nodes, keys = self.objectives["masked"].passes(train=True).values(), example_keys(0, 0, self.run.batch_size)
        (masking,) = {leaf.make for leaf in leaves(nodes)}
        masking = jax.jit(masking)
        return lambda: masking(self.data, keys)

    def parts(self) -> dict:
        """{part: compiled function of no argument}; the network's parts forward and backward, each with its inputs."""
        masking, params = self.masked(), self.state.params["model"]
        made = masking()
        inputs, queries, labels = made["inputs"], made["queries"], made["labels"]

        def run(p, part, *args, **options):
            return nnx.merge(self.graphs[ONLINE], p).run(part, *args, **options)

        def grad(f, *args):
            # All data are arguments: as constants XLA would fold half the work away.
            compiled = jax.jit(jax.grad(lambda args, data: jnp.sum(f(*args, *data))))
            return lambda: compiled(args, (inputs, queries, labels, stream, encoded, start, decoded))

        stream = jax.jit(lambda p: run(p, "embed", inputs))(params)
        encoded = jax.jit(lambda p: run(p, "encoder", stream))(params)
        start = jax.jit(lambda p: run(p, "embed", queries, queries=True))(params)
        decoded = jax.jit(lambda p: run(p, "decoder", start, encoded))(params)
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
            "masking": masking,
            "embedding": grad(
                lambda p, i, q, *_: run(p, "embed", i).x.sum() + run(p, "embed", q, queries=True).x.sum(), params
            ),
            "encoder": grad(lambda p, x, i, q, _, s, *more: run(p, "encoder", s._replace(x=x)).x, params, stream.x),
            "decoder": grad(
                lambda p, x, i, q, _, s, e, start, d: run(p, "decoder", start, e._replace(x=x)).x, params, encoded.x
            ),
            "loss": grad(
                lambda p, x, i, q, labels, s, e, start, d: run(p, "head", d._replace(x=x), labels), params, decoded.x
            ),
            "optimizer": optimizer,
        }  # fmt: skip

    def memory(self) -> float:
        """Bytes of temporaries of the step."""
        return self.step.memory_analysis().temp_size_in_bytes

    def flops(self) -> float:
        """Of the matmuls that learning takes: 6 a parameter of the trunk and token, attention, and each head's own."""
        m, b = self.state.params["model"], self.run.batch_size
        queries = self.masked()()["queries"].tokens
        n, t, d = INPUTS.value, TARGETS.value, self.run.model["dim"]
        size = {k: sum(x.size for x in jax.tree.leaves(m[k]["blocks"])) for k in ("encoder", "decoder")}
        kv = np.prod(
            m["decoder"]["blocks"]["cross_attn"]["kv"]["kernel"].shape
        )  # runs over the inputs, not the targets
        depth = {k: m[k]["blocks"]["mlp"]["norm"]["scale"].shape[0] for k in size}
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
        rivals["dense"] = Bench(run, DenseHead)
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
    chip = chip_of(jax.devices()[0].device_kind)
    if told := chip and clock(Hlo(bench.step.as_text()), chip, ()):  # TPUs alone state it
        print(f"by the compiler's estimate {told.seconds:.4f} s: it took {step / told.seconds:.2f} times as long")
    print(f"temporaries {bench.memory() / 2**20:,.0f} MiB beside the state")
    for name, part in bench.parts().items():
        seconds = median(part)
        print(f"  {name:10} {seconds * 1e3:8.1f} ms  {seconds / step:6.1%} of the step")
    if COMPARE.value:
        free = Bench(run, FreeHead).memory()
        extra = {name: rival.memory() - free for name, rival in rivals.items()}
        ratio = statistics.median(d / g for d, g in zip(times["dense"], times["grouped"]))
        print(
            f"dense cross-entropy: step {statistics.median(times['dense']):.3f} s, {ratio:.2f} × the grouped one · "
            f"temporaries {rivals['dense'].memory() / 2**20:,.0f} MiB; the grouped one takes "
            f"{extra['grouped'] / extra['dense']:.0%} of the dense one's extra memory"
        )


if __name__ == "__main__":
    app.run(main)
