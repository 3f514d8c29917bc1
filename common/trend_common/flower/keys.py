"""A client's identity: an EC P-384 key pair, made on the client and never leaving it."""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from trend_common.errors import ConnectionFailure
from trend_common.files import write_bytes

__all__ = ["load_or_create_key", "new_private_key", "parse_public_key", "public_key_text"]


def new_private_key() -> ec.EllipticCurvePrivateKey:
    """Return a new key, from the system's entropy."""
    return ec.generate_private_key(ec.SECP384R1())


def load_or_create_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read the key at ``path`` (OpenSSH form), or make one there with mode 0600.

    Raises:
        ConnectionFailure: The file is not such a key.
    """
    if not path.exists():
        key = new_private_key()
        data = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        write_bytes(path, data, private=True)
        return key
    try:
        loaded = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except (ValueError, UnsupportedAlgorithm, TypeError) as error:
        raise ConnectionFailure(
            f"{path} is not a private key in OpenSSH form.",
            "Restore it from your backup, or remove it and ask the operator for a new invitation.",
        ) from error
    if not isinstance(loaded, ec.EllipticCurvePrivateKey) or not isinstance(loaded.curve, ec.SECP384R1):
        raise ConnectionFailure(
            f"{path} is a key of another kind than EC P-384.",
            "Remove it and ask the operator for a new invitation.",
        )
    return loaded


def public_key_text(key: ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) -> str:
    """Return the public half in OpenSSH form, one line without a comment."""
    public = key.public_key() if isinstance(key, ec.EllipticCurvePrivateKey) else key
    return public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode("ascii")


def parse_public_key(text: str) -> ec.EllipticCurvePublicKey:
    """Read what :func:`public_key_text` wrote.

    Raises:
        ValueError: It is not a public key of EC P-384.
    """
    try:
        key = serialization.load_ssh_public_key(text.encode("ascii"))
    except (UnsupportedAlgorithm, UnicodeEncodeError) as error:
        raise ValueError("not a public key") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ValueError("not a key of EC P-384")
    return key
