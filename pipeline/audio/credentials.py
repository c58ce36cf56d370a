"""Content Credentials (C2PA) in finished files: signing our own, and reading anyone's.

The label says what a file is; a signature says who says so, and breaks with any changed bit of
sound or label. It is a C2PA manifest (specification 2.4) in the file itself, made offline by
c2pa-python (the extra `c2pa`) with a certificate and a key of one's own: action `c2pa.created`,
source type trainedAlgorithmicMedia, who made it, and the generation's id. The samples stay as they
are. Only whole files can be signed, for the signature covers them to their end; and only wav and
mp3 (flac would get an ID3 tag in front, which its specification does not know; c2pa-python has no
place for it in opus and aac).
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.audio.encode import encode
from pipeline.audio.formats import MEDIA_TYPES
from pipeline.audio.label import DIGITAL_SOURCE_TYPE, SyntheticLabel
from pipeline.errors import BarkError, EngineFailed, InvalidRequest

SIGNED_FORMATS = ("wav", "wav_float", "mp3")

_SOURCE_TYPE = f"http://cv.iptc.org/newscodes/digitalsourcetype/{DIGITAL_SOURCE_TYPE}"
_GENERATION_ID = "bark-serve.generation_id"  # a field of our own among an action's parameters
_UNTRUSTED = "signingCredential.untrusted"
_BOX = b"jumb"  # the type of the boxes that hold a manifest, in any file
# A stranger's file must not make us ask addresses that it names.
_OFFLINE = {"remote_manifest_fetch": False, "ocsp_fetch": False}


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a file's Content Credentials say, and whether they hold.

    state: `valid`: signed, and neither sound nor label was changed since; `invalid`: changed, or
        signed wrongly; `none`: not signed, or in a way that this file no longer shows.
    signer: the certificate's name and organisation; its own word only, unless `is_trusted`.
    is_trusted: the certificate leads to one of the anchors that were given.
    generation_id: of ours, which the signature covers; None where it names none.
    problems: the specification's codes of what is wrong.
    """

    state: Literal["valid", "invalid", "none"]
    signer: str | None = None
    is_trusted: bool = False
    generation_id: str | None = None
    problems: tuple[str, ...] = ()


class FileSigner:
    """Signs finished files in the name of one certificate. Thread-safe."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Read both, and sign a short sound to see that they will do.

        They are read once: who renews a certificate starts again.

        Args:
            certificate: PEM, the signer's own first, then those that lead to its root. C2PA wants
                version 3, key usage digitalSignature, an extended key usage such as
                emailProtection, and an issuer other than itself.
            key: PEM, EC P-256 (ES256), not encrypted.

        Raises:
            InvalidRequest: c2pa-python is not installed, or one of the files can not be read, is
                something else, or does not fit the other; says which and why.
        """
        _c2pa()
        self._chain, self._key = _read_pair(certificate, key)
        try:
            self.sign(*_trial())
        except BarkError as error:
            raise InvalidRequest(f"{certificate} can not sign: {error.message}") from error

    def sign(self, data: bytes, audio_format: str, label: SyntheticLabel) -> bytes:
        """Sign a whole file.

        Blocks, some 2 ms and 3 KB more. Two signatures of one file differ, as ECDSA's do.

        Args:
            data: as `encode` returned it.
            audio_format: its name in `FORMATS`; of those that are not in `SIGNED_FORMATS` the data
                come back as they are.
            label: whose product, version and generation id are signed.

        Raises:
            EngineFailed: it can not be signed; the certificate has run out, most likely.
        """
        if audio_format not in SIGNED_FORMATS:
            return data
        c2pa, signed = _c2pa(), io.BytesIO()
        info = c2pa.C2paSignerInfo(c2pa.C2paSigningAlg.ES256, self._chain, self._key, ta_url=None)
        manifest = json.dumps(_manifest(label))
        try:
            # made anew for each file: a signer that two threads share is not
            with c2pa.Signer.from_info(info) as signer, c2pa.Builder.from_json(manifest) as builder:
                builder.sign(signer, MEDIA_TYPES[audio_format], io.BytesIO(data), signed)
        except c2pa.C2paError as error:
            raise EngineFailed(f"the file can not be signed (C2PA): {error}") from error
        return signed.getvalue()


def is_installed() -> bool:
    """Say whether the extra is there."""
    try:
        _c2pa()
    except InvalidRequest:
        return False
    return True


