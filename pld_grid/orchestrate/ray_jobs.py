"""Jobs on a cluster, through Ray's Job API: drivers of this package that run there."""

import asyncio
import logging
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pld_grid.orchestrate.cluster import check_reachable
from pld_grid.orchestrate.ray_internals import AUTHENTICATION_LOGGER
from pld_grid.util.errors import InputError, ResourceError
from pld_grid.util.redact import public_uri, without_secrets
from pld_grid.util.text import nearest, one_line

DASHBOARD_PORT = 8265
# The largest working directory that Ray ships to a cluster: its limit of a gRPC message.
MAX_PACKAGE_BYTES = 512 * 2**20
_POLL_INTERVAL_SECONDS = 0.5
_ENDED = ("STOPPED", "SUCCEEDED", "FAILED")


@dataclass(frozen=True)
class Job:
    """The cluster's record of a job. Times are Unix times in seconds, 0 for what has not happened."""

    job_id: str
    state: str
    message: str
    started: float
    ended: float
    metadata: Mapping[str, str]

    @property
    def running(self) -> bool:
        """Whether the job has not ended."""
        return self.state not in _ENDED

    @property
    def owner(self) -> str:
        """The user who submitted the job, if recorded."""
        return self.metadata.get("owner", "")


class JobClient:
    """The jobs of the cluster whose dashboard is at `address` (http://HEAD:8265).

    The attribute `address` contains no password. All methods raise ResourceError if the dashboard does not answer, or
    if it requires a token that is missing or wrong.
    """

    def __init__(self, address: str) -> None:
        self._url = address if "://" in address else f"http://{address}"
        self.address = public_uri(self._url)
        # The client would wait for minutes where a firewall drops packets.
        check_reachable(self._url, DASHBOARD_PORT)
        with self._translate_errors():
            from ray.job_submission import JobSubmissionClient

            # The client logs what it uploads, and a missing token as a warning.
            logging.getLogger("ray.dashboard").setLevel(logging.ERROR)
            logging.getLogger(AUTHENTICATION_LOGGER).setLevel(logging.CRITICAL)
            self._client = JobSubmissionClient(self._url)

    def list(self, prefix: str = "") -> list[Job]:
        """Return the jobs whose id begins with `prefix`, the oldest first."""
        with self._translate_errors():
            jobs = [_parse_job(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted((job for job in jobs if job.job_id.startswith(prefix)), key=lambda job: job.started)

    def get(self, job_id: str) -> Job:
        """Return a job. Raises InputError if it is unknown."""
        jobs = {job.job_id: job for job in self.list()}
        if job_id not in jobs:
            raise InputError(f'unknown job "{job_id}" at {self.address}{nearest(job_id, list(jobs))}')
        return jobs[job_id]

    def submit(
        self,
        job_id: str,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        metadata: Mapping[str, str],
    ) -> bool:
        """Ship a folder to the cluster and start a command in it.

        Args:
            job_id: The id of the new job.
            command: The command and its arguments.
            folder: The working directory to ship.
            environment: Environment variables of the command.
            metadata: Recorded with the job.

        Returns:
            False if a job of that id exists already.
        """
        with self._translate_errors():
            try:
                self._client.submit_job(
                    submission_id=job_id,
                    # Replaces the shell that Ray starts: a signal to the shell would not reach the driver.
                    entrypoint=f"exec {shlex.join(command)}",
                    runtime_env={"working_dir": str(folder), "env_vars": dict(environment)},
                    metadata=dict(metadata),
                )
            except RuntimeError as error:
                if f"{job_id} already exists" in str(error):
                    return False
                raise
        return True

    def stop(self, job_id: str) -> Job:
        """Stop a job and wait for its end, for as long as the job's environment allows; return the ended job."""
        job = self.get(job_id)
        if job.running:
            with self._translate_errors():
                self._client.stop_job(job_id)
        while job.running:
            time.sleep(_POLL_INTERVAL_SECONDS)
            job = self.get(job_id)
        return job

    def logs(self, job_id: str) -> str:
        """Return the driver's output so far."""
        self.get(job_id)
        with self._translate_errors():
            return str(self._client.get_job_logs(job_id))

    def follow(self, job_id: str, on_output: Callable[[str], None]) -> Job:
        """Pass the driver's output on until the job ends; return the ended job."""

        async def tail() -> None:
            async for lines in self._client.tail_job_logs(job_id):
                on_output(lines)

        self.get(job_id)
        with self._translate_errors():
            asyncio.run(tail())
        return self.get(job_id)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Turn errors of the client into ResourceError."""
        import aiohttp
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            problem = "the token is wrong" if "nvalid" in str(error) else "it wants a token"
            raise ResourceError(
                f"Ray at {self.address}: {problem} (RAY_AUTH_MODE=token with RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH)"
            ) from None
        except (RuntimeError, OSError, requests.RequestException, aiohttp.ClientError) as error:
            message = without_secrets(str(error), self._url)
            raise ResourceError(one_line(f"Ray at {self.address}: {message}", 300)) from None


def _parse_job(details: Any) -> Job:
    return Job(
        job_id=details.submission_id,
        state=str(getattr(details.status, "value", details.status)),
        message=details.message or "",
        started=(details.start_time or 0) / 1000,
        ended=(details.end_time or 0) / 1000,
        metadata=details.metadata or {},
    )
