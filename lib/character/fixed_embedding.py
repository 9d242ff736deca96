"""Growth paths whose embedding stays as it was drawn, in every stage.

``lib.character.growing`` freezes the embedding only where a stage adds a block. Greedy training that
goes on with the *same* block needs it frozen as well, or a restart would train more than a stage.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path

from lib.character.models.transformer import Transformer, TransformerConfig
from lib.character import growing
from lib.character.growing import GrowthRun
from lib.runs.task import Outcome


@dataclass(frozen=True)
class FixedEmbedding(TransformerConfig):
    """A transformer whose embedding wants no gradient."""

    def build(self) -> Transformer:
        model = super().build()
        model.embedding.requires_grad_(False)
        return model


def run(config: GrowthRun, seed: int, folder: Path) -> Outcome:
    """Train the paths of ``config`` as ``growing.run`` does, the embedding at random throughout."""
    shape = {field.name: getattr(config.model, field.name) for field in fields(config.model)}
    outcome = growing.run(replace(config, model=FixedEmbedding(**shape)), seed, folder)
    paths = dict(config.paths)
    for row in outcome.tables["paths"]:
        if paths[row["variant"]][-1].trains == "all":  # counted with the embedding
            row["trainable"] -= config.model.vocabulary * config.model.width
    return outcome
