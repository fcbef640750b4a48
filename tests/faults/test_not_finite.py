"""Nothing that is not finite is certified: no agreement, no export, no score, no report, no page."""

import jax
import laws
import numpy as np
import pytest
import tiny
from toy_run import write_run

from pretrain.checkpoint import Checkpointer
from pretrain.evals import harness
from pretrain.finite import check_finite, furthest
from pretrain.interop.torch import export
from pretrain.restore import restore
from pretrain.step import TrainState
from tools.export import check_agreement
from tools.playground.session import Session
from tools.report import Painter


@pytest.fixture(scope="module")
def workdir(token_store, tmp_path_factory):
    """A checkpoint one of whose numbers is NaN."""
    folder, c = tmp_path_factory.mktemp("run"), tiny.emoji_run(token_store)
    write_run(c, folder)
    params = jax.tree.map(np.array, jax.device_get(laws.Built(c).params))
    params["model"]["encoder"]["norm"]["scale"][2] = np.nan
    with Checkpointer(folder) as checkpointer:
        state = TrainState(np.asarray(8, np.int32), params, (), {})
        checkpointer.save(state, type("Nothing", (), {"get_state": dict})())
    return folder


def test_a_distance_is_finite_or_none():
    assert furthest([1.0, 2.0], [1.0, 2.5]) == 0.5
    for a, b in (([np.nan], [np.nan]), ([np.inf], [np.inf]), ([1.0], [np.nan]), ([], [])):
        assert furthest(a, b) == np.inf
    check_agreement({"logits": 1e-5}, 1e-4)
    for worst in ({"logits": np.nan}, {"a": 1e-6, "b": np.inf}, {"a": 2e-4}, {}):
        with pytest.raises(ValueError, match="PyTorch differs from JAX by more than 1e-04"):
            check_agreement(worst, 1e-4)


def test_parameters_of_every_type():
    good = {"a": np.ones(3, np.float32), "n": np.int32(3), "h": jax.numpy.ones(2, jax.numpy.bfloat16)}
    check_finite(good, "here")
    for bad in (np.float32(np.inf), np.float64(-np.inf), jax.numpy.array([1.0, np.nan], jax.numpy.bfloat16)):
        with pytest.raises(ValueError, match="here: b hold numbers that are not finite"):
            check_finite(good | {"b": bad}, "here")


def test_no_export_score_report_or_page(workdir, tmp_path):
    message = "encoder/norm/scale.* not finite: such a model says nothing"
    held = restore(workdir)
    for use in (
        lambda: export(held, tmp_path / "out"),
        lambda: harness.score({}, held.params),
        lambda: Painter(workdir, 4),
        lambda: Session(workdir),
    ):
        with pytest.raises(ValueError, match=message):
            use()
    assert not (tmp_path / "out").exists()
