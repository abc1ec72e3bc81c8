"""Time until our ELBO passes the best one of each peer, and our ELBO in the end."""

from dataclasses import replace

from entrosparse.inference import DiagonalInference
from entrosparse.learning import OnlineEM, evaluate, train
from entrosparse.model import SparseCodingModel
from entrosparse.reproduce.shared.gradient_em import GradientEM
from measuring import Bench, Line, Part, bound, elbos, principal_directions, with_dictionary
from peers import PENALTIES, Learned, fast_ica, scikit_learn, spams

H = 100
RUNS = (0.2, 0.6, 1, 2, 3, 6, 10)  # epochs of our runs: a short one passes a low bound sooner


def measure(bench: Bench) -> Part:
    floor = bound(principal_directions(bench.train, H), bench)
    ours = _our_runs(bench, H, RUNS)
    curves = {f"online EM, {epochs:g} epochs": curve for epochs, curve in ours.items()}
    epochs = 2 if bench.quick else 10
    start = {"n_components": H, "init": "data"}
    train(
        GradientEM(), bench.train[:512], bench.heldout[:64], epochs=1, **start
    )  # torch imports much at first
    for annealing in ("prior",) if bench.quick else ("none", "prior"):
        options = start | {"epochs": epochs, "annealing": annealing}
        history = train(GradientEM(), bench.train, bench.heldout, **options).history
        curves[f"paper's EM, {annealing}"] = [(record.seconds, record.elbo) for record in history]
    penalties = PENALTIES[1:2] if bench.quick else PENALTIES
    share = 50 if bench.quick else 1000
    curves["SPAMS"] = _points(bench, [spams(bench.train, H, penalty, share) for penalty in penalties])
    curves["scikit-learn"] = _points(bench, [scikit_learn(bench.train, H, penalty) for penalty in penalties])
    curves["FastICA"] = _points(bench, [fast_ica(bench.train, H)])

    groups = {
        f"the paper's EM, best in {epochs} epochs": (("paper's EM, none", "paper's EM, prior"), "≥100"),
        f"SPAMS, best in {share} minibatches": (("SPAMS",), "≥15"),
        "scikit-learn, best of one pass": (("scikit-learn",), "≥40"),
        "FastICA": (("FastICA",), ""),
    }
    lines = [
        _line("time to bound", work, [curves[name] for name in names if name in curves], ours, floor, target)
        for work, (names, target) in groups.items()
    ]
    last = ours[max(ours)][-1]
    lines.append(
        Line(
            "final bound",
            f"{max(ours)} epochs, above PCA",
            last[1] - floor,
            "nats",
            "≥7.3",
            f"{last[0]:.1f} s",
        )
    )
    return Part(lines, {"PCA": floor, "learning": curves})


def measure_overcomplete(bench: Bench) -> Part:
    n, bench = 400, replace(bench, heldout=bench.heldout[:1024])
    floor = bound(principal_directions(bench.train, min(n, bench.train.shape[1])), bench)
    ours = _our_runs(bench, n, (0.6,) if bench.quick else (0.2, 0.6, 1, 2))
    penalties = PENALTIES[1:2] if bench.quick else PENALTIES
    share = 10 if bench.quick else 200
    theirs = _points(bench, [spams(bench.train, n, penalty, share) for penalty in penalties])
    lines = [
        _line("overcomplete", f"H = 400, SPAMS, best in {share} minibatches", [theirs], ours, floor, "≥5")
    ]
    result = train(OnlineEM(), bench.train[:5120], bench.heldout[:64], n_components=n, epochs=2)
    lines.append(_iterations(bench, result.model))
    curves = {f"online EM, {epochs:g} epochs": curve for epochs, curve in ours.items()} | {"SPAMS": theirs}
    return Part(lines, {"learning, H = 400": curves, "PCA, H = 400": floor})


def _iterations(bench: Bench, model: SparseCodingModel) -> Line:
    """Count the sweeps after which the ELBO is within 1e-2 nats of its converged value."""
    x = bench.test[:1024]
    best = elbos(x, model, DiagonalInference(1e-5, 20_000)).mean()
    steps = next(n for n in range(1, 2000) if best - elbos(x, model, DiagonalInference(0.0, n)).mean() < 1e-2)
    return Line("overcomplete", "H = 400, sweeps of an E-step to 1e-2 nats", steps, "sweeps")


def _our_runs(
    bench: Bench, n_components: int, runs: tuple[float, ...]
) -> dict[float, list[tuple[float, float]]]:
    """Curves (seconds, ELBO) of runs of several lengths; below one epoch, of that share of the patches."""
    train(
        OnlineEM(), bench.train[:512], bench.heldout[:64], n_components=8, epochs=1
    )  # imports much at first
    curves = {}
    for epochs in runs:
        data = bench.train[: round(min(epochs, 1) * len(bench.train))]
        options = {"n_components": n_components, "epochs": max(1, round(epochs))}
        history = train(OnlineEM(), data, bench.heldout, **options).history
        curves[epochs] = [(record.seconds, record.elbo) for record in history]
    return curves


def _points(bench: Bench, learned: list[Learned]) -> list[tuple[float, float]]:
    return [
        (each.seconds, float(evaluate(with_dictionary(each.dictionary, bench.train), bench.test).terms.elbo))
        for each in learned
    ]


def _line(
    name: str,
    work: str,
    theirs: list[list[tuple[float, float]]],
    ours: dict[float, list[tuple[float, float]]],
    floor: float,
    target: str,
) -> Line:
    """Compare the seconds to the best bound that a peer reached with ours to pass it."""
    their_seconds, best = max((point for curve in theirs for point in curve), key=lambda point: point[1])
    passed = [second for curve in ours.values() for second, elbo in curve if elbo > best]
    note = f"{best - floor:+.2f} nats above PCA in {their_seconds:.1f} s"
    if not passed:
        return Line(name, work, 0.0, "x", target, f"{note}; not passed")
    return Line(
        name, work, their_seconds / min(passed), "x", target, f"{note}; passed in {min(passed):.2f} s"
    )
