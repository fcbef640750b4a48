"""What a training is going to be shown, in words."""

from data_pipeline import mixture, transforms


def describe_data(source, modalities, batch_size: int, steps: int, given=()) -> str:
    """How many examples an epoch has, how often each source is seen in a run, and which modalities it gives.

    An epoch shows every example at least once: of a mixture it ends when the last of its sources has been through, and
    the others have then been seen more than once. Then what a source reports of itself, such as keys that were skipped.
    given: the transforms that write fields for the modalities.
    """
    mixed = isinstance(source, mixture.Source)
    parts, shares = (source.parts, source.shares) if mixed else ([source], [1.0])
    epoch = round(max(len(part) / share for part, share in zip(parts, shares)))
    shown = batch_size * steps
    lines = [
        f"data: {len(source):,} examples; an epoch is {epoch:,} of them drawn, {epoch / batch_size:,.1f} steps, and "
        f"the run {shown / epoch:,.2f} epochs"
    ]
    for part, share in zip(parts, shares):
        only = part.modalities if mixed else ()
        names = [m.name for m in modalities if (not only or m.name in only) and gives(part, m, given)]
        if mixed:
            lines.append(
                f"  {share:6.1%}  {len(part):,} examples, {share * epoch:,.0f} drawn in an epoch, seen "
                f"{shown * share / len(part):,.2f}× in the run: {part!r}"
            )
        lines.append(f"{' ' * 10 if mixed else '  '}{', '.join(names)}")
        if report := getattr(part.source if mixed else part, "report", ""):
            lines.append(f"{' ' * 10 if mixed else '  '}{report}")
    return "\n".join(lines)


def describe_split(split: str, source) -> str:
    """How many examples a split has, and what its source reports."""
    report = getattr(source, "report", "")
    return f"{split}: {len(source):,} examples" + (f"; {report}" if report else "")


def gives(source, m, given=()) -> bool:
    """Whether some example of a source has what a modality is made from, as far as the source can tell."""
    known = getattr(source, "fields", None)
    return known is None or not transforms.fields_after(given, known).isdisjoint(m.fields)
