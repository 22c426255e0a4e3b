"""URIs as they may be printed and kept.

Texts of others pass through here, of any length: every pattern takes time in proportion to it.
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
    """A database's or server's URI, or HOST:PORT, without user name and password."""
    return _QUERY.sub(r"\1=***", _without_user(uri) if "://" in uri else uri.rpartition("@")[2])


def public_store_uri(uri: str) -> str:
    """A store's URI without a password. A user alone is part of the place, and an @ may be part of its path."""
    found = _PASSWORD.search(uri)
    return public_uri(uri) if found and "@" in uri[found.end() :] else _QUERY.sub(r"\1=***", uri)


def without_credentials(text: str) -> str:
    """A text whose URIs have neither what comes before an @ nor what a query calls a password."""
    return _WORD.sub(lambda word: _QUERY.sub(r"\1=***", _without_user(word[0])), text)


def without_secrets(text: str, uri: str) -> str:
    """A text, such as an error's, with `public_uri` in place of a URI, and without credentials in any other."""
    for known in (uri, uri.rstrip("/")):
        text = text.replace(known, public_uri(known))
    return without_credentials(text).strip()


def _without_user(uri: str) -> str:
    # SQLAlchemy takes any character in a password, even one that ends a URI's authority: hence up to the last @.
    found = _HOST.search(uri)
    return uri[: found.end()] + uri[found.end() :].rpartition("@")[2] if found else uri
