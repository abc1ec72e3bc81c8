"""Every posterior and learner on the same patches: seconds of learning and held-out ELBO.

Two bounds are given: that of the posteriors the learner uses, and that of converged diagonal posteriors under
the learned dictionary; the first is above where posteriors are correlated, and below by the amortization gap
where an encoder gives them. Correlated posteriors go on from the dictionary of the first row.
"""

import torch

from common import arguments, patches, pca_elbo
from entrosparse.inference import FullInference, LowRankEncoder, LowRankInference
from entrosparse.learning import AdamLearner, OnlineEM, RefinedEM, evaluate, train
from entrosparse.learning.paper import GradientEM

H = 100
MORE_EPOCHS = 3  # for correlated posteriors


def main() -> None:
    options = arguments(__doc__, n_patches=20_480, epochs=10)
    data, heldout = patches(options, options.n_patches, 1024)
    baseline = pca_elbo(data, heldout, H)
    columns = f"{'epochs':>8}{'seconds':>10}{'own ELBO':>12}{'diagonal':>12}{'above PCA':>12}"
    print(f"{'learner, H = 100':<36}{columns}")
    print(f"{'PCA':<54}{'':>12}{baseline:>12.2f}{0:>12.2f}")

    def run(name, learner, epochs=options.epochs, annealing="none"):
        result = train(learner, data, heldout, epochs=epochs, annealing=annealing)
        last = result.history[-1]
        diagonal = float(evaluate(result.model, torch.from_numpy(heldout)).terms.elbo)
        row = f"{name:<36}{epochs:>8}{last.seconds:>10.1f}{last.elbo:>12.2f}{diagonal:>12.2f}"
        print(f"{row}{last.elbo - baseline:>12.2f}", flush=True)
        return result.model.dictionary

    atoms = run("online EM, diagonal", OnlineEM(H))
    for name, solver in (("low rank 5", LowRankInference(5, 0.0, 2)), ("full", FullInference(0.0, 1))):
        learner = OnlineEM(H, init=atoms, inference=solver, step_size=0.3)
        run(f"... then online EM, {name}", learner, MORE_EPOCHS)
    run("encoder, diagonal", AdamLearner(H))
    run("encoder, low rank 5", AdamLearner(H, encoder=LowRankEncoder))
    run("online EM, refined encoder", RefinedEM(OnlineEM(H)))
    run("paper's EM", GradientEM(H))
    run("paper's EM, prior annealing", GradientEM(H), annealing="prior")


if __name__ == "__main__":
    main()
