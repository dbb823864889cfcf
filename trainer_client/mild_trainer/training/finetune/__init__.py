"""Training a new network after the last round, on the clean set and, by method, on the dropped samples' images.

`supervised` trains on the clean set alone; `mixmatch` uses the dropped samples as unlabelled images; `contrastive`
mixes images and pulls similar ones together. All methods have the same budget of forward and backward passes.

Several ranks draw the same batches and mixes, and gather all outputs (`Ranks.gathered_forward`), so that the methods
are written as for one process: guesses, partners and comparisons are those of the whole batch.
"""

from mild_trainer.training.finetune.finish import FinishResult, train_finish

__all__ = ["FinishResult", "train_finish"]
