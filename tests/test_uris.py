"""What of a URI is shown, and that texts of others are gone through in time proportional to their length."""

import time
from collections.abc import Callable

import pytest

from pld_grid import cli, jobs
from pld_grid.report import frozen
from pld_grid.uris import public_store_uri, public_uri, without_credentials, without_secrets


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
def test_a_uri_is_shown_without_its_secrets(given: str, shown: str) -> None:
    assert public_uri(given) == shown


def test_no_uri_in_a_text_keeps_its_secrets() -> None:
    text = "POST 'http://me:s3cret@a/x' failed: http://b/?token=s3cret, \"ftp://c:s3cret@d\"; file:///e@f"
    assert without_credentials(text) == "POST 'http://a/x' failed: http://b/?token=*** \"ftp://d\"; file:///e@f"
    # What is between quotes or has blanks may be one password, where the URI is known.
    assert without_secrets("cannot open db://me:it's my@h/x", "db://me:it's my@h/x") == "cannot open db://h/x"


@pytest.mark.parametrize("text", ["://" * 60_000, "@" + "://" * 60_000, "x://a:" * 60_000, "?a" * 60_000])
@pytest.mark.parametrize(
    "use", [public_uri, public_store_uri, without_credentials, frozen._said, lambda text: without_secrets(text, "a://")]
)
def test_a_long_text_takes_no_longer_than_its_length(text: str, use: Callable[[str], str]) -> None:
    began = time.process_time()
    use(text)
    assert time.process_time() - began < 1


def test_a_dashboards_password_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    submitted = jobs.Submission("pld-grid-0-1", attached=False, cells=1)
    asked = []

    def submit(*_: object, address: str, **__: object) -> jobs.Submission:
        asked.append(address)
        return submitted

    monkeypatch.setattr(jobs, "submit", submit)
    address = "http://me:s3cret@head:8265"
    monkeypatch.setattr("sys.argv", ["pld-grid", "submit", "any.yaml", "--address", address])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert ended.value.code in (0, None)
    assert asked == [address]
    assert "pld-grid-0-1 submitted" in out
    assert "--address http://head:8265" in err
    assert "s3cret" not in out + err
