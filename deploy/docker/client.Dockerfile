# A client. Build it from the root of the repository:
#   docker build -f deploy/docker/client.Dockerfile -t choral-client .
# EXTRAS are those of pyproject.toml that its tasks need, such as `torch,sklearn`. For PyTorch
# without GPUs add --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu

FROM python:3.11-slim AS build
ARG EXTRAS=""
ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY . .
RUN pip wheel --no-deps --wheel-dir /wheels . \
    && python -m venv /opt/choral \
    && wheel="$(echo /wheels/choral-*.whl)" \
    && /opt/choral/bin/pip install --constraint constraints.txt "${wheel}${EXTRAS:+[${EXTRAS}]}"

FROM python:3.11-slim
COPY --from=build /opt/choral /opt/choral
ENV PATH=/opt/choral/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    CHORAL_CREDENTIALS=/certificates/credentials \
    CHORAL_POLICY=/etc/choral/policy.yaml \
    CHORAL_STATE=/state/client
RUN groupadd --gid 10001 choral \
    && useradd --uid 10001 --gid choral --no-create-home --shell /usr/sbin/nologin choral \
    && install -d -o choral -g choral -m 0700 /certificates /state \
    && install -d /etc/choral /data
USER 10001:10001
WORKDIR /state
# Certificates, keys and data come at run time; none is in the image. What is in /state must survive.
VOLUME ["/certificates", "/state"]
STOPSIGNAL SIGTERM
# A client listens nowhere: it is well as long as it runs.
HEALTHCHECK NONE
ENTRYPOINT ["choral"]
CMD ["client"]
