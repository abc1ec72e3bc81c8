"""How a model is learned from data."""

from entrosparse.learning._adam import AdamLearner as AdamLearner
from entrosparse.learning._adam import MakeEncoder as MakeEncoder
from entrosparse.learning._adam import RefinedEM as RefinedEM
from entrosparse.learning._batch_em import BatchEM as BatchEM
from entrosparse.learning._checkpoints import Checkpoints as Checkpoints
from entrosparse.learning._floors import Floors as Floors
from entrosparse.learning._history import Callback as Callback
from entrosparse.learning._history import EpochRecord as EpochRecord
from entrosparse.learning._initialization import DICTIONARIES as DICTIONARIES
from entrosparse.learning._initialization import initial_model as initial_model
from entrosparse.learning._initialization import with_fitting_scales as with_fitting_scales
from entrosparse.learning._learner import Batch as Batch
from entrosparse.learning._learner import Learner as Learner
from entrosparse.learning._learner import LearnerState as LearnerState
from entrosparse.learning._m_step import Curvature as Curvature
from entrosparse.learning._m_step import exact_sweep as exact_sweep
from entrosparse.learning._m_step import preconditioned_step as preconditioned_step
from entrosparse.learning._online_em import OnlineEM as OnlineEM
from entrosparse.learning._online_em import OnlineState as OnlineState
from entrosparse.learning._rows import Rows as Rows
from entrosparse.learning._training import TrainingResult as TrainingResult
from entrosparse.learning._training import train as train
from entrosparse.learning._turns import Turn as Turn
from entrosparse.learning._turns import evaluate as evaluate
from entrosparse.learning._turns import exact_em as exact_em
from entrosparse.learning._turns import take_turn as take_turn
