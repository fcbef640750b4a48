"""Fine-tuning the quickstart's model on the emoji corpus: the subgroup of an emoji, one of 95, from its 3D picture.

    python -m pretrain.finetune --config=configs/finetune_emoji.py --workdir=DIR --config.init=runs/quickstart/model

`:full` (the default) trains the whole encoder; `:last` its last block, `:lora` low-rank updates of its matrices,
`:prompt` learned tokens before its inputs, `:adapter` bottlenecks in its blocks, and `:probe` nothing of it: each with
the head, and the rest as it was.
`:added` adds a modality instead, French names, to be predicted from pictures.
"""

from ml_collections import ConfigDict

SUBGROUPS = """
    activities; affectionate; air transportation; alphanumeric symbols; amphibians; arrows; arts & crafts; asian;
    athletics; audio & video symbols; award medals; birds; body parts; books & paper; bugs; buildings; cat faces;
    clothing; computer; concerned; cooked / prepared; costumed & creatures; currencies; dishware; drink; emotions;
    events & holidays; fantasy; finger pointing; fingers closed; fingers open; flowers; fruit; games & hobbies;
    gender signs; geographic locations; gestures; globes & maps; ground transportation; hand props; hand signs;
    hands; hearts; hotel; household items; keypad characters; light, film & video; lock & keys; mail; mammals;
    marine life; math symbols; medical; money; monkey faces; music; musical instruments; negative; neutral /
    skeptical; office supplies; other flags; other objects; other places; other plants; other symbols; people;
    people symbols; phone; punctuation; religious buildings; religious symbols; reptiles; resting; roles & careers;
    science equipment; shapes & colors; sleepy; smiling; sound; sports; sweets & candy; time; tools; transport
    signs; unwell; vegetables; warning symbols; water transportation; weather; with glasses; with hands; with hats;
    with tongue; writing; zodiac signs
"""
KERNELS = "encoder/.*kernel$"
ADAPT = {  # rank, alpha: LoRA's paper takes ranks of 1 to 64 and an alpha that it does not tune (section 5); tokens:
    # VPT's takes 1 to 200 (arXiv 2203.12119, section 4.1).
    "full": (),
    "last": (dict(pattern="^model/encoder/", how="last", k=1), dict(pattern="^model/encoder_norm")),
    "lora": (dict(pattern=KERNELS, how="lora", rank=8, alpha=16.0),),
    "prompt": (dict(pattern="^model/registers"),),
    "adapter": (dict(pattern="encoder/adapter"),),
    "probe": (dict(pattern="^model/", how="frozen"),),
}


def get_config(arg=""):
    arg = arg or "full"
    if arg not in (*ADAPT, "added"):
        raise ValueError(f"configs/finetune_emoji.py:{arg}: the argument must be one of {', '.join(ADAPT)}, added")
    c = ConfigDict()
    c.seed, c.mesh, c.accum = 0, "ddp", 1
    c.steps, c.batch_size = 120, 64
    c.init = ""
    c.data = dict(source="tokens", path="runs/quickstart/tokens", train="train")
    c.optim = dict(lr=3e-3, warmup=20, weight_decay=0.05, clip=1.0, layer_decay=0.75, moments="float32")
    c.ema = 0.0
    c.checkpoint = dict(every=120, keep=1, best="")
    c.log = dict(every=25, wandb="", profile="")
    # 139 examples to validate on: one batch, so that none is left out.
    c.evals = dict(val=dict(evaluator="losses", split="val", batch_size=139, repeats=1, every=60))
    c.final_evals = dict(test=dict(evaluator="losses", split="test", batch_size=131, repeats=1))
    if arg == "added":
        return added(c)
    names = [name.strip() for name in " ".join(SUBGROUPS.split()).split(";")]
    c.modalities = [dict(name="render3d", targets=False)]
    c.labels = [dict(name="subgroup", kind="labels", shape=(1,), field="subgroup", vocab_size=95, classes=names)]
    c.model = dict(decoder_depth=0, registers=16 if arg == "prompt" else 0, adapter=16 if arg == "adapter" else 0)
    c.adapt = ADAPT[arg]
    c.objectives = dict(
        classification=dict(
            inputs=["render3d"], label="subgroup", pool="probes", label_smoothing=0.1, drop_path=0.1
        )
    )  # fmt: skip
    if arg != "full":  # little is trained: faster, and all of it alike
        c.optim.update(lr=5e-3, layer_decay=1.0)
    return c


def added(c):
    names = dict(name="french", kind="sequence", shape=(16,), field="name:fr", vocab="text", vocab_size=8000,
                 tokenizer="text")  # fmt: skip
    c.modalities = [dict(name="render3d"), dict(name="noto"), dict(name="caption"), names]
    c.model = dict()
    shown, asked = dict(render3d=1.0, noto=1.0, caption=0.2), dict(french=1.0, caption=0.2)
    c.objectives = dict(
        masked=dict(input_tokens=(32, 64), target_tokens=(16, 16), mixture=[dict(inputs=shown, targets=asked)])
    )
    return c
