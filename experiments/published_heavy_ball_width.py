"""Published: the heavy ball against the width, a U whose right arm is the step's limit of stability

The authors' second figure: the loss after a fixed number of steps falls with the width and rises
again. Their network has scale 1, so its kernel grows like m and the effective step eta lambda_max
with it: wider is faster until eta lambda_max of the initial kernel meets the limit 2 (1 + beta),
beyond which the first steps throw the network away from its initialisation before its kernel
shrinks. So the best width grows with beta here; on the authors' 600 MNIST images it shrank (5500,
4500, 3500), from one run a width, which the limit does not explain. There it is not that sharp:
losses at widths 3000 to 4500 lie within 8 % of one another, and the best of 2500 to 6000 is 4500
for beta = 0 and 0.6, and for 0.9 4500 with one seed and 3500 with two. The U itself is made in the
first thirty steps: the kernel and the velocity that they leave foretell the loss at the end
(dash-dotted), on those images at epoch 200 to 4 % for beta = 0 and 0.6 and to 15 % for 0.9, and its
lowest place to within what is flat. Two controls tell what momentum does in these steps: the same
beta, but only from step 30 on, when gradient descent has landed, and only up to step 30. On those
images (widths 2000 to 6000, one seed) the first has the lower loss at every width and is flat on
the right, up by 4 % from its best width to 6000 where momentum throughout is up by 31 %; the second
is up by 12 %. So the width does not hurt momentum, its own first steps do, below the limit too:
they carry on the overshoot of step one, 1 - eta lambda_max whatever beta is, until the weights have
gone five times as far as without, and 57 % of 3000 neurons are off on every image after 30 steps,
with beta = 0 40 %, at the start 39 %. Without momentum the best width lies beyond the limit: a
network that is thrown lands where its kernel is below it, and trains on, fastest where the kernel
that is left is largest. In the paper's scaling, m^(-1/2), the kernel does not grow: there is no
right arm, and wider runs come closer to what their kernel predicts. Changed by default: 50 digits,
widths 500 to 3000, epoch 100, a step that puts the limit among these widths; two seeds for the
authors' one run.
"""

from dataclasses import dataclass, replace

from ntk_momentum.experiments import _published as published
from ntk_momentum.experiments import _published_figures as figures

import ntk_momentum as nm
from ntk_momentum.study import plotting

ORDER = 101
CAPTION = """Left: mean squared error after a fixed number of steps, median and range over seeds,
and dash-dotted what the kernel and the velocity after the first steps foretell. Middle: the largest
eigenvalue of the kernel in units of the step, at the start (dots) and at the end (crosses), and
each momentum's limit of stability, dashed; the widths where the start meets it are dotted on the
left. Right: the paper's parametrisation (beta of the middle curve), the loss over the prediction of
the network's own kernel."""


@dataclass(frozen=True)
class Config(published.Widths):
    betas: tuple[float, ...] = (0.0, 0.6, 0.9)
    # the largest beta also from this step on, without momentum before, and up to it; 0: not
    late: int = 30


SIZES = {size: Config(**options) for size, options in published.WIDTHS.items()}
SIZES["full"] = replace(SIZES["full"], widths=tuple(range(2000, 8001, 500)))


def run(config, progress):
    methods = {f"beta = {beta:g}": nm.heavy_ball(config.eta, beta) for beta in config.betas}
    if 0 < config.late < config.epoch:
        most = max(config.betas)
        none, full = (nm.heavy_ball(config.eta, beta) for beta in (0.0, most))
        methods[f"beta = {most:g} from step {config.late}"] = published.Late(
            none, config.late, full
        )
        methods[f"beta = {most:g} to step {config.late}"] = published.Late(full, config.late, none)
    plain = nm.heavy_ball(1.0, config.betas[len(config.betas) // 2])
    return published.against_width(
        published.images(config.n, config.data), methods, plain, config, progress
    )


def limits(ds):
    """2 (1 + beta), of the momentum in the first steps."""
    return [
        2.0 if "from" in name else 2 * (1 + float(name.split()[2])) for name in ds.algorithm.values
    ]


def headline(ds):
    return published.best_widths(ds, limits(ds))


@plotting.house_style
def plot(ds):
    own = plotting.COLORS["heavy_ball"]
    plain = sum("step" not in name for name in ds.algorithm.values)
    colors = [*plotting.shades(own, plain), plotting.THEORY, plotting.MUTED]
    return figures.widths(ds, limits(ds), colors[: ds.sizes["algorithm"]], own)
