"""A sweep in plain values: what its words mean, what they reach, and what is wrong with them."""

import dataclasses
import inspect

import jax
import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum.ensembles.ensemble import flow_label
from ntk_momentum.errors import InputError
from ntk_momentum.method import AbstractFlow, high_resolution_nesterov, triple_momentum
from ntk_momentum.network.loading import load_maker
from ntk_momentum.results import sweep as sweeps
from ntk_momentum.results.grid import Source, Sweep
from ntk_momentum.results.named import build_loss, flows_by_name, named_methods, numbers


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("3", (3,)),
        ("1e-3", (0.001,)),
        ("2..5", (2, 3, 4, 5)),
        ("0.1..0.3+0.1", (0.1, 0.2, 0.3)),
        ("256..4096x2", (256, 512, 1024, 2048, 4096)),
        ("1e-3..1x10", (0.001, 0.01, 0.1, 1)),
        ("2..7x2", (2, 4)),
    ],
)
def test_a_range_holds_both_its_ends(text, meant):
    assert numbers(text, "it") == meant


@pytest.mark.parametrize("text", ["", "x", "nan", "5..2", "1..9+0", "0..8x2", "1..8x1", "1..1e9"])
def test_a_range_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="it"):
        numbers(text, "it")


FLOWS = {
    "gradient_flow": [nm.GradientFlow()],
    "heavy_ball": [nm.HeavyBall(1.0)],  # sqrt(2 lambda_0) at lambda_0 = 1/2
    "heavy_ball:0.25": [nm.HeavyBall(0.25)],
    "heavy_ball:b=0.1,0.2": [nm.HeavyBall(0.1), nm.HeavyBall(0.2)],
    "nesterov": [nm.Nesterov(3.0)],
    "nesterov:d=2..4": [nm.Nesterov(2.0), nm.Nesterov(3.0), nm.Nesterov(4.0)],
    "nesterov:1,4..5": [nm.Nesterov(1.0), nm.Nesterov(4.0), nm.Nesterov(5.0)],
    "hessian_damped:b=1,gamma=0.1,0.2": [
        nm.HessianDamped(1.0, 0.1),
        nm.HessianDamped(1.0, 0.2),
    ],
    "hessian_damped_nesterov:gamma=0.1": [nm.HessianDampedNesterov(3.0, 0.1)],
    "nesterov_strongly_convex:mu=0.3": [nm.NesterovStronglyConvex(0.3)],
    "multi_step_momentum:b=0.5,beta2=-0.2": [nm.MultiStepMomentum(0.5, -0.2)],
    "restarted_nesterov:scheme=gradient,2.5": [
        nm.RestartedNesterov(3.0, "gradient"),
        nm.RestartedNesterov(3.0, 2.5),
    ],
    "high_resolution_nesterov:eta=0.1,mu=0.3": [high_resolution_nesterov(0.1, 0.3)],
    "triple_momentum:mu=0.3,smoothness=2": [triple_momentum(0.3, 2.0).flow()[0]],
}


@pytest.mark.parametrize("text", FLOWS)
def test_a_flow_is_written_with_any_of_its_parameters(text):
    made = named_methods(text)
    assert [str(flow.build(0.5)) for flow in made] == [str(flow) for flow in FLOWS[text]]
    assert [named_methods(flow.label) for flow in made] == [(flow,) for flow in made]


def test_every_flow_has_a_label():
    said = [flow_label(flow) for flows in FLOWS.values() for flow in flows]
    assert "restarted_nesterov d=3 scheme=gradient" in said and "heavy_ball b=0.25" in said


def test_every_flow_of_the_package_that_numbers_can_state_has_a_name():
    def below(cls):
        return {cls}.union(*(below(child) for child in cls.__subclasses__()))

    public = {
        cls
        for cls in below(AbstractFlow)
        if getattr(nm, cls.__name__, None) is cls and not inspect.isabstract(cls)
    }
    assert public - set(flows_by_name().values()) == {nm.Friction}  # a function of time


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gradiant_flow", "Did you mean 'gradient_flow'"),
        ("gradient_flow:1", "gradient_flow has no parameter"),
        ("heavy_ball:", "b of heavy_ball must be a number or a range"),
        ("heavy_ball:x", "b of heavy_ball must be a number or a range"),
        ("heavy_ball:nan", "b of heavy_ball must be a number or a range"),
        ("heavy_ball:-1", "b must be finite and >= 0, got -1.0; try 1.0. .'heavy_ball:-1'"),
        ("heavy_ball:c=1", "has no parameter 'c'. It has: b"),
        ("heavy_ball:b=1,b=2", "given twice"),
        ("nesterov:0", "d must be finite and > 0"),
        ("hessian_damped:b=1,gama=1", "Did you mean 'gamma'"),
        ("hessian_damped:b=1", "needs gamma, e.g. hessian_damped:b=0.1,gamma=0.1"),
        ("triple_momentum:mu=1", "needs smoothness, e.g. triple_momentum:mu=0.1,smoothness=0.1"),
        ("restarted_nesterov:scheme=sped", "Did you mean 'speed'"),
    ],
)
def test_what_is_no_flow_is_said_in_one_line(text, said):
    with pytest.raises(InputError, match=said) as error:
        named_methods(text)
    assert "\n" not in str(error.value)


