from .annealing import EntropyWeights
from .app.runs import load_run
from .estimators import SparseCoding
from .inference import (
    AmortizedInference,
    DiagonalEncoder,
    DiagonalInference,
    FullInference,
    Inference,
    LowRankEncoder,
    LowRankInference,
    RefinedInference,
)
from .learning import (
    AdamLearner,
    Batch,
    BatchEM,
    Callback,
    Checkpoints,
    EpochRecord,
    Learner,
    LearnerState,
    OnlineEM,
    RefinedEM,
    TrainingResult,
    Turn,
    evaluate,
    exact_em,
    train,
)
from .model import SparseCodingModel, unit_columns
from .objectives import ElboTerms, analytic_elbo, entropy_elbo, optimal_scales
from .posteriors import Diagonal, Full, LowRank, Posterior
from .priors import Gaussian, Laplace, Prior
from .statistics import Statistics

__all__ = [
    "AdamLearner",
    "AmortizedInference",
    "Batch",
    "BatchEM",
    "Callback",
    "Checkpoints",
    "Diagonal",
    "DiagonalEncoder",
    "DiagonalInference",
    "ElboTerms",
    "EntropyWeights",
    "EpochRecord",
    "Full",
    "FullInference",
    "Gaussian",
    "Inference",
    "Laplace",
    "Learner",
    "LearnerState",
    "LowRank",
    "LowRankEncoder",
    "LowRankInference",
    "OnlineEM",
    "Posterior",
    "Prior",
    "RefinedEM",
    "RefinedInference",
    "SparseCoding",
    "SparseCodingModel",
    "Statistics",
    "TrainingResult",
    "Turn",
    "analytic_elbo",
    "entropy_elbo",
    "evaluate",
    "exact_em",
    "load_run",
    "optimal_scales",
    "train",
    "unit_columns",
]
