"""URIs as they may be printed and kept."""

import re

_QUERY = re.compile(r"(?<=[?&])(\w*(?:password|passwd|pwd|token|secret))=[^&]*", re.IGNORECASE)


def public_uri(uri: str) -> str:
    """A database's or server's URI without user name and password."""
    # SQLAlchemy takes any character in a password, even one that ends a URI's authority: hence up to the last @.
    return _QUERY.sub(r"\1=***", re.sub(r"(?<=://)(?!/).*@", "", uri, count=1, flags=re.DOTALL))


def public_store_uri(uri: str) -> str:
    """A store's URI without a password. A user alone is part of the place, and an @ may be part of its path."""
    return public_uri(uri) if re.search(r"://[^/@]*:[^@]*@", uri) else _QUERY.sub(r"\1=***", uri)
