"""The main job: seconds of learning, and the held-out ELBO above that of the PCA dictionary."""

from common import arguments, patches, pca_elbo
from entrosparse.learning import OnlineEM, train


def main() -> None:
    options = arguments(__doc__, n_patches=51_200, epochs=10)
    data, heldout = patches(options, options.n_patches, 4096)
    baseline = pca_elbo(data, heldout, 100)
    columns = f"{'seconds':>10}{'ELBO':>10}{'above PCA':>12}{'Gini':>8}{'dead':>6}"
    print(f"{'learner, H = 100':<24}{'epochs':>8}{columns}")
    print(f"{'PCA':<24}{'':>8}{'':>10}{baseline:>10.2f}{0:>12.2f}")
    for annealing in ("none", "prior", "likelihood", "tempering"):
        last = train(OnlineEM(100), data, heldout, epochs=options.epochs, annealing=annealing).history[-1]
        print(
            f"{'online EM, ' + annealing:<24}{options.epochs:>8}{last.seconds:>10.1f}{last.elbo:>10.2f}"
            f"{last.elbo - baseline:>12.2f}{last.gini_mean:>8.3f}{last.dead_latents:>6}",
            flush=True,
        )


if __name__ == "__main__":
    main()
