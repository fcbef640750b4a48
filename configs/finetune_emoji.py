"""Fine-tuning the quickstart's model on the emoji corpus: the subgroup of an emoji, one of 95, from its 3D picture.

    python -m pretrain.finetune --config=configs/finetune_emoji.py --workdir=DIR --config.load=runs/quickstart/model

`:full` (the default) trains the whole encoder; `:last` its last block, `:lora` and `:dora` low-rank updates of its
matrices, `:prompt` learned tokens before its inputs, `:adapter` bottlenecks in its blocks, and `:probe` nothing of it:
each with the head, and the rest as it was.
`:added` adds a modality instead, French names, to be predicted from pictures.
"""

from ml_collections import ConfigDict

from configs.common import check_arg, text

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
NAMES = [name.strip() for name in " ".join(SUBGROUPS.split()).split(";")]
ENCODER = dict(parts=("encoder",))
TRAIN = {  # rank, alpha: LoRA's paper takes ranks of 1 to 64 and an alpha that it does not tune (section 5); tokens:
    # VPT's takes 1 to 200 (arXiv 2203.12119, section 4.1).
    "full": (),
    "last": (dict(ENCODER, how="last", k=1), dict(ENCODER, pattern="encoder/norm")),
    "lora": (dict(ENCODER, how="lora", rank=8, alpha=16.0),),
    "dora": (dict(ENCODER, how="dora", rank=8, alpha=16.0),),
    "prompt": (dict(ENCODER, pattern="registers"),),
    "adapter": (dict(ENCODER, pattern="adapter"),),
    "probe": (dict(how="nothing"),),
}


def get_config(arg=""):
    check_arg(arg, __file__, (*TRAIN, "added"))
    arg = arg or "full"
    c = ConfigDict()
    c.steps, c.batch_size = 120, 64
    c.data = dict(source="tokens", path="runs/quickstart/tokens")
    c.optim = dict(lr=3e-3, warmup=20, clip=1.0, layer_decay=0.75)
    c.checkpoint = dict(every=120, keep=1)
    c.log = dict(every=25)
    # 139 examples to validate on: one batch, so that none is left out.
    c.evals = dict(val=dict(evaluator="losses", batch_size=139, every=60))
    c.final_evals = dict(test=dict(evaluator="losses", split="test", batch_size=131))
    if arg == "added":
        return added(c)
    c.modalities = [dict(name="render3d", targets=False)]
    c.labels = [dict(name="subgroup", kind="labels", shape=(1,), field="subgroup", vocab_size=95, classes=NAMES)]
    # 0 too is said: what is not is as in the model that it starts from.
    c.model = dict(decoder_depth=0, registers=16 if arg == "prompt" else 0, adapter=16 if arg == "adapter" else 0)
    if TRAIN[arg]:
        c.train = TRAIN[arg]
    c.objectives = dict(
        classification=dict(
            inputs=["render3d"], label="subgroup", pool="queries", label_smoothing=0.1, drop_path=0.1
        )
    )  # fmt: skip
    if arg != "full":  # little is trained: faster, and all of it alike
        c.optim.update(lr=5e-3, layer_decay=1.0)
    return c


def added(c):
    c.modalities = [*(dict(name=n) for n in ("render3d", "noto", "caption")), text(16, name="french", field="name:fr")]
    shown, asked = dict(render3d=1.0, noto=1.0, caption=0.2), dict(french=1.0, caption=0.2)
    c.objectives = dict(
        masked=dict(input_tokens=(32, 64), target_tokens=(16, 16), mixture=[dict(inputs=shown, targets=asked)])
    )
    return c
