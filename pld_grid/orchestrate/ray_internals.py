"""The only module that uses private parts of Ray, each of which another version may lack.

Tested with the version below. Where a part is missing, a function uses the public API, or does without it and logs what
that means. Only what keeps other users out of a local cluster has no substitute and raises ResourceError.
"""

import logging
import os
from functools import cache
from typing import Any

from pld_grid.util.errors import ResourceError

TESTED_RAY_VERSION = "2.60"
# Ray logs every request that lacks a token to this logger.
AUTHENTICATION_LOGGER = "ray._private.authentication"
# Read by Ray. Despite its name, 0 makes Ray use the loopback address on every system.
LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

logger = logging.getLogger(__name__)


def reload_environment() -> None:
    """Have Ray read its environment variables again, which it did when it was imported.

    Raises:
        ResourceError: This version of Ray cannot; a local cluster would listen on all interfaces without a token.
    """
    try:
        from ray._private import ray_constants
        from ray._private.ray_constants import env_bool  # type: ignore[attr-defined]
        from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

        ray_constants.ENABLE_RAY_CLUSTER = env_bool(  # type: ignore[no-untyped-call]
            ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, not ray_constants.IS_WINDOWS_OR_OSX
        )
        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()
    except (ImportError, AttributeError) as error:
        raise ResourceError(
            f"{_describe_missing(error)}, so a local cluster would be open to other users; "
            f"install Ray {TESTED_RAY_VERSION}, or start a cluster (ray start --head) and pass its --address"
        ) from None


def keep_credentials_out_of_trials() -> None:
    """Keep AWS keys of the driver out of the trials' runtime environment, which Ray logs and its dashboard shows.

    Workers do not need them: nodes have keys of their own, and those of a local cluster inherit the driver's.
    """
    try:
        from ray.tune.execution.class_cache import ENV_VARS_TO_PROPAGATE

        ENV_VARS_TO_PROPAGATE.difference_update([name for name in ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")])
    except (ImportError, AttributeError) as error:
        if any(name.startswith("AWS_") for name in os.environ):
            _warn(f"{_describe_missing(error)}; Ray's logs and dashboard may show this process's AWS_* variables")


def reset_failure_count(trial: Any) -> None:
    """Forget the failures of a Tune trial, so that only consecutive ones count."""
    try:
        trial.run_metadata.num_failures = 0
    except AttributeError as error:
        _warn(f"{_describe_missing(error)}; a cohort's worker deaths count over the whole run")


def _describe_missing(error: Exception) -> str:
    import ray

    return f"Ray {ray.__version__} differs from the tested {TESTED_RAY_VERSION} ({error})"


@cache
def _warn(message: str) -> None:
    """Log a warning once per process."""
    logger.warning(message)
