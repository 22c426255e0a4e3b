"""Remove credentials from URIs and messages before they are printed or stored.

Texts from outside may be of any length, so every pattern must match in linear time.
"""

import re

_QUERY = re.compile(
    r"(?<=[?&])([\w.-]*(?:password|passwd|pwd|token|secret|credentials?|api[_-]?key|access[_-]?key|signature))=[^&]*",
    re.IGNORECASE,
)
_HOST = re.compile(r"://(?!/)")
_WORD = re.compile(r"[^\s'\"]+")
_PASSWORD = re.compile(r"://[^/@]*:")


def public_uri(uri: str) -> str:
    """Return a database's or server's URI, or HOST:PORT, without user name and password."""
    return _QUERY.sub(r"\1=***", _without_user(uri) if "://" in uri else uri.rpartition("@")[2])


def public_store_uri(uri: str) -> str:
    """Return a store's URI without a password. A user name alone stays, and a path may contain an @."""
    match = _PASSWORD.search(uri)
    return public_uri(uri) if match and "@" in uri[match.end() :] else _QUERY.sub(r"\1=***", uri)


def without_credentials(text: str) -> str:
    """Return a text whose URIs have no user, password or secret in the query."""
    return _WORD.sub(lambda word: _QUERY.sub(r"\1=***", _without_user(word[0])), text)


def without_secrets(text: str, uri: str) -> str:
    """Return a text with `public_uri` in place of a URI, and without credentials in any other URI."""
    for known in (uri, uri.rstrip("/")):
        text = text.replace(known, public_uri(known))
    return without_credentials(text).strip()


def _without_user(uri: str) -> str:
    # SQLAlchemy accepts any character in a password, even a slash: remove everything up to the last @.
    match = _HOST.search(uri)
    return uri[: match.end()] + uri[match.end() :].rpartition("@")[2] if match else uri
