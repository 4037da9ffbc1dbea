# kpdeform on the CPU, for a folder that is mounted as /data:
#   docker build -t kpdeform .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" kpdeform label new.laz labelled.laz --model MODEL
FROM python:3.12-slim-bookworm AS build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY . /source
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu KPDEFORM_CUDA=OFF
RUN python -m venv /opt/kpdeform && /opt/kpdeform/bin/pip install --no-cache-dir "/source[viz,train,io]"

FROM python:3.12-slim-bookworm
# These packages are what Open3D draws with.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends \
    libusb-1.0-0 libgl1 libegl1 libgomp1 libvulkan1 mesa-vulkan-drivers && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/kpdeform /opt/kpdeform
ENV PATH=/opt/kpdeform/bin:$PATH HOME=/tmp
WORKDIR /data
ENTRYPOINT ["kpdeform"]
CMD ["--help"]
