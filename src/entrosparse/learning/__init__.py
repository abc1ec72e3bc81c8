"""How a model is learned from data."""

from entrosparse.learning._adam import AdamLearner as AdamLearner
from entrosparse.learning._adam import AdamState as AdamState
from entrosparse.learning._adam import RefinedEM as RefinedEM
from entrosparse.learning._averages import RunningState as RunningState
from entrosparse.learning._batch_em import BatchEM as BatchEM
from entrosparse.learning._batch_em import BatchResult as BatchResult
from entrosparse.learning._checkpoints import Checkpoints as Checkpoints
from entrosparse.learning._evaluation import Evaluation as Evaluation
from entrosparse.learning._evaluation import evaluate as evaluate
from entrosparse.learning._exact import ExactEMStep as ExactEMStep
from entrosparse.learning._exact import exact_em as exact_em
from entrosparse.learning._online_em import OnlineEM as OnlineEM
from entrosparse.learning._training import Callback as Callback
from entrosparse.learning._training import EpochRecord as EpochRecord
from entrosparse.learning._training import TrainingResult as TrainingResult
from entrosparse.learning._training import train as train
