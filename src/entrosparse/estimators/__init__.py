"""Estimators with the interface of scikit-learn."""

from entrosparse.estimators.sparse_coding import SparseCoding as SparseCoding
