"""
Sentence similarity by averaged word vectors
============================================

The mean of the vectors of its words is a simple and fast embedding of a sentence. This example
learns small word vectors from the docstrings of scikit-learn and NumPy, and compares sentences.
With GloVe, word2vec or fastText vectors, pass the path of the file instead.
"""

# %%
# Word vectors
# ------------
# The corpus is the text of all public functions. Words that occur near the same words get
# similar vectors: the left singular vectors of the matrix of co-occurrences.

import inspect
import re

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.utils.discovery import all_estimators, all_functions

functions = [function for _, function in [*all_estimators(), *all_functions()]]
functions += [getattr(np, name) for name in dir(np)]
functions += [getattr(np.linalg, name) for name in dir(np.linalg)]
texts = [inspect.getdoc(function) or "" for function in functions]
paragraphs = [p for text in texts for p in re.split(r"\n\s*\n", text) if len(p) > 40]

counter = CountVectorizer(min_df=5, token_pattern=r"[a-z]{2,}", binary=True)
occurrences = counter.fit_transform(paragraphs).astype(float)
together = (occurrences.T @ occurrences).toarray()
expected = np.outer(together.sum(1), together.sum(0)) / together.sum()
information = np.log(np.maximum(together / expected, 1))
matrix = TruncatedSVD(100, random_state=0).fit_transform(information)
vectors = dict(zip(counter.get_feature_names_out(), matrix, strict=True))
print(len(paragraphs), "paragraphs,", len(vectors), "words")

# %%
# Sentence vectors
# ----------------
# SIF weights frequent words less. Their counts, and the component that all sentences share, are
# learned from the texts given to ``fit``.

from sklearn.metrics.pairwise import cosine_similarity

from ensembles.embeddings import SentenceEmbedder

embedder = SentenceEmbedder(vectors, weights="sif", remove_components=1)
embedder.fit(paragraphs)
sentences = [
    "Compute the eigenvalues of a symmetric matrix",
    "Singular value decomposition of an array",
    "Solve a linear system of equations",
    "Predict the class labels of samples",
    "Accuracy of a classifier on test data",
    "Confusion matrix of predicted and true labels",
    "Round elements to the nearest integer",
    "Largest value along an axis",
]
similarities = cosine_similarity(embedder.transform(sentences))

figure, axes = plt.subplots(figsize=(7, 3.4))
picture = axes.imshow(similarities, vmin=-0.2, vmax=1, cmap="viridis", aspect="auto")
axes.set_yticks(range(len(sentences)), sentences)
axes.set_xticks([])
figure.colorbar(picture, label="cosine similarity")
plt.show()
