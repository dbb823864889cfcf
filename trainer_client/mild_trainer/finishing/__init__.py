"""After the last round: a fresh network makes the most of the clean set, and perhaps of the dropped samples' images.

`supervised` trains on the set alone, `mixmatch` takes the dropped samples as unlabelled, `contrastive` mixes images of
the set and pulls what looks alike together. All three spend the same budget of forward and backward passes.
"""

from mild_trainer.finishing.finish import Finished, finish

__all__ = ["Finished", "finish"]
