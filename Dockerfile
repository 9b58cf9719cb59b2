# plm-composer in a container, for CPUs or for NVIDIA GPUs:
#
#     docker build -t plm-composer .
#     docker build -t plm-composer:cuda --build-arg DEVICE=cuda .
#     docker build -t plm-composer:cuda --build-arg DEVICE=cuda --build-arg TORCH=2.7.0 .      # driver older than 580
#
# The folder of the host that /work stands for gets data/ and runs/, under your own user:
#
#     docker run --rm -it --init -v "$PWD:/work" -u "$(id -u):$(id -g)" plm-composer train esm2_small
#     docker run --rm -it --init -v "$PWD:/work" -u "$(id -u):$(id -g)" --shm-size 8g --gpus all plm-composer:cuda \
#         train esm2_150m data.local=data/uniref50
#     docker run --rm -it --init --shm-size 8g --gpus all --entrypoint composer plm-composer:cuda \
#         -n 8 -m plm_composer.run esm2_150m data.fasta=sample
#     docker run --rm -it --entrypoint bash plm-composer
#
# --shm-size: the loader's workers hand batches over in /dev/shm, of which Docker gives 64 MB.
# --init: reaps workers that end. `docker stop -t 60 NAME` leaves a run the time to save a checkpoint.
# --gpus: needs the NVIDIA container toolkit on the host. The image needs no CUDA of its own: torch's wheels bring it.

# One base for both, since the wheels bring CUDA. A release of Python and of Debian, so that an image of tomorrow is
# built from what this one was; 3.11 is what the tests run on. For the same bytes, add the digest that you have checked.
FROM python:3.11.13-slim-bookworm

# g++: torch.compile, which is on by default on a GPU, compiles with it. make: the install is the Makefile's.
# Versions are those of the Debian release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ make \
    && rm -rf /var/lib/apt/lists/*

# cpu or cuda.
ARG DEVICE=cpu
# 2.11.0 or 2.7.0, as for make install.
ARG TORCH=2.11.0

# What is installed depends on these files alone, so that a change of the code does not install again. The README and
# the licence are named in pyproject.toml, and have to exist.
WORKDIR /opt/plm-composer
COPY Makefile pyproject.toml ./
COPY plm_composer/__init__.py plm_composer/
RUN --mount=type=cache,target=/root/.cache \
    touch README.md LICENSE && mkdir yamls \
    && case "$DEVICE" in \
        cpu) export UV_TORCH_BACKEND=cpu ;; \
        cuda) ;; \
        *) echo "error: DEVICE is $DEVICE; it must be cpu or cuda" >&2; exit 2 ;; \
    esac \
    && UV_LINK_MODE=copy make install TORCH="$TORCH"

COPY . .

# HOME and USER: caches of matplotlib, transformers and torch.compile, also for a user that /etc/passwd does not name.
RUN useradd --create-home --uid 1000 plm && chmod 1777 /home/plm && mkdir /work && chown plm /work
ENV HOME=/home/plm USER=plm PATH=/opt/plm-composer/.venv/bin:$PATH PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
WORKDIR /work
ENTRYPOINT ["plm"]
CMD ["--help"]
