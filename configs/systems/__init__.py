"""One file a published system: `get_config("")` its published settings, `get_config("tiny")` a run of about a minute on
the emoji corpus; `CLAIM`, what its paper claims and what here tests it; `APPROXIMATE`, what no source confirmed, or is
not as published. `tools.systems` writes their pages.

Of one that reads what others trained, `FIRST` says what has to be there: {argument: {workdir: the config for it}}.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Claim:
    """What a system claims and how it is tested.

    says: the paper's claim, in a sentence.
    formula: what is computed here, as Markdown.
    test: FILE::FUNCTION, which compares that with an independent writing.
    experiment: a file of tools/experiments; control: the condition that it compares with; gate: what has to come out.
    out: what of the system is left out.
    """

    says: str
    formula: str
    test: str
    experiment: str
    control: str
    gate: str
    out: str
