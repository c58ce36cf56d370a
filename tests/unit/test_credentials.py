"""A signature holds for exactly the bytes that were signed, and says who signed them."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from certificates import Authority
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.audio import FORMATS, StreamEncoder, SyntheticLabel, encode, read_label
from pipeline.audio.credentials import SIGNED_FORMATS, FileSigner, read_credentials
from pipeline.audio.decode import decode
from pipeline.errors import InvalidRequest

LABEL = SyntheticLabel("nano", "4f1c" * 8, seed=7, voice="oak")
SOUND = (np.sin(np.arange(12_000) / 9) * np.linspace(0, 0.9, 12_000)).astype(np.float32)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def signer(authority: Authority) -> FileSigner:
    return FileSigner(*authority.issue("bark"))


@pytest.mark.parametrize("audio_format", SIGNED_FORMATS)
def test_a_signed_file_is_valid_and_sounds_the_same(
    signer: FileSigner, authority: Authority, audio_format: str
) -> None:
    plain = encode(SOUND, 24_000, audio_format, LABEL)
    signed = signer.sign(plain, audio_format, LABEL)
    found = read_credentials(signed)
    assert (found.state, found.signer, found.problems) == ("valid", "bark of Tests", ())
    assert found.generation_id == LABEL.generation_id
    assert not found.is_trusted
    assert read_credentials(signed, authority.anchors.read_bytes()).is_trusted
    assert np.array_equal(decode(signed)[0], decode(plain)[0])
    others = [soundfile.read(io.BytesIO(data))[0] for data in (signed, plain)]
    assert np.array_equal(*others)
    assert read_label(signed) == read_label(plain)
    assert len(signed) - len(plain) < 5_000


@pytest.mark.parametrize("audio_format", SIGNED_FORMATS)
def test_one_bit_of_sound_or_label_breaks_it(signer: FileSigner, audio_format: str) -> None:
    plain = encode(SOUND, 24_000, audio_format, LABEL)
    signed = signer.sign(plain, audio_format, LABEL)
    for part in (plain[-600:-560], LABEL.generation_id.encode(), b"AI-generated (synthetic)"):
        assert signed.count(part) >= 1
        changed = bytearray(signed)
        changed[signed.index(part) + len(part) // 2] ^= 1
        found = read_credentials(bytes(changed))
        assert found.state == "invalid"
        assert found.problems


@pytest.mark.parametrize("audio_format", SIGNED_FORMATS)
def test_a_cut_file_is_not_taken_for_unsigned(signer: FileSigner, audio_format: str) -> None:
    signed = signer.sign(encode(SOUND, 24_000, audio_format, LABEL), audio_format, LABEL)
    assert read_credentials(signed[:-100]).state == "invalid"


def test_another_authoritys_anchor_does_not_vouch(signer: FileSigner, tmp_path: Path) -> None:
    signed = signer.sign(encode(SOUND, 24_000, "wav", LABEL), "wav", LABEL)
    found = read_credentials(signed, Authority(tmp_path, "Others").anchors.read_bytes())
    assert (found.state, found.is_trusted) == ("valid", False)


@pytest.mark.parametrize("audio_format", sorted(FORMATS))
def test_what_is_not_signed_has_none(audio_format: str) -> None:
    assert read_credentials(encode(SOUND, 24_000, audio_format, LABEL)).state == "none"
    stream = StreamEncoder(audio_format, 24_000, LABEL)
    assert read_credentials(stream.write(SOUND) + stream.close()).state == "none"


@pytest.mark.parametrize("data", [b"", b"RIFF", b"no sound at all"], ids=["empty", "cut", "text"])
def test_what_is_no_sound_has_none(data: bytes) -> None:
    assert read_credentials(data).state == "none"


@pytest.mark.parametrize("audio_format", sorted(FORMATS.keys() - set(SIGNED_FORMATS)))
def test_other_formats_stay_as_they_are(signer: FileSigner, audio_format: str) -> None:
    plain = encode(SOUND, 24_000, audio_format, LABEL)
    assert signer.sign(plain, audio_format, LABEL) is plain


def test_openssls_own_key_format_will_do(authority: Authority) -> None:
    traditional = authority.issue("sec1", key_format=form.PrivateFormat.TraditionalOpenSSL)
    signed = FileSigner(*traditional).sign(encode(SOUND, 24_000, "wav", LABEL), "wav", LABEL)
    assert read_credentials(signed).state == "valid"


def test_a_wrong_pair_is_refused_at_once(authority: Authority, tmp_path: Path) -> None:
    chain, key = authority.issue("first")
    other_chain, other_key = authority.issue("second")
    text = tmp_path / "text"
    text.write_text("no PEM")

    def refused(certificate: Path, secret: Path, message: str) -> None:
        with pytest.raises(InvalidRequest, match=message):
            FileSigner(certificate, secret)

    refused(chain, other_key, "second.key is not the key of the first certificate in .*first.pem")
    refused(other_chain, key, "first.key is not the key")
    refused(tmp_path / "nowhere", key, "can not read .*nowhere: No such file")
    refused(chain, tmp_path / "nowhere", "can not read .*nowhere")
    refused(text, key, "text holds no certificates")
    refused(chain, text, "text is no private key")
    refused(*authority.issue("locked", password=b"secret"), "locked.key is no private key.*encry")
    refused(*authority.issue("p384", curve=ec.SECP384R1()), "p384.key must be an EC key on P-256")
    refused(
        *authority.issue("past", to_days=-1, from_days=-5), "past.pem can not sign: .*not valid"
    )
    refused(*authority.issue("no-email", for_email=False), "no-email.pem can not sign")
    leaf_alone = tmp_path / "self.pem"
    leaf_alone.write_bytes(authority.anchors.read_bytes() + chain.read_bytes())
    refused(leaf_alone, key, "not the key of the first certificate")


def test_anchors_must_be_certificates() -> None:
    with pytest.raises(InvalidRequest, match="file of anchors holds no certificates"):
        read_credentials(b"", b"no PEM")


def test_without_the_extra_it_says_what_to_install(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(InvalidRequest, match=r"pip install 'bark-serve\[c2pa\]'"):
        FileSigner(*authority.issue("never"))
