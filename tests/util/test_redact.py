"""Secrets in URIs are not shown, and long texts are searched in linear time."""

import time
from unittest.mock import Mock

import pytest

from pld_grid.report import records_file
from pld_grid.service import job_submission
from pld_grid.util.redact import public_store_uri, public_uri, without_credentials, without_secrets


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("me:s3cret@head:8265", "head:8265"),
        ("http://me:s3cret@head:8265", "http://head:8265"),
        ("http://head:8265?token=s3cret", "http://head:8265?token=***"),
        ("ray://head:1/?x=1&X-Api-Key=s3cret&y=2", "ray://head:1/?x=1&X-Api-Key=***&y=2"),
        ("http://head/?api_key=s3cret&access_key=s3cret", "http://head/?api_key=***&access_key=***"),
        ("auto", "auto"),
        ("[::1]:8265", "[::1]:8265"),
        ("sqlite:////tmp/a@b.db", "sqlite:////tmp/a@b.db"),
        ("postgresql://h/x?sslkey=/etc/key", "postgresql://h/x?sslkey=/etc/key"),
    ],
)
def test_public_uri_hides_secrets(given, shown):
    assert public_uri(given) == shown


def test_without_credentials_hides_secrets_of_all_uris():
    text = "POST 'http://me:s3cret@a/x' failed: http://b/?token=s3cret, \"ftp://c:s3cret@d\"; file:///e@f"
    assert without_credentials(text) == "POST 'http://a/x' failed: http://b/?token=*** \"ftp://d\"; file:///e@f"
    # If the URI is known, quotes and blanks may belong to its password.
    assert without_secrets("cannot open db://me:it's my@h/x", "db://me:it's my@h/x") == "cannot open db://h/x"


@pytest.mark.parametrize("text", ["://" * 60_000, "@" + "://" * 60_000, "x://a:" * 60_000, "?a" * 60_000])
@pytest.mark.parametrize(
    "use",
    [
        public_uri,
        public_store_uri,
        without_credentials,
        records_file._redact,
        lambda text: without_secrets(text, "a://"),
    ],
)
def test_redaction_of_long_text_takes_linear_time(text, use):
    began = time.process_time()
    use(text)
    assert time.process_time() - began < 1


def test_submit_does_not_print_the_dashboards_password(run, monkeypatch):
    submit = Mock(return_value=job_submission.SubmittedJob("pld-grid-0-1", attached=False, cells=1))
    monkeypatch.setattr(job_submission, "submit", submit)
    address = "http://me:s3cret@head:8265"
    code, out, err = run("submit", "any.yaml", "--address", address)
    assert code == 0
    assert submit.call_args.kwargs["address"] == address
    assert "pld-grid-0-1 submitted" in out
    assert "--address http://head:8265" in err
    assert "s3cret" not in out + err
