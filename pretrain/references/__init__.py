"""Models that no gradient reaches: teachers and averages of what learns, one file each with a frozen `Reference`.

workdir: where its network was trained; "" of what follows the parameters that learn: it starts as a copy of them, and
`update(reference, params, step, steps)` is what it is after a step.
"""
