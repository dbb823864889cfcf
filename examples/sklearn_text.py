"""scikit-learn on text: find the texts in the wrong category, with an `MLPClassifier` trained epoch by epoch.

Texts are sentences of three authors' vocabularies, drawn here, so that nothing is downloaded; a quarter of the labels
is wrong. The same lines work for tabular data: anything with ``partial_fit`` and ``predict``.
"""

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neural_network import MLPClassifier

from mild_client import EpochBits, LocalSelector, RunSpec
from mild_core import bitmap

N_EPOCHS = 25
TOPICS = {
    "cooking": "simmer the onion in butter add salt pepper garlic stir until brown bake bread dough oven cream soup",
    "sailing": "hoist the main sail tack against wind anchor in the harbour deck rope tide mast keel storm chart",
    "chess": "castle early develop the knight open file rook bishop pair pawn storm endgame sacrifice queen check mate",
}
COMMON = "a and then it was we had to so that is not very good time day with for all when more some over new"


def texts(n_samples: int, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
    """Sentences with more common words than words of their topic, and their topics."""
    topics, words = [text.split() for text in TOPICS.values()], COMMON.split()
    truth = rng.integers(len(topics), size=n_samples)
    drawn = [[*rng.choice(topics[topic], 6), *rng.choice(words, 12)] for topic in truth]
    return [" ".join(rng.permutation(sentence)) for sentence in drawn], truth


def main() -> None:
    """Train on labels of which a quarter is wrong, and print how good the clean set is."""
    rng = np.random.default_rng(0)
    sentences, truth = texts(3000, rng)
    labels = np.where(rng.random(truth.size) < 0.25, (truth + rng.integers(1, 3, truth.size)) % 3, truth)
    features = TfidfVectorizer().fit_transform(sentences)
    model = MLPClassifier((32,), learning_rate_init=3e-3, random_state=0)

    backend = LocalSelector()
    backend.open(RunSpec("texts", num_samples=labels.size, num_classes=3, forward_pass="eval"))
    for epoch in range(N_EPOCHS):
        model.partial_fit(features, labels, classes=range(3))
        correct = model.predict(features) == labels
        backend.put_epoch(0, epoch, EpochBits(labels.size, bitmap.pack(correct)))
    result = backend.finish(0)

    kept, right = bitmap.unpack(result.selected, labels.size), labels == truth
    print(f"{(~right).sum()} of {labels.size} labels are wrong; verdict: {result.summary['verdict']}")
    print(f"kept {kept.sum()}, of which {(kept & right).sum()} are right")


if __name__ == "__main__":
    main()
