"""How the codes of given data are found under a given model."""

from entrosparse.inference.amortized import AmortizedInference as AmortizedInference
from entrosparse.inference.amortized import RefinedInference as RefinedInference
from entrosparse.inference.base import Inference as Inference
from entrosparse.inference.diagonal import DiagonalInference as DiagonalInference
from entrosparse.inference.encoders import DiagonalEncoder as DiagonalEncoder
from entrosparse.inference.encoders import LowRankEncoder as LowRankEncoder
from entrosparse.inference.full import FullInference as FullInference
from entrosparse.inference.low_rank import LowRankInference as LowRankInference
from entrosparse.inference.problem import stationarity as stationarity
