"""AppConfig: the `args` of the application, checked strictly; one section a concern.

How many replicas there are, where they run and how they scale is not said here but under
`deployments:` in `serve_config.yaml`, in Serve's own words.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.spec import Precision
from pipeline.stages.text import MAX_TEXT_CHARS
from pipeline.store import StoreLocation
from pipeline.store.location import Encryption

STAGES = ("SemanticStage", "CoarseStage", "FineStage", "CodecStage")
INGRESS = "Ingress"
APP_NAME = "bark"
# The node label that makes a pool.
STAGE_LABEL = "bark.stage"

# OpenAI's names, so that its clients work unchanged.
_MODEL_ALIASES = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(_Section):
    """Which model, and in what arithmetic. The whole cascade must agree on these."""

    name: str = "nano"
    revision: str | None = None
    tokenizer: Path | None = None
    precision: Precision = "fp32"
    device: Annotated[str, Field(description="cpu, cuda, cuda:N, or auto")] = "auto"
    backend: Literal["auto", "native", "torch", "graph"] = "auto"
    aliases: Annotated[tuple[str, ...], Field(description="other names callers may use")] = (
        _MODEL_ALIASES
    )


class EngineSection(_Section):
    """How much one replica takes on.

    slots: sequences at once, of the semantic and the coarse stage. stuck_after_s: a step that
    takes longer means that the engine hangs, and its replica is replaced.
    """

    semantic_slots: Annotated[int, Field(ge=1, le=512)] = 8
    coarse_slots: Annotated[int, Field(ge=1, le=512)] = 8
    stuck_after_s: Annotated[float, Field(gt=0)] = 60.0


class VoiceSection(_Section):
    """Where presets are found beside the store and the model, and what other names they go by."""

    folders: tuple[Path, ...] = ()
    aliases: dict[str, str] = Field(
        default_factory=dict, description="a name callers use → a preset, or `default`"
    )


class AdmissionSection(_Section):
    """What the front takes in; whatever it takes, it finishes.

    max_running: requests in the stages at once, in one ingress replica. max_waiting: requests
    beyond those that may wait; more are answered with 429 and `Retry-After`. max_low: requests
    of low priority (bulk rows) beside those, and their stage calls: so few that a stage's
    `max_ongoing_requests` is never theirs alone.
    """

    max_running: Annotated[int, Field(ge=1)] = 64
    max_waiting: Annotated[int, Field(ge=0)] = 256
    max_low: Annotated[int, Field(ge=1)] = 16
    timeout_s: Annotated[float, Field(gt=0)] = 600.0
    max_timeout_s: Annotated[float, Field(gt=0)] = 3600.0
    max_text_chars: Annotated[int, Field(ge=1)] = MAX_TEXT_CHARS
    max_body_bytes: Annotated[int, Field(ge=1)] = 1_000_000


class AccessSection(_Section):
    """Who may call. Keys are kept as their sha256, one to a line, `<hex> [name]`.

    keys_file: that file. keys_variable: an environment variable with the same lines.
    allow_anonymous: serve without keys even where others can reach it. The limits are for each key
    in each ingress replica.
    """

    keys_file: Path | None = None
    keys_variable: str = "BARK_SERVE_KEYS"
    allow_anonymous: bool = False
    max_concurrent: Annotated[int, Field(ge=1)] | None = None
    max_per_minute: Annotated[int, Field(ge=1)] | None = None
    cors_origins: tuple[str, ...] = ()


class StoreSection(_Section):
    """Where voices, generations and jobs are kept; `s3://bucket/prefix`, or a folder.

    A folder does for one machine, or where all nodes share a file system. Credentials are boto3's
    own chain. voices_url: where voices are kept, if not there too; the rest holds for both.
    link_expires_s: how long an address to a result in a bucket is good for.
    """

    url: str = "bark-data"
    voices_url: str | None = None
    endpoint: str | None = None
    region: str | None = None
    encryption: Encryption | None = None
    kms_key: str | None = None
    path_style: bool | None = None
    link_expires_s: Annotated[int, Field(ge=1, le=604_800)] = 3600

    @property
    def location(self) -> StoreLocation:
        return StoreLocation(**self.model_dump(exclude={"link_expires_s", "voices_url"}))

    @property
    def voices_location(self) -> StoreLocation:
        return replace(self.location, url=self.voices_url or self.url)


class JobSection(_Section):
    """Generations as jobs, worked on by every ingress replica.

    max_running: in one replica. max_waiting: more are answered with 503. lease_s: a worker that
    is silent for so long is taken for dead. keep_s: ended jobs are remembered for so long.
    max_attempts: a job whose worker died, or failed by no fault of the job, so often is given up.
    """

    max_running: Annotated[int, Field(ge=0)] = 8
    max_waiting: Annotated[int, Field(ge=1)] = 10_000
    lease_s: Annotated[float, Field(ge=1)] = 30.0
    poll_s: Annotated[float, Field(gt=0)] = 1.0
    keep_s: Annotated[float, Field(gt=0)] = 7 * 86_400.0
    max_attempts: Annotated[int, Field(ge=1)] = 20


class WebhookSection(_Section):
    """Telling the end of a job, signed as standardwebhooks.com says.

    secret_variable: an environment variable with the secret, `whsec_` and base64. attempts: with
    pauses of first_pause_s, twice that, four times … allow_private: also to addresses that the
    public can not reach.
    """

    secret_variable: str = "BARK_SERVE_WEBHOOK_SECRET"
    allow_private: bool = False
    attempts: Annotated[int, Field(ge=1, le=20)] = 8
    first_pause_s: Annotated[float, Field(gt=0)] = 5.0
    timeout_s: Annotated[float, Field(gt=0)] = 10.0


class ProvenanceSection(_Section):
    """What sounds carry beside their label, which is always there.

    watermark: mark every segment as synthetic in the sound itself (the extra `watermark`). The
    ingress does that, on its CPU: give it more than a tenth of one. Marked sounds have ids of
    their own. c2pa_certificate, c2pa_key: PEM files, a chain and its EC P-256 key, with which
    whole files are signed (the extra `c2pa`): wav and mp3, kept or answered; other formats, and
    answers that are streamed (of several segments, or as events), stay unsigned. Both are read
    when a replica starts.
    """

    watermark: bool = False
    c2pa_certificate: Path | None = None
    c2pa_key: Path | None = None

    @model_validator(mode="after")
    def _check_pair(self) -> Self:
        if (self.c2pa_certificate is None) != (self.c2pa_key is None):
            raise ValueError("c2pa_certificate and c2pa_key go together: give both, or neither")
        return self


class LogSection(_Section):
    """What replicas write to their logs. include_text: of requests, which may be private."""

    encoding: Literal["json", "text"] = "json"
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    include_text: bool = False


class PoolSection(_Section):
    """One stage's actors in a bulk job: so many, each with this share of a node.

    The stage's node label (`bark.stage`) is preferred, as by the service. On a machine's own CPU,
    where all stages share the cores, a job that starts its own cluster has one actor a stage.
    """

    min_size: Annotated[int, Field(ge=1)] = 1
    max_size: Annotated[int, Field(ge=1)] = 4
    num_cpus: Annotated[float, Field(gt=0)] = 0.3
    num_gpus: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if self.min_size > self.max_size:
            raise ValueError(f"min_size {self.min_size} is above max_size {self.max_size}")
        return self


class BulkSection(_Section):
    """`bark-serve bulk`: pools by stage; the application itself does not read this.

    chained: for rows of several segments that continue each other, all stages in one actor.
    max_in_flight: rows under way at once; None: four times the slots of the largest pool.
    """

    text: PoolSection = PoolSection(max_size=2)
    semantic: PoolSection = PoolSection()
    coarse: PoolSection = PoolSection()
    fine: PoolSection = PoolSection()
    codec: PoolSection = PoolSection()
    chained: PoolSection = PoolSection()
    max_in_flight: Annotated[int, Field(ge=1)] | None = None


class AppConfig(_Section):
    """Everything that `build` needs, and `bark-serve bulk`."""

    model: ModelSection = ModelSection()
    engine: EngineSection = EngineSection()
    voices: VoiceSection = VoiceSection()
    admission: AdmissionSection = AdmissionSection()
    access: AccessSection = AccessSection()
    store: StoreSection = StoreSection()
    jobs: JobSection = JobSection()
    webhooks: WebhookSection = WebhookSection()
    logs: LogSection = LogSection()
    provenance: ProvenanceSection = ProvenanceSection()
    bulk: BulkSection = BulkSection()