def test_a_sweep_is_in_one_spelling_once_it_is_made():
    loose = Sweep(flows=("heavy_ball:b=0.10,0.2", "nesterov:d=2..3"), widths=("8..32x2", 5))
    assert loose.flows == ("heavy_ball:0.1", "heavy_ball:0.2", "nesterov:2", "nesterov:3")
    assert loose.widths == (8, 16, 32, 5)
    assert dataclasses.replace(loose) == loose


@pytest.mark.parametrize(
    "flows", [("heavy_ball:0.5", "heavy_ball:b=0.50"), ("nesterov", "nesterov:3")]
)
def test_a_flow_named_twice_is_refused_however_it_is_spelt(flows):
    with pytest.raises(InputError, match="same value twice"):
        Sweep(flows=flows)


def plan(data=("sphere",), **options):
    """The plan of a small sweep."""
    small = {"n": 4, "p": 3, "widths": (16,), "seeds": 2, "times": 3, "t_end": 1.0}
    sweep = Sweep(**{**small, "data": data, "flows": ("nesterov",), **options})
    source = sweep.sources()[0].load()
    return sweeps._make_plan(sweep, source, sweep.make_model(), 0.5, None)


def test_every_option_reaches_the_plan(tmp_path):
    np.save(tmp_path / "k.npy", np.eye(4))
    made = plan(
        loss="huber:0.5",
        trainable="all",
        activation="tanh",
        solver="dopri5",
        reference=str(tmp_path / "k.npy"),
        readouts=("loss", "kernel_distance"),
        first_seed=7,
        tol=1e-4,
        precision="high",
        unit_runs=1,
    )
    recipe = made.recipe
    assert recipe.loss is nm.huber(0.5) and recipe.trainable == "all" and not recipe.antisymmetric
    assert recipe.activation is jax.nn.tanh and type(recipe.solver).__name__ == "Dopri5"
    assert recipe.readouts == ("loss", "kernel_distance") and made.seeds == (7, 8)
    assert recipe.config.tol == 1e-4 and recipe.config.precision == "high" and len(made.units) == 2
    np.testing.assert_array_equal(recipe.reference, np.eye(4))
    assert "kernel_distance" not in plan(reference="none").recipe.readouts
    assert plan(antisymmetric=True).recipe.antisymmetric


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loss": "logistic"}, "targets"),
        ({"solver": "lazy", "activation": "tanh"}, "cannot be used here"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, said, tmp_path):
    np.savez(tmp_path / "half.npz", X=np.eye(3), y=np.full(3, 0.5))
    with pytest.raises(InputError, match=said):
        plan((str(tmp_path / "half.npz"),), **options)


def test_a_kernel_of_another_size_or_kind_is_refused(tmp_path):
    for name, array, said in (
        ("small.npy", np.eye(3), "is for 3 samples, but sphere4x3 has 4"),
        ("flat.npy", np.ones(4), "an .n, n. array"),
    ):
        np.save(tmp_path / name, array)
        with pytest.raises(InputError, match=said):
            plan(reference=str(tmp_path / name))
    with pytest.raises(InputError, match="cannot read"):
        plan(reference=str(tmp_path / "missing.npz"))


def test_lambda_0_is_asked_for_only_where_something_is_left_to_it():
    assert Sweep().needs_lambda0() and Sweep(t_end=1.0, flows=("heavy_ball",)).needs_lambda0()
    assert not Sweep(t_end=1.0, flows=("heavy_ball:1", "nesterov")).needs_lambda0()


