"""How a model is learned from data."""

from entrosparse.learning.adam import AdamLearner as AdamLearner
from entrosparse.learning.adam import AdamState as AdamState
from entrosparse.learning.adam import RefinedEM as RefinedEM
from entrosparse.learning.batch import BatchEM as BatchEM
from entrosparse.learning.batch import BatchResult as BatchResult
from entrosparse.learning.checkpoints import Checkpoints as Checkpoints
from entrosparse.learning.evaluation import Evaluation as Evaluation
from entrosparse.learning.evaluation import evaluate as evaluate
from entrosparse.learning.exact import ExactEMStep as ExactEMStep
from entrosparse.learning.exact import exact_em as exact_em
from entrosparse.learning.lbfgs import LBFGS as LBFGS
from entrosparse.learning.online_em import OnlineEM as OnlineEM
from entrosparse.learning.paper import GradientEM as GradientEM
from entrosparse.learning.paper import GradientEMState as GradientEMState
from entrosparse.learning.paper import JointLBFGS as JointLBFGS
from entrosparse.learning.running import RunningState as RunningState
from entrosparse.learning.training import Callback as Callback
from entrosparse.learning.training import EpochRecord as EpochRecord
from entrosparse.learning.training import TrainingResult as TrainingResult
from entrosparse.learning.training import train as train
