# The coordinator. Build it from the root of the repository:
#   docker build -f deploy/docker/coordinator.Dockerfile -t choral-coordinator .
# EXTRAS are those of pyproject.toml that its tasks need, such as `torch,sklearn`.

FROM python:3.11-slim AS build
ARG EXTRAS=""
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
    CHORAL_CONFIG=/etc/choral/config.yaml \
    CHORAL_LISTEN=0.0.0.0:50051 \
    CHORAL_CREDENTIALS=/certificates/credentials \
    CHORAL_STORAGE_PATH=/models/global
RUN groupadd --gid 10001 choral \
    && useradd --uid 10001 --gid choral --no-create-home --shell /usr/sbin/nologin choral \
    && install -d -o choral -g choral -m 0700 /certificates /models \
    && install -d /etc/choral
USER 10001:10001
WORKDIR /models
# Certificates and keys come at run time; none is in the image.
VOLUME ["/certificates", "/models"]
EXPOSE 50051
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=10s --start-period=30s --retries=3 \
    CMD ["choral", "health", "--coordinator", "127.0.0.1:50051", "--credentials", "/certificates/health"]
ENTRYPOINT ["choral"]
CMD ["coordinator"]
