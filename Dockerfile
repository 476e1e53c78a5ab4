# Not built or run anywhere yet. With the NVIDIA container toolkit:
#   docker build -t imagedream .
#   docker run --rm --gpus all -v "$PWD:/data" imagedream make picture.png -o model.glb
# Python 3.12 comes with Ubuntu 24.04; the CUDA that torch uses comes with torch, the image brings the driver's side.
FROM nvidia/cuda:13.0.0-runtime-ubuntu24.04

RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv git \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/imagedream
COPY . /src
RUN /opt/imagedream/bin/pip install --no-cache-dir "/src[guidance,rembg,heif,draco]" && rm -rf /src

ENV PATH=/opt/imagedream/bin:$PATH HF_HOME=/data/.cache/huggingface
WORKDIR /data
ENTRYPOINT ["imagedream"]
CMD ["doctor"]
