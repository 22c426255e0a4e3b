"""Jobs on a cluster, through Ray's Job API: a driver of ours that runs there."""

import asyncio
import logging
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pld_grid.errors import InputError, ResourceError, nearest
from pld_grid.reading import one_line
from pld_grid.schedule.address import check_reachable
from pld_grid.uris import public_uri, without_secrets

PORT = 8265
_POLL_SECONDS = 0.5
_ENDED = ("STOPPED", "SUCCEEDED", "FAILED")


@dataclass(frozen=True)
class Job:
    """What the cluster knows of a job. Times are seconds since the epoch, 0 if it has not come so far."""

    job_id: str
    state: str
    message: str
    started: float
    ended: float
    metadata: Mapping[str, str]

    @property
    def running(self) -> bool:
        """Whether it is still to end."""
        return self.state not in _ENDED

    @property
    def owner(self) -> str:
        """Who submitted it, as far as it says so."""
        return self.metadata.get("owner", "")


class Jobs:
    """The jobs of the cluster whose dashboard is at `address` (http://HEAD:8265); the attribute is fit to be shown.

    Raises ResourceError, of one line: nobody answers there, or it wants a token that was not given or is wrong.
    """

    def __init__(self, address: str) -> None:
        self._given = address if "://" in address else f"http://{address}"
        self.address = public_uri(self._given)
        # The client's own attempt would wait for minutes where a firewall drops packets.
        check_reachable(self._given, PORT)
        with self._reporting():
            from ray.job_submission import JobSubmissionClient

            # It tells what it uploads, and repeats a missing token as a warning.
            logging.getLogger("ray.dashboard").setLevel(logging.ERROR)
            logging.getLogger("ray._private.authentication").setLevel(logging.CRITICAL)
            self._client = JobSubmissionClient(self._given)

    def list(self, prefix: str = "") -> list[Job]:
        """Jobs whose id begins with `prefix`, the oldest first."""
        with self._reporting():
            found = [_job(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted((job for job in found if job.job_id.startswith(prefix)), key=lambda job: job.started)

    def get(self, job_id: str) -> Job:
        """One job. Raises InputError for an unknown one."""
        found = self.list()
        for job in found:
            if job.job_id == job_id:
                return job
        raise InputError(f'unknown job "{job_id}" at {self.address}{nearest(job_id, [job.job_id for job in found])}')

    def submit(
        self, job_id: str, command: Sequence[str], folder: Path, environment: Mapping[str, str],
        metadata: Mapping[str, str],
    ) -> bool:  # fmt: skip
        """Ships a folder and starts a command in it; False if a job of that id is there already."""
        with self._reporting():
            try:
                self._client.submit_job(
                    submission_id=job_id,
                    # In the place of the shell that Ray starts, whose death would leave the driver behind.
                    entrypoint=f"exec {shlex.join(command)}",
                    runtime_env={"working_dir": str(folder), "env_vars": dict(environment)},
                    metadata=dict(metadata),
                )
            except RuntimeError as error:
                if f"{job_id} already exists" in str(error):
                    return False
                raise
        return True

    def stop(self, job_id: str, tell: Callable[[Job], None] = lambda _: None) -> Job:
        """Asks a job to stop and waits until it has; what the job's environment says about the wait holds."""
        job = self.get(job_id)
        if job.running:
            with self._reporting():
                self._client.stop_job(job_id)
        while job.running:
            tell(job)
            time.sleep(_POLL_SECONDS)
            job = self.get(job_id)
        return job

    def logs(self, job_id: str) -> str:
        """All that the driver printed so far."""
        self.get(job_id)
        with self._reporting():
            return str(self._client.get_job_logs(job_id))

    def follow(self, job_id: str, tell: Callable[[str], None]) -> Job:
        """Passes on what the driver prints until the job ends."""

        async def listen() -> None:
            async for lines in self._client.tail_job_logs(job_id):
                tell(lines)

        self.get(job_id)
        with self._reporting():
            asyncio.run(listen())
        return self.get(job_id)

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        import aiohttp
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            given = "the token is wrong" if "nvalid" in str(error) else "it wants a token"
            raise ResourceError(
                f"Ray at {self.address}: {given} (RAY_AUTH_MODE=token with RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH)"
            ) from None
        except (RuntimeError, OSError, requests.RequestException, aiohttp.ClientError) as error:
            said = without_secrets(str(error), self._given)
            raise ResourceError(one_line(f"Ray at {self.address}: {said}", 300)) from None


def _job(details: Any) -> Job:
    return Job(
        job_id=details.submission_id,
        state=str(getattr(details.status, "value", details.status)),
        message=details.message or "",
        started=(details.start_time or 0) / 1000,
        ended=(details.end_time or 0) / 1000,
        metadata=details.metadata or {},
    )


def size_limit() -> int:
    """The most bytes that Ray ships as a working directory."""
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

    return int(GCS_STORAGE_MAX_SIZE)
