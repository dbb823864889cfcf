"""Plain training on the clean set."""

from torch import Tensor
from torch.nn import functional

from mild_trainer.engine import Trainee
from mild_trainer.finishing.pool import Pool
from mild_trainer.passes import Passes
from mild_trainer.settings import TrainSettings


class Supervised:
    """Cross entropy on the kept samples' labels."""

    def __init__(self, settings: TrainSettings, trainee: Trainee, pool: Pool) -> None:
        self._settings, self._trainee = settings, trainee
        self._batches = pool.batches(pool.kept, settings.batch_size)

    def step(self, done: float) -> tuple[Tensor, Passes]:
        """Return the loss of the next batch, and what it costs to step along it."""
        machine = self._trainee.machine
        (x,), labels = next(self._batches)
        with machine.autocast():
            logits = machine.ranks.through(self._trainee.learner, x)
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=self._settings.label_smoothing)
        return loss, Passes.learnt(len(labels))
