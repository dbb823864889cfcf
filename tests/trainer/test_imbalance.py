import numpy as np
import pytest

from mild_core.errors import ParameterError
from mild_trainer.data import Dataset, imbalance


@pytest.fixture
def balanced() -> Dataset:
    """Ten classes of 100 samples whose given labels are all 0 and whose pixels are their indices' last digits."""
    truth = np.repeat(np.arange(10), 100)
    images = (np.arange(1000) % 256).astype(np.uint8).reshape(-1, 1, 1, 1)
    return Dataset("squares", images, np.zeros(1000, dtype=np.int64), images[:10], truth[:10], 10, truth)


def sizes(data: Dataset) -> list[int]:
    assert data.y_train_clean is not None
    return [int(n) for n in np.bincount(data.y_train_clean, minlength=10)]


def test_a_long_tail_falls_geometrically_by_the_true_classes(balanced: Dataset) -> None:
    assert sizes(imbalance.make_imbalanced(balanced, "exp:0.01", 0)) == [100, 60, 36, 22, 13, 8, 5, 3, 2, 1]


def test_a_step_makes_the_second_half_rare(balanced: Dataset) -> None:
    assert sizes(imbalance.make_imbalanced(balanced, "step:0.1", 0)) == [100] * 5 + [10] * 5


def test_who_stays_depends_on_the_seed_and_keeps_image_and_label(balanced: Dataset) -> None:
    first, again, other = (imbalance.make_imbalanced(balanced, "step:0.1", seed).x_train.ravel() for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    taken = imbalance.make_imbalanced(balanced, "step:0.1", 1)
    assert taken.y_train_clean is not None
    assert (taken.y_train_clean[:500] * 100 <= np.arange(500)).all()
    assert (taken.x_train.ravel()[:500] == np.arange(500) % 256).all()


def test_a_class_never_vanishes_and_none_changes_nothing(balanced: Dataset) -> None:
    assert min(sizes(imbalance.make_imbalanced(balanced, "exp:0.0001", 0))) == 1
    assert imbalance.make_imbalanced(balanced, "none", 0) is balanced


@pytest.mark.parametrize("spec", ["exp", "exp:0", "exp:2", "step:x", "tail:0.1", "exp:nan"])
def test_what_cannot_be_read_is_refused_with_an_example(spec: str) -> None:
    with pytest.raises(ParameterError, match=r"give none, or exp or step .* such as exp:0\.01"):
        imbalance.parse_imbalance(spec)


def test_shares_are_declared_as_numbers_or_as_balanced() -> None:
    assert imbalance.parse_class_prior("none", 3) is None
    for text, shares in (("balanced", [1, 1, 1]), ("50,30,20", [50, 30, 20])):
        prior = imbalance.parse_class_prior(text, 3)
        assert prior is not None
        assert prior.tolist() == shares


@pytest.mark.parametrize("text", ["", "equal", "1", "1,0", "1,-1", "1,nan", "1,,1", "1;1"])
def test_refuses_what_declares_no_shares(text: str) -> None:
    with pytest.raises(ParameterError, match=f"class_prior is {text!r}; give none, balanced, or a number"):
        imbalance.parse_class_prior(text)


def test_there_is_a_share_for_each_class() -> None:
    with pytest.raises(ParameterError, match="2 shares and the data set has 3 classes"):
        imbalance.parse_class_prior("1,1", 3)


def test_a_prior_says_how_many_labels_are_wrong_at_least() -> None:
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    assert imbalance.describe_class_prior("none", labels, 3) == []
    for text, share in (("balanced", "26.6%"), ("6,3,1", "0.0%")):
        (line,) = imbalance.describe_class_prior(text, labels, 3)
        assert line == f"class prior {text}: if it is true, at least {share} of the given labels are wrong"
