"""How a model is learned from data."""

from entrosparse.learning.evaluation import Evaluation as Evaluation
from entrosparse.learning.evaluation import evaluate as evaluate
from entrosparse.learning.exact import ExactEMStep as ExactEMStep
from entrosparse.learning.exact import exact_em as exact_em
from entrosparse.learning.online_em import OnlineEM as OnlineEM
from entrosparse.learning.online_em import OnlineEMState as OnlineEMState
from entrosparse.learning.training import Callback as Callback
from entrosparse.learning.training import EpochRecord as EpochRecord
from entrosparse.learning.training import TrainingResult as TrainingResult
from entrosparse.learning.training import train as train
