"""After the last round: a fresh network makes the most of the clean set, and perhaps of the dropped samples' images.

`supervised` trains on the set alone, `mixmatch` takes the dropped samples as unlabelled, `contrastive` mixes images of
the set and pulls what looks alike together. All three spend the same budget of forward and backward passes.

Several ranks draw the same batches and mixes, and hear all outputs (`Ranks.through`): so a method reads as for one, and
guesses, partners and comparisons are those of the whole batch. To cut and mix a batch costs little beside its passes.
"""

from mild_trainer.training.finetune.finish import Finished, finish

__all__ = ["Finished", "finish"]
