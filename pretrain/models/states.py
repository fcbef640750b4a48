"""What a network can do, as it says so itself: nobody asks which network it is."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class States:
    """embed_dim: width of the embeddings of modalities, each alone; 0: it gives none.
    dim, probes: width of its encoder's outputs over any modalities together, 0 without such an encoder; and how many
      probes pool them, 0 for their mean. depth: of that encoder.
    """

    embed_dim: int = 0
    dim: int = 0
    depth: int = 0
    probes: int = 0
