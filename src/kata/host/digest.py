"""Digests of short texts, for names."""

import sys

# What hashlib has where there is no OpenSSL, which takes 2 MiB and 5 ms to load.
_WITHOUT_OPENSSL = "_sha2" if sys.version_info >= (3, 12) else "_sha256"


def sha256_of_text(text: str) -> str:
    """Return the SHA-256 of a text in hexadecimal digits.

    For the content of files use hashlib, which is many times faster, once OpenSSL is loaded.
    """
    try:
        module = __import__(_WITHOUT_OPENSSL)
    except ImportError:
        module = __import__("hashlib")
    digits: str = module.sha256(text.encode()).hexdigest()
    return digits