def read_credentials(data: bytes, anchors: bytes | None = None) -> Credentials:
    """Read and check the Content Credentials of a file that may come from anyone. Asks no network.

    Args:
        data: the encoded bytes, in any format.
        anchors: certificates (PEM) of those whose signatures are trusted; None trusts nobody.

    Raises:
        InvalidRequest: c2pa-python is not installed, or the anchors are no certificates.
    """
    c2pa, settings = _c2pa(), dict[str, Any](verify=_OFFLINE)
    if anchors is not None:
        _certificates(anchors, "the file of anchors")
        settings["trust"] = {"trust_anchors": anchors.decode()}
    try:
        with (
            c2pa.Context.from_dict(settings) as context,
            c2pa.Reader(None, io.BytesIO(data), context=context) as reader,
        ):
            return _told(json.loads(reader.json()))
    except c2pa.C2paError.ManifestNotFound:
        return Credentials("none")
    except c2pa.C2paError as error:
        # A format that has no place for them, or a file that is cut or broken: with a box of a
        # manifest left in it, it was signed once.
        if _BOX in data:
            return Credentials("invalid", problems=(str(error),))
        return Credentials("none")


def _told(report: dict[str, Any]) -> Credentials:
    """Read c2pa's report."""
    active = report.get("manifests", {}).get(report.get("active_manifest"), {})
    problems = [status["code"] for status in report.get("validation_status", ())]
    problems = [code for code in problems if code != _UNTRUSTED]
    signature = active.get("signature_info", {})
    names = [signature[key] for key in ("common_name", "issuer") if signature.get(key)]
    state = report.get("validation_state")
    return Credentials(
        "valid" if state in ("Valid", "Trusted") else "invalid",
        " of ".join(dict.fromkeys(names)) or None,
        state == "Trusted",
        _signed_id(active),
        tuple(problems),
    )


def _signed_id(manifest: dict[str, Any]) -> str | None:
    """Find a generation's id among the actions, which a stranger may have written."""
    for assertion in manifest.get("assertions", ()):
        data = assertion.get("data")
        for action in data.get("actions", ()) if isinstance(data, dict) else ():
            parameters = action.get("parameters")
            if isinstance(parameters, dict) and isinstance(parameters.get(_GENERATION_ID), str):
                return str(parameters[_GENERATION_ID])
    return None


def _manifest(label: SyntheticLabel) -> dict[str, Any]:
    maker = {"name": label.product, "version": label.version}
    created = {
        "action": "c2pa.created",
        "digitalSourceType": _SOURCE_TYPE,
        "softwareAgent": maker,
        "parameters": {_GENERATION_ID: label.generation_id},
    }
    return {
        "claim_generator_info": [maker],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}],
    }


def _read_pair(certificate: Path, key: Path) -> tuple[bytes, bytes]:
    """Return the chain as PEM, and the key as PKCS #8, the one form that c2pa takes."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    chain = _read(certificate)
    leaf = _certificates(chain, str(certificate))[0]
    try:
        private = form.load_pem_private_key(_read(key), None)
    except (ValueError, TypeError) as error:  # a password is a TypeError
        raise InvalidRequest(f"{key} is no private key in PEM, unencrypted: {error}") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.curve.name != "secp256r1":
        raise InvalidRequest(f"{key} must be an EC key on P-256 (ES256), which it is not")
    if private.public_key() != leaf.public_key():
        raise InvalidRequest(f"{key} is not the key of the first certificate in {certificate}")
    return chain, private.private_bytes(
        form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()
    )


def _certificates(chain: bytes, name: str) -> list[Any]:
    from cryptography import x509

    try:
        return list(x509.load_pem_x509_certificates(chain))
    except ValueError as error:
        raise InvalidRequest(f"{name} holds no certificates in PEM: {error}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"can not read {path}: {error.strerror}") from None


def _trial() -> tuple[bytes, str, SyntheticLabel]:
    label = SyntheticLabel("trial", "0" * 32)
    return encode(np.zeros(320, np.float32), 24_000, "wav", label), "wav", label


def _c2pa() -> Any:
    """Import c2pa, 50 MB of shared library."""
    try:
        import c2pa
    except ImportError:
        raise InvalidRequest(
            "Content Credentials need c2pa-python: pip install 'bark-serve[c2pa]'"
        ) from None
    return c2pa
