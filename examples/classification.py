"""
Sparse codes in a pipeline with a classifier
============================================

:class:`~entrosparse.SparseCoding` is a scikit-learn transformer. Here its codes of handwritten digits go
into a logistic regression, beside the codes of scikit-learn's dictionary learning, and beside the pixels
themselves.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import MiniBatchDictionaryLearning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from entrosparse import SparseCoding

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X / 16, y, test_size=600, random_state=0, stratify=y)

# %%
# A pipeline is one estimator, which learns the dictionary and the classifier in one call of ``fit``.

coding = SparseCoding(n_components=24, algorithm="online", max_epochs=30, random_state=0)
pipeline = make_pipeline(coding, LogisticRegression(max_iter=1000))
print(f"all labels: {pipeline.fit(X_train, y_train).score(X_test, y_test):.1%} of new digits are right")

# %%
# Labels are often rarer than images. So each dictionary of 24 atoms is now learned once, from all training
# images, and the classifier sees the labels of a few. Dictionary learning has a penalty α to set, and here
# are two values; the entropy ELBO has none.

transformers = {"SparseCoding": coding}
for penalty in (0.05, 0.3):
    transformers[f"dictionary learning, α = {penalty}"] = MiniBatchDictionaryLearning(
        24, alpha=penalty, max_iter=2, transform_algorithm="lasso_cd", random_state=0
    )
features = {"pixels": (X_train, X_test)}
for name, transformer in transformers.items():
    started = time.perf_counter()
    features[name] = transformer.fit_transform(X_train), transformer.transform(X_test)
    zeros = (features[name][1] == 0).mean()
    print(f"{name:<31} {time.perf_counter() - started:4.1f} s, {zeros:.0%} of the codes are exactly zero")

# %%
# The atoms, in falling order of the codes' deviation. Those of dictionary learning are for the larger
# penalty.

figure = plt.figure(figsize=(9, 4), layout="constrained")
for part, name in zip(figure.subfigures(2, 1), ("SparseCoding", "dictionary learning, α = 0.3"), strict=True):
    part.suptitle(name, fontsize=9)
    atoms = transformers[name].components_[np.argsort(-features[name][0].std(axis=0))]
    for panel, atom in zip(part.subplots(2, 12).flat, atoms, strict=True):
        panel.imshow(atom.reshape(8, 8), cmap="RdBu_r", vmin=-0.5, vmax=0.5)
        panel.set(xticks=[], yticks=[])

# %%
# Each number of labels is tried with four random choices of them; the bars are standard errors. A linear
# classifier finds in the codes no more than in the pixels, for the codes are nearly linear in the pixels.
# What one gains is that 24 numbers do nearly as well as 64 pixels, and that no penalty had to be tuned.

numbers = [20, 50, 100, 300, 1000]
figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
print("labels".ljust(31), *(f"{number:6}" for number in numbers))
for name, (train, test) in features.items():
    accuracy = np.zeros((len(numbers), 4))
    for row, number in enumerate(numbers):
        for seed in range(4):
            chosen = np.random.default_rng(seed).permutation(len(train))[:number]
            classifier = LogisticRegression(max_iter=1000).fit(train[chosen], y_train[chosen])
            accuracy[row, seed] = classifier.score(test, y_test)
    print(name.ljust(31), *(f"{value:6.1%}" for value in accuracy.mean(axis=1)))
    axes.errorbar(numbers, accuracy.mean(axis=1), accuracy.std(axis=1) / 4**0.5, marker="o", label=name)
axes.set(xscale="log", xlabel="labels", ylabel="share of new digits that are right")
axes.set_xticks(numbers, labels=[str(number) for number in numbers])
axes.legend(frameon=False)
plt.show()
