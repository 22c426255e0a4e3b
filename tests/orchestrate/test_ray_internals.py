"""What happens where a version of Ray lacks a private part that this package uses."""

import logging
from types import SimpleNamespace

import pytest
from ray import _raylet
from ray.tune.execution import class_cache

from pld_grid.orchestrate import cluster, ray_internals
from pld_grid.util.errors import ResourceError


@pytest.fixture(autouse=True)
def fresh_warnings() -> None:
    ray_internals._warn.cache_clear()


def test_connect_without_private_cluster_settings_refuses_a_local_cluster(monkeypatch):
    monkeypatch.delattr(_raylet, "AuthenticationTokenLoader")
    message = rf"AuthenticationTokenLoader.* open to other users; install Ray {ray_internals.TESTED_RAY_VERSION}, or .*"
    with pytest.raises(ResourceError, match=message), cluster.connect(None):
        pass


@pytest.mark.parametrize(("variables", "warnings"), [({}, 0), ({"AWS_SECRET_ACCESS_KEY": "secret"}, 1)])
def test_keep_credentials_out_of_trials_without_tunes_list_warns_if_there_are_any(
    monkeypatch, caplog, variables, warnings
):
    monkeypatch.setattr("os.environ", variables)
    monkeypatch.delattr(class_cache, "ENV_VARS_TO_PROPAGATE")
    ray_internals.keep_credentials_out_of_trials()
    assert sum("AWS_*" in message for message in caplog.messages) == warnings
    assert "secret" not in caplog.text


def test_reset_failure_count_without_the_counter_warns_once(caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            ray_internals.reset_failure_count(SimpleNamespace())
    (message,) = caplog.messages
    assert "run_metadata" in message
    assert ray_internals.TESTED_RAY_VERSION in message
    trial = SimpleNamespace(run_metadata=SimpleNamespace(num_failures=2))
    ray_internals.reset_failure_count(trial)
    assert trial.run_metadata.num_failures == 0
