"""Learning more fields than dimensions: the bound as it rises, and when it passes that of SPAMS."""

from dataclasses import replace

from courses import course, curve, judged
from entrosparse.inference import DiagonalInference
from entrosparse.learning import OnlineEM
from entrosparse.model import SparseCodingModel
from learning import passing_line, spams_points
from measuring import Bench, Line, Part, elbos

H = 400
MOMENTS = (0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1, 2, 3, 8)  # epochs
SHOWN = (1, 3, 8)


def measure(bench: Bench) -> Part:
    bench = replace(bench, heldout=bench.heldout[: 256 if bench.quick else 512])  # judging takes most time
    at, share = ((0, 0.3, 0.6, 1), 10) if bench.quick else (MOMENTS, 200)
    moments = course(OnlineEM(), bench, H, at)
    ours = judged(moments, bench)
    theirs = spams_points(bench, H, share)
    work = f"H = {H}, SPAMS, best in {share} minibatches"
    lines = [passing_line("time to bound", work, [theirs], [ours], bench.in_full("≥15"))]
    for point in ours:
        if point.epochs in SHOWN:
            note = f"{point.bound - ours[0].bound:+.1f} above the start; {point.seconds:.1f} s"
            lines.append(
                Line(
                    "overcomplete",
                    f"H = {H}, bound after epoch {point.epochs:g}",
                    point.bound,
                    "nats",
                    "",
                    note,
                )
            )
    lines.append(_sweeps(bench, moments[-1].model))
    return Part(lines, {f"learning, H = {H}": {"online EM": curve(ours), "SPAMS": theirs}})


def _sweeps(bench: Bench, model: SparseCodingModel) -> Line:
    """Count the sweeps after which the ELBO is within 1e-2 nats of its converged value."""
    x = bench.test
    best = elbos(x, model, DiagonalInference(1e-5, 20_000)).mean()
    steps = next(n for n in range(1, 2000) if best - elbos(x, model, DiagonalInference(0.0, n)).mean() < 1e-2)
    return Line("overcomplete", f"H = {H}, sweeps of an E-step to 1e-2 nats", steps, "sweeps")
