"""Handwritten digits, 8x8 pixels of 17 grey levels, shipped with scikit-learn (UCI, Alpaydin and Kaynak 1998)."""

import numpy as np

from mild_trainer.data.dataset import Dataset

_N_TEST = 360


def load_digits() -> Dataset:
    """1,437 training and 360 test images, split by class; the split never changes."""
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    images, labels = datasets.load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        images.reshape(-1, 8, 8, 1).astype(np.uint8),
        labels.astype(np.int64),
        test_size=_N_TEST,
        random_state=0,
        stratify=labels,
    )
    return Dataset("digits", x_train, y_train, x_test, y_test, n_classes=10)
