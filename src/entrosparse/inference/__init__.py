"""How the codes of given data are found under a given model."""

from entrosparse.inference._amortized import AmortizedInference as AmortizedInference
from entrosparse.inference._amortized import RefinedInference as RefinedInference
from entrosparse.inference._diagonal_solver import LEARNING_SWEEPS as LEARNING_SWEEPS
from entrosparse.inference._diagonal_solver import STARTING_SWEEPS as STARTING_SWEEPS
from entrosparse.inference._diagonal_solver import DiagonalInference as DiagonalInference
from entrosparse.inference._encoder_files import load_encoder as load_encoder
from entrosparse.inference._encoder_files import save_encoder as save_encoder
from entrosparse.inference._encoders import DiagonalEncoder as DiagonalEncoder
from entrosparse.inference._encoders import LowRankEncoder as LowRankEncoder
from entrosparse.inference._factorial_solver import EXACT_LEARNING_SWEEPS as EXACT_LEARNING_SWEEPS
from entrosparse.inference._factorial_solver import ExactFactorialInference as ExactFactorialInference
from entrosparse.inference._factorial_solver import learning_sweeps as learning_sweeps
from entrosparse.inference._full_solver import FullInference as FullInference
from entrosparse.inference._low_rank_solver import LowRankInference as LowRankInference
from entrosparse.inference._problem import stationarity as stationarity
from entrosparse.inference._protocol import Inference as Inference
from entrosparse.inference._protocol import infer_in_chunks as infer_in_chunks
