"""What this service's sounds carry beside their label: a mark in the sound, a signature."""

from __future__ import annotations

from deployments.config import ProvenanceSection
from pipeline.audio import SyntheticLabel, encode
from pipeline.audio.credentials import FileSigner
from pipeline.payloads import Float32
from pipeline.synthesis import Finish


class Provenance:
    """The watermark and the signer of one ingress replica, each of them if it is configured.

    Attributes:
        finish: what marks a segment's sound; None: nothing does.
        watermark: what a manifest says of the mark; None: there is none.
        identity: what the mark adds to a generation's id.
    """

    def __init__(self, config: ProvenanceSection) -> None:
        """Load what is configured.

        Raises:
            InvalidRequest: an extra is not installed, or certificate and key can not sign; says
                what is wrong with which file.
        """
        self.finish: Finish | None = None
        self.watermark: str | None = None
        self.identity: str | None = None
        if config.watermark:
            from pipeline.watermark import (
                Watermark,
            )  # brings torch, which an ingress can do without

            mark = Watermark()
            self.finish, self.watermark, self.identity = mark.finish, mark.name, mark.identity
        self._signer: FileSigner | None = None
        if config.c2pa_certificate is not None and config.c2pa_key is not None:
            self._signer = FileSigner(config.c2pa_certificate, config.c2pa_key)

    def file(
        self, samples: Float32, sample_rate: int, audio_format: str, label: SyntheticLabel
    ) -> bytes:
        """Encode a sound as a whole file, signed where that is configured and the format allows.

        Blocks; arguments and errors are those of `pipeline.audio.encode`.

        Raises:
            EngineFailed: it can not be signed.
        """
        data = encode(samples, sample_rate, audio_format, label)
        return data if self._signer is None else self._signer.sign(data, audio_format, label)
