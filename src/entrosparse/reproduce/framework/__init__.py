"""What an experiment is, how it is run, kept and shown."""

from entrosparse.reproduce.framework.experiment import Claim as Claim
from entrosparse.reproduce.framework.experiment import Config as Config
from entrosparse.reproduce.framework.experiment import Experiment as Experiment
from entrosparse.reproduce.framework.experiment import Picture as Picture
from entrosparse.reproduce.framework.experiment import Result as Result
from entrosparse.reproduce.framework.experiment import Table as Table
from entrosparse.reproduce.framework.experiment import at_scales as at_scales
