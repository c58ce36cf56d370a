"""A certificate authority of the tests' own, and signers of its making."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)


class Authority:
    """Keys and certificates as C2PA wants them, in a folder; `ca.pem` is the anchor."""

    def __init__(self, folder: Path, name: str = "Tests") -> None:
        self.folder, self._name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._root = self._certificate("root", self._key.public_key(), is_authority=True)
        self.anchors = folder / "ca.pem"
        self.anchors.write_bytes(self._root.public_bytes(form.Encoding.PEM))

    def issue(
        self,
        name: str,
        *,
        curve: ec.EllipticCurve | None = None,
        from_days: int = -1,
        to_days: int = 9,
        for_email: bool = True,
        password: bytes | None = None,
        key_format: form.PrivateFormat = form.PrivateFormat.PKCS8,
    ) -> tuple[Path, Path]:
        """Write `name.pem` (with the root behind it) and `name.key`."""
        key = ec.generate_private_key(curve or ec.SECP256R1())
        leaf = self._certificate(
            name, key.public_key(), days=(from_days, to_days), for_email=for_email
        )
        chain, secret = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        chain.write_bytes(
            leaf.public_bytes(form.Encoding.PEM) + self._root.public_bytes(form.Encoding.PEM)
        )
        lock = form.BestAvailableEncryption(password) if password else form.NoEncryption()
        secret.write_bytes(key.private_bytes(form.Encoding.PEM, key_format, lock))
        return chain, secret

    def _certificate(
        self,
        name: str,
        key: ec.EllipticCurvePublicKey,
        *,
        is_authority: bool = False,
        days: tuple[int, int] = (-10, 99),
        for_email: bool = False,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        usage = x509.KeyUsage(
            digital_signature=not is_authority,
            key_cert_sign=is_authority,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            crl_sign=False,
            encipher_only=False,
            decipher_only=False,
        )
        issuer = self._key.public_key()
        made = (
            x509.CertificateBuilder()
            .subject_name(self._full_name(name))
            .issuer_name(self._full_name("root"))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + days[0] * DAY)
            .not_valid_after(now + days[1] * DAY)
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
        )
        if for_email:
            purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            made = made.add_extension(purpose, critical=False)
        return made.sign(self._key, hashes.SHA256())

    def _full_name(self, name: str) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, self._name),
                x509.NameAttribute(NameOID.COMMON_NAME, name),
            ]
        )
