"""Estimators with the interface of scikit-learn."""

from entrosparse.estimators._sparse_coding import SparseCoding as SparseCoding
