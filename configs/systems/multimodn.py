"""MultiModN (arXiv 2309.14118).

Carried: one state that takes in modalities one after another, decoders after every step, steps that are left out where
an example lacks a modality, and modalities taken away at random, whatever the label.

Chest radiographs, demographics, echo reports and charted events of patients, as HAIM embeds them
(`--config.data.path`): whether a heart is enlarged. `:tiny` tells the group of an emoji from two pictures and a
caption.
"""

from ml_collections import ConfigDict

from configs.common import check_arg, image, text, tiny
from configs.emoji import GROUPS
from configs.systems import Claim

CLAIM = Claim(
    says="Modalities that enter one state in turn leave a prediction after each, and what is missing is left out "
    "instead of filled in, so that a model does not learn from the pattern of what is missing.",
    formula="`s_0` learned; `s_i = E_i([x_i; s_{i−1}])`, without residual or gate, or `s_{i−1}` where an example lacks "
    "modality i. `L = λ_err · mean_{i=0…E, d} CE(dec_d(s_i), y_d) + .01 · λ_state · mean_{i=1…E} ‖s_i − s_{i−1}‖² / "
    "dim`; a step that is left out adds 0 and stays in the denominator. `skip='batch'`, as in the release, leaves a "
    "modality out for a whole batch that has one example without it; `absent` takes it from an example by chance.",
    test="tests/objectives/test_stepwise.py::test_equals_numpy",
    experiment="missing",
    control="per-example mask",
    gate="B lacks for 80 % of positives in training. With label-independent dropout: AUC without B within .02 of a "
    "model that never had B; with B at most .01 below the per-example mask; it rises with every step.",
    out="MIMIC's data and its embeddings; a random order of the modalities, recurrent and residual encoders.",
)
APPROXIMATE = (
    "The release's encoder projects features and state at once; here features are first projected to the hidden width, "
    "linearly, so that of the first product nothing is lost, but dropout falls on those 32 numbers and the state.",
    "A modality of several tokens enters as the mean of the encoder's outputs for each; the release has one row each.",
    "In evaluation an example lacks what it lacks; the release leaves a step out for whole batches there, too.",
    "No source says what resists a pattern of what is missing. In the experiment the decoders on every state do: of A "
    "they learn from everyone, and so the control does not leak either, and dropout has nothing to mend. With a "
    "decoder on the last state alone it leaks (the last rows of the table), and dropout, or leaving out whole batches, "
    "mends it.",
    "Leaving out whole batches of 16 starves the encoder of what is missing: it is hardly trained, and where the "
    "modality is there again it harms.",
    "100 epochs are of 10,000 patients: the release does not say how many there are. Weights start as Xavier's, not "
    "as PyTorch's.",
)


def parts(order, dim, *, state, hidden, decoders, squashed=False):
    """A network: what embeds, a state, a decoder of each label ({name: classes}), and the last state as the vector."""
    mlp = dict(part="mlp", reads=("state",), hidden=hidden, final="sigmoid" if squashed else "none")
    return dict(
        embed=dict(part="embed", dim=dim),
        state=dict(part="state", reads=("embed",), order=order, dim=state, hidden=hidden),
        **{f"decode_{name}": mlp | dict(dim=classes) for name, classes in decoders.items()},
        pool=dict(part="pool", reads=("state",), how="last", width=state),
    )


def get_config(arg=""):
    check_arg(arg, __file__)
    return emoji() if arg else clinical()


def clinical():
    """The release's run on what is missing not at random (`mimic_single_task_mnar_missingness_pipeline.py`)."""
    widths = dict(demographics=6, radiograph=1024, echo_report=768, charted_events=99)
    c, order = ConfigDict(), tuple(widths)
    c.steps, c.batch_size = 100 * 10_000 // 16, 16
    c.data = dict(source="files")
    c.modalities = [dict(name=n, kind="vectors", shape=(1, w), field=n, targets=False) for n, w in widths.items()]
    c.labels = [dict(name="cardiomegaly", kind="labels", shape=(1,), field="cardiomegaly", vocab_size=2)]
    layers = dict(state=50, hidden=(32, 32), decoders=dict(cardiomegaly=2), squashed=True)
    c.model = dict(model="models.network", parts=parts(order, 32, **layers), dtype="float32")
    decoders = dict(cardiomegaly="decode_cardiomegaly")
    c.objectives = dict(stepwise=dict(inputs=order, decoders=decoders, dropout=0.2, skip="batch"))
    c.optim = dict(lr=1e-3, final_lr=1.0, b2=0.999, weight_decay=0.0)
    c.evals = dict(val=dict(evaluator="losses", batch_size=64, every=625))
    return c


def emoji():
    c, order = ConfigDict(), ("render3d", "noto", "caption")
    c.data = dict(source="emoji")
    c.modalities = [image(64, 8, name=n, field=n) for n in order[:2]] + [text(16, name="caption", field="name:en")]
    classes = tuple(GROUPS)
    c.labels = [dict(name="group", kind="labels", shape=(1,), field="group", vocab_size=9, classes=classes)]
    layers = dict(state=64, hidden=(128,), decoders=dict(group=9))
    c.model = dict(model="models.network", parts=parts(order, 64, **layers))
    decoders = dict(group="decode_group")
    c.objectives = dict(stepwise=dict(inputs=order, decoders=decoders, change=0.1, absent=0.3))
    c.optim = dict(lr=3e-3, clip=1.0)
    c.evals = dict(val=dict(evaluator="losses", batch_size=139))
    c.final_evals = dict(losses=dict(split="test", batch_size=131), robustness=dict(inputs=order, labels=["group"]))
    return tiny(c, steps=150, every=75, log=25, warmup=10)
