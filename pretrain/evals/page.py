"""What an evaluation looks like: a table for the terminal, and one self-contained HTML page with pictures."""

import html
from typing import NamedTuple

STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:auto;padding:1rem;color:#222}
img{max-width:100%;height:auto}table{border-collapse:collapse;font-size:.85rem}td,th{padding:.15rem .6rem;
border-bottom:1px solid #ddd;text-align:right}td:first-child,th:first-child{text-align:left;word-break:break-word}
.wide{overflow-x:auto}h2{margin-top:2.2rem}p.note{color:#666;font-size:.9rem}"""
COLUMNS = ("value", "chance", "raw", "untrained")  # of a score; raw: by pixels or tokens
WIDTH = 10 * len(COLUMNS) - 1  # of a checkpoint's, in a terminal
TITLES = {
    "zero_shot": "Zero-shot classification", "retrieval": "Retrieval", "knn": "k-nearest-neighbour classification",
    "linear_probe": "Linear probes", "few_shot": "Few-shot classification",
    "similarity": "Semantic textual similarity", "robustness": "With modalities missing",
    "diagnostics": "Representations", "nll": "How well one modality predicts another: nats a token, lower is better",
    "generation": "What is made of held-out examples (l1: lower is better)",
}  # fmt: skip


class Held(NamedTuple):
    """What the pictures of one checkpoint need; images: None where there can be none."""

    params: dict
    tasks: dict
    images: object


def begin(restored, context, tasks) -> Held:
    """Opens what pictures need, and says what is missing before anything is computed."""
    from pretrain.evals.pictures import Images

    try:
        context.tokenizers  # noqa: B018 (opens them)
    except (OSError, ValueError) as reason:
        print(f"the page will have no pictures of examples: {reason}")
        return Held(restored.params, tasks, None)
    return Held(restored.params, tasks, Images(context))


def rows_of(found) -> tuple[list[str], list[list[str]]]:
    """(head, rows): a row for each score of any checkpoint; the COLUMNS of each checkpoint."""
    checkpoints = found["checkpoints"]
    names = dict.fromkeys(name for c in checkpoints for name in c["scores"])
    rows = [[n, *(number(c["scores"].get(n, {}).get(k)) for c in checkpoints for k in COLUMNS)] for n in names]
    return ["", *(COLUMNS * len(checkpoints))], rows


def number(value) -> str:
    return "" if value is None else f"{value:.3f}"


def as_text(found) -> str:
    """The table for a terminal."""
    head, rows = rows_of(found)
    width = max(len(row[0]) for row in [head, *rows])
    lines = [f"{row[0]:{width}}  " + " ".join(f"{cell:>9}" for cell in row[1:]) for row in [head, *rows]]
    over = [f"{label(c)[-WIDTH:]:>{WIDTH}}" for c in found["checkpoints"]]
    return "\n".join([f"{'on ' + found['device']:{width}}  " + " ".join(over), *lines])


def label(checkpoint) -> str:
    return f"{checkpoint['workdir']} @ {checkpoint['step']}"


def render(found, held: list[Held]) -> str:
    """The page: a table for each task, with all checkpoints side by side, and each one's pictures below it."""
    checkpoints, parts = found["checkpoints"], []
    head, rows = rows_of(found)
    over = "".join(f"<th colspan={len(COLUMNS)}>{html.escape(label(c))}</th>" for c in checkpoints)
    tasks = {name.split("/")[0]: None for name, *_ in rows}
    for task in tasks:
        mine = [[name.split("/", 1)[1], *cells] for name, *cells in rows if name.split("/")[0] == task]
        parts += [
            f"<h2>{html.escape(TITLES.get(task, task))}</h2>",
            table(head, mine, over=f"<tr><th></th>{over}</tr>"),
        ]
        for checkpoint, own in zip(checkpoints, held):
            parts += pictures(own, task, label(checkpoint) if len(checkpoints) > 1 else "")
    for c in checkpoints:
        parts += [
            f"<p class='note'>{html.escape(label(c))}: no {n}: {html.escape(r)}</p>" for n, r in c["left_out"].items()
        ]
    note = "<p class='note'>chance: what guessing gives. untrained: the same network with fresh parameters.</p>"
    return document("Evaluation", f"<h1>Evaluation</h1><p>On {html.escape(found['device'])}.</p>{note}{''.join(parts)}")


def pictures(held: Held, task: str, whose: str) -> list[str]:
    """The figures that a task gives, as HTML."""
    from pretrain.evals.pictures import png

    evaluator, parts = held.tasks.get(task), []
    if held.images is None or not hasattr(evaluator, "figures"):
        return parts
    for title, figure in evaluator.figures(held.params, held.images):
        parts += [f"<h3>{html.escape(f'{title} {whose}')}</h3>", png(figure)]
    return parts


def table(head, rows, over: str = "") -> str:
    """over: a <tr> above the head."""

    def line(tag, cells):
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(c))}</{tag}>" for c in cells) + "</tr>"

    return f'<div class="wide"><table>{over}{line("th", head)}{"".join(line("td", r) for r in rows)}</table></div>'


def document(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><meta charset="utf8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>{body}</html>"
    )
