# One image for everything that runs: Ray's head and workers, the node's fetching of weights, bulk jobs,
# `docker run`. Targets `cpu` and `gpu` differ in the build of torch alone.
#
#   docker build --target gpu --tag bark-serve:0.1.0 .
#   docker build --target cpu --build-arg CPU_TORCH_INDEX=… --tag bark-serve:0.1.0-cpu .
#   docker run --rm bark-serve:0.1.0 doctor
#   docker run --rm -p 8000:8000 -e BARK_SERVE_KEYS="$(printf %s KEY | sha256sum)" bark-serve:0.1.0
#
# CPU_TORCH_INDEX is the address of PyTorch's index of CPU builds; without it the target takes pip's
# default, which on Linux is a CUDA build of some gigabytes. Optimises for what is in the image at the
# end: the wheel and what it needs, no compiler, no pip, no root; and a list of it all in /usr/share/sbom.
ARG BASE=python:3.11-slim-bookworm

# Wheels that pip is to take before it asks its index: --build-context wheels=FOLDER
FROM scratch AS wheels

# ── the wheel, and an environment with everything but torch's build ──────────────────────────────
FROM ${BASE} AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3-venv \
    && rm -rf /var/lib/apt/lists/*
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
ARG PIP_NO_INDEX
WORKDIR /src
COPY constraints.txt pyproject.toml hatch_build.py README.md LICENSE ./
COPY pipeline pipeline
COPY deployments deployments
RUN --mount=type=bind,from=wheels,target=/wheels \
    python3 -m venv /opt/bark && python3 -m venv /opt/sbom \
    && /opt/bark/bin/pip wheel --quiet --no-deps --find-links /wheels --wheel-dir /dist . \
    && /opt/sbom/bin/pip install --quiet --find-links /wheels cyclonedx-bom==7.5.0

FROM build AS build-cpu
ARG PIP_NO_INDEX
ARG CPU_TORCH_INDEX
ARG EXTRAS=serve,watermark,c2pa
RUN --mount=type=bind,from=wheels,target=/wheels \
    if [ -n "${CPU_TORCH_INDEX}" ]; then \
      /opt/bark/bin/pip install --quiet --index-url "${CPU_TORCH_INDEX}" "$(grep '^torch==' constraints.txt)"; \
    fi \
    && /opt/bark/bin/pip install --quiet --find-links /wheels --constraint constraints.txt \
      "$(echo /dist/*.whl)[${EXTRAS}]" \
    && /opt/sbom/bin/cyclonedx-py environment --output-file /dist/python.cdx.json /opt/bark \
    && /opt/bark/bin/pip uninstall --quiet --yes pip setuptools

FROM build AS build-gpu
ARG PIP_NO_INDEX
ARG EXTRAS=serve,watermark,c2pa
RUN --mount=type=bind,from=wheels,target=/wheels \
    /opt/bark/bin/pip install --quiet --find-links /wheels --constraint constraints.txt \
      "$(echo /dist/*.whl)[${EXTRAS}]" \
    && /opt/sbom/bin/cyclonedx-py environment --output-file /dist/python.cdx.json /opt/bark \
    && /opt/bark/bin/pip uninstall --quiet --yes pip setuptools

# ── what runs ────────────────────────────────────────────────────────────────────────────────────
FROM ${BASE} AS runtime
# wget: KubeRay's probes call it. The base's own pip is not needed by anything.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && { python3 -m pip uninstall --yes --break-system-packages pip setuptools wheel || true; } \
    && groupadd --gid 10001 bark \
    && useradd --uid 10001 --gid 10001 --create-home bark \
    && install --directory --owner bark --group bark /var/cache/bark-serve /data \
    && install --directory /usr/share/sbom \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} + \
    && dpkg-query --show --showformat '${Package}\t${Version}\n' > /usr/share/sbom/debian.tsv
COPY serve_config.yaml /etc/bark-serve/
ENV PATH=/opt/bark/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    XDG_CACHE_HOME=/var/cache/bark-serve
WORKDIR /home/bark
EXPOSE 8000
HEALTHCHECK --start-period=3m --interval=15s --timeout=10s \
    CMD ["wget", "--quiet", "--tries=1", "--timeout=5", "--output-document=/dev/null", "http://127.0.0.1:8000/healthz"]
ENTRYPOINT ["bark-serve"]
CMD ["up", "--config", "/etc/bark-serve/serve_config.yaml", "--host", "0.0.0.0"]

FROM runtime AS cpu
COPY --from=build-cpu /opt/bark /opt/bark
COPY --from=build-cpu /dist/python.cdx.json /usr/share/sbom/
# the graph loads from where no source lies, as the user that it runs as
USER 10001:10001
RUN python -c "import deployments.app"

FROM runtime AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-gpu /opt/bark /opt/bark
COPY --from=build-gpu /dist/python.cdx.json /usr/share/sbom/
USER 10001:10001
RUN python -c "import deployments.app, torch; assert torch.version.cuda, 'no CUDA build of torch'"
