"""How the codes of given data are found under a given model."""

from entrosparse.inference.base import Inference as Inference
from entrosparse.inference.variational import DiagonalInference as DiagonalInference
from entrosparse.inference.variational import stationarity as stationarity
