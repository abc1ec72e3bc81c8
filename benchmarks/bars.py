"""Bars (D.2): how often all ten are found, by full posteriors here and by the paper's joint L-BFGS."""

import statistics
import time

import torch

from common import arguments
from entrosparse.data import bars
from entrosparse.inference import FullInference
from entrosparse.learning import BatchEM, evaluate
from entrosparse.learning.initialization import initial_model
from entrosparse.learning.paper import JointLBFGS
from entrosparse.metrics import match_atoms
from entrosparse.priors import PRIORS

LEARNERS = {
    "batch EM, full": (BatchEM(10, inference=FullInference(tolerance=0.0, max_iterations=1)), 1),
    "paper's joint L-BFGS": (JointLBFGS(10, max_calls=100), 25),
}


def main() -> None:
    options = arguments(__doc__, seeds=50)
    print(f"N = 1000, H = 10, 5 x 5, noise deviation 0.1, {options.threads} thread(s)")
    print(f"{'learner':<24}{'runs':>6}{'all ten':>9}{'median s':>10}{'ELBO above the generating W':>30}")
    for name, (learner, share) in LEARNERS.items():
        found, seconds, excess = [], [], []
        for seed in range(max(1, options.seeds // share)):
            data = bars(1000, rng=seed)
            x, truth = torch.tensor(data.data), torch.tensor(data.dictionary)
            started = time.perf_counter()
            result = learner.fit(x, torch.Generator().manual_seed(seed))
            seconds.append(time.perf_counter() - started)
            generating = initial_model(x, 10, truth, PRIORS["laplace"], torch.Generator())
            reference = evaluate(generating, x, FullInference(tolerance=1e-4)).terms.elbo
            found.append(float(match_atoms(result.model.dictionary, truth).cosine.min()) > 0.95)
            excess.append(float(result.terms.elbo - reference))
        print(
            f"{name:<24}{len(found):>6}{sum(found):>9}{statistics.median(seconds):>10.2f}"
            f"{f'median {statistics.median(excess):.3f}, least {min(excess):.3f}':>30}",
            flush=True,
        )


if __name__ == "__main__":
    main()
