from typing import get_args

import numpy as np
import pytest

from mild_core.audit import Annotations
from mild_core.sample_scores import score_sample
from mild_core.selection import select
from mild_core.sources import ArraySource, pick_samples
from mild_core.statistics import Query
from mild_core.types import Metric, SelectionOptions
from tests.core.test_statistics import draw_run


@pytest.mark.parametrize("metric", get_args(Metric))
@pytest.mark.parametrize("seed", range(40))
def test_a_sample_has_from_its_own_bits_the_score_that_it_has_among_all(metric: Metric, seed: int) -> None:
    rng = np.random.default_rng(seed)
    options = SelectionOptions(metric=metric)
    rounds = [bits.drop_empty_epochs() for bits in draw_run(rng)]
    selection = select(rounds, options)
    source = ArraySource(rounds, Annotations())
    query = Query(options, selection.early, None)
    levels = selection.details.levels
    for index in rng.integers(0, selection.n_samples, 8).tolist():
        own = pick_samples(source, np.array([index]))
        score = score_sample(own, query, selection.densities, None if levels is None else levels.tolist())
        assert score.is_scored == selection.scored[index]
        np.testing.assert_equal(score.value, float(selection.scores[index]))
        np.testing.assert_allclose(score.noisy_posterior, selection.noisy_posterior[index], atol=1e-6)
