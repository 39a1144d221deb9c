# Two images:
#   docker build -t edgewright .                          builds recipes: docker run --rm --user "$(id -u)" -v "$PWD:/project" -v edgewright:/store edgewright build RECIPE
#   docker build -t edgewright-device --target device .   checks bundles: docker run --rm -v "$PWD:/bundle:ro" edgewright-device validate /bundle
# PyPI's PyTorch for Linux carries CUDA, several GB. For the CPU build, name PyTorch's CPU index: --build-arg TORCH_INDEX=URL

FROM debian:bookworm-slim AS base
ENV LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

# The device part is one file, made with the standard library alone.
FROM base AS device-part
WORKDIR /source
COPY calibration calibration
COPY targets targets
RUN python3 -c "from pathlib import Path; from targets.device_pyz import build_device_pyz; build_device_pyz(Path('/device.pyz'))"

FROM base AS device
COPY constraints.txt /tmp/constraints.txt
RUN python3 -m venv /opt/device \
    && /opt/device/bin/pip install --no-cache-dir -c /tmp/constraints.txt cryptography numpy onnxruntime \
    && useradd --create-home device
COPY --from=device-part /device.pyz /opt/device/device.pyz
WORKDIR /home/device
USER device
ENTRYPOINT ["/opt/device/bin/python", "/opt/device/device.pyz"]
CMD ["--help"]

FROM base AS build
ARG TORCH_INDEX=
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY calibration calibration
COPY targets targets
COPY pipeline pipeline
RUN python3 -m venv /opt/edgewright \
    && PIP_EXTRA_INDEX_URL="$TORCH_INDEX" /opt/edgewright/bin/pip install --no-cache-dir -c constraints.txt '.[rtx]' \
    && useradd --create-home edgewright \
    && install -d -m 1777 /project /store
ENV PATH=/opt/edgewright/bin:$PATH EDGEWRIGHT_STORE=/store HOME=/tmp
WORKDIR /project
USER edgewright
ENTRYPOINT ["edgewright"]
CMD ["--help"]
