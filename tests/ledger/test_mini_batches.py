"""Claims on mini-batches: their verdicts, and that a wrong noise would turn them."""

import numpy as np
import pytest

from ntk_momentum.ledger import verify
from ntk_momentum.ledger.claims import mini_batches


@pytest.mark.slow
def test_verdicts_on_mini_batches(optimized):
    descent, momentum, powers = verify(
        ["remark-sgd", "remark-sgd-momentum", "remark-sgd-power-law"]
    )
    assert not descent.printed.ok and descent.corrected.ok and descent.sharp.ok
    assert not momentum.printed.ok and momentum.corrected.ok and momentum.sharp.ok
    assert powers.printed.ok and powers.sharp.ok


@pytest.mark.slow
def test_a_noise_half_as_strong_again_moves_the_batch_at_which_nesterov_is_stable(monkeypatch):
    from ntk_momentum.stochastic import limit

    sound = limit.noise_strength
    monkeypatch.setattr(limit, "noise_strength", lambda *drawn: 1.5 * sound(*drawn))
    (claim,) = verify("remark-sgd-nesterov")
    assert not claim.printed.ok and not claim.sharp.ok


def test_paths_without_batches_are_the_full_batch_s():
    H, start = np.diag([1.0, 2.0]), np.ones(2)
    path = mini_batches.kernel_path(H, start, 0.1, 0.0, np.ones((3, 2)))
    np.testing.assert_allclose(path[-1], [0.9**3, 0.8**3])
