"""What the contrastive configs share: image and text towers, a run over image-text files, and its `:tiny` on emoji."""

from ml_collections import ConfigDict

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)  # pixels in −1…1


def image(size, patch, mean=HALF, std=HALF, name="image", field="image"):
    """The spec of a colour picture cut into patches."""
    return dict(
        name=name, kind="pixels", shape=(size, size, 3), field=field, patch=patch, mean=mean, std=std, targets=False
    )


def text(length, vocab_size, tokenizer, name="text", field="caption"):
    """The spec of a text under a tokenizer: a `tokenizers` JSON file, or `text`, ours."""
    return dict(
        name=name, kind="sequence", shape=(length,), field=field, vocab=tokenizer, vocab_size=vocab_size,
        tokenizer=tokenizer,
    )  # fmt: skip


def base(modalities, towers, objectives, *, embed_dim, batch_size, steps, optim):
    """A run of towers over a folder of image-text files (`data_pipeline.sources.files`): give it config.data.path."""
    c = ConfigDict()
    c.seed = 0
    c.mesh = "ddp"
    c.accum = 1
    c.steps, c.batch_size = steps, batch_size
    c.data = dict(source="files", path="", train="train")
    c.modalities = modalities
    c.model = dict(
        model="models.multimodal", towers=towers, embed_dim=embed_dim, dtype="bfloat16", remat="none", attention="xla",
        unroll=1,
    )  # fmt: skip
    c.init = ""
    c.objectives = objectives
    c.optim = dict(moments="float32") | optim
    c.ema = 0.0
    c.checkpoint = dict(every=2000, keep=2, best="")
    c.log = dict(every=50, wandb="", profile="")
    c.evals = dict(val=dict(evaluator="losses", split="val", batch_size=256, repeats=1, every=2000))
    first, second = (m["name"] for m in modalities[:2])
    c.final_evals = dict(retrieval=dict(pairs=[(first, second)]))
    return c


def tiny(c, fields):
    """The same run on the emoji corpus in fp32, for a CPU: every tower 64 wide and 2 layers deep.

    fields: {modality: the emoji field that takes its place}; pictures are of 64 pixels, texts of 16 tokens.
    """
    for m in c.modalities:
        m["field"] = fields[m["name"]]
        if m["kind"] == "sequence":
            m.update(dict(shape=(16,), vocab="text", vocab_size=8000, tokenizer="text"))
        else:
            m.update(image(64, 8, name=m["name"], field=m["field"]))
    for t in c.model.towers:
        t.update(dict(dim=64, heads=4, depth=2) | ({"pad_id": 0} if "pad_id" in t else {}))
    c.model.embed_dim, c.model.dtype = 64, "float32"
    c.data = dict(source="emoji", path="", train="train")
    c.steps, c.batch_size = 60, 64
    c.optim.warmup, c.optim.lr = 10, 2e-3
    c.checkpoint.every = c.evals.val.every = 30
    c.evals.val.batch_size = 64
    c.log.every = 10
    return c


def check_arg(arg, file):
    if arg not in ("", "tiny"):
        raise ValueError(f"configs/{file}.py:{arg}: the argument must be empty or `tiny`")