def test_what_decides_numbers_is_in_the_settings_and_nothing_else():
    plain = Sweep()
    for other in (
        {"loss": "huber:0.5"},
        {"loss": "huber"},
        {"trainable": "all"},
        {"activation": "tanh"},
        {"solver": "tsit5"},
        {"reference": "none"},
        {"antisymmetric": True},
        {"tol": 1e-3},
        {"precision": "high"},
    ):
        assert dataclasses.replace(plain, **other).settings() != plain.settings()
    for other in ({"seeds": 9}, {"widths": (8,)}, {"unit_runs": 2}, {"flows": ("nesterov",)}):
        assert dataclasses.replace(plain, **other).settings() == plain.settings()


@pytest.mark.slow
def test_a_sweep_of_options_holds_what_simulate_gives(tmp_path):
    """Loss, trained part, activation and solver reach the runs themselves."""
    sweep = Sweep(
        data=("sphere",),
        n=4,
        p=3,
        flows=("multi_step_momentum:b=0.5,beta2=0.1",),
        widths=(8,),
        seeds=1,
        first_seed=3,
        times=3,
        t_end=1.0,
        loss="huber:0.3",
        trainable="all",
        activation="softplus",
        solver="dopri5",
        readouts=("loss",),
    )
    assert sweeps.carry_out(sweep, tmp_path).ok
    import diffrax

    net = nm.init_two_layer(8, 3, key=jax.random.key(3), activation=jax.nn.softplus)
    alone = nm.simulate(
        net,
        Source("sphere", 4, 3).load(),
        nm.MultiStepMomentum(0.5, 0.1),
        np.linspace(0, 1, 3),
        loss=build_loss("huber:0.3"),
        trainable="all",
        solver=diffrax.Dopri5(),
        readouts=("loss",),
    )
    stored = nm.open_results(tmp_path)
    np.testing.assert_allclose(np.ravel(stored.loss), alone.loss, rtol=1e-6)
    assert stored.attrs["loss"] == "huber:0.3" and stored.attrs["activation"] == "softplus"


@pytest.mark.parametrize(
    "signature", ["width, key", "width, *, key", "m, k", "key", "k", "key, width=4", "**options"]
)
def test_a_users_function_is_called_by_its_signature(tmp_path, signature):
    file = tmp_path / "mine.py"
    file.write_text(f"def build({signature}): return dict(locals())\n")
    got = load_maker(f"{file}:build")(9, key="the key")
    got = got.get("options", got)
    assert "the key" in got.values() and set(got.values()) <= {9, "the key"}
    assert (9 in got.values()) == ("width" in signature or "m" in signature)


def test_a_users_model_is_known_by_the_code_of_its_function_and_not_by_its_comments(tmp_path):
    file = tmp_path / "mine.py"
    made = "SIZE = {size}\n{comment}def build(width, key):\n    return {value}\n{other}"

    def model(size=3, comment="", value="SIZE * width", other=""):
        file.write_text(made.format(size=size, comment=comment, value=value, other=other))
        return Sweep(model=f"{file}:build", t_end=1.0).settings()["model"]

    first = model()
    assert model(comment="# a comment\n", other="def elsewhere(): return 4\n") == first
    assert len({first, model(size=4), model(value="SIZE + width")}) == 3


def test_a_users_optimizer_is_known_by_its_parameters_and_its_code(tmp_path):
    file = tmp_path / "mine.py"

    def swept(word="make:eta=0.1,0.2", sign="-", **options):
        code = f"lambda g, s, w: ({sign}eta * g, s)"
        file.write_text(
            "import optax\ndef make(eta, decay=0.0):\n"
            f"    return optax.GradientTransformation(lambda w: (), {code})\ndef no(): return 3\n"
        )
        return Sweep(optimizers=(f"{file}:{word}",), **options)

    mine = swept(batch_sizes=(2, "full"))
    steps = [one.build(1.0).update(3.0, (), None)[0] for one in mine.named_methods()]
    np.testing.assert_allclose(steps, [-0.3, -0.6])
    sizes = [f"{file}:make:{eta},batch_size={size}" for eta in (0.1, 0.2) for size in (2, "full")]
    assert list(mine.labels()) == sizes
    code = mine.settings()["optimizers"]
    assert code.startswith("mine.py:make ") and code != swept(sign="2 *").settings()["optimizers"]
    for word, said in (
        ("make", "needs eta"),
        ("make:et=1", "Did you mean 'eta'"),
        ("no", "must be an optimizer, got 3"),
        ("other", "defines no 'other'"),
    ):
        with pytest.raises(InputError, match=said):
            swept(word)
