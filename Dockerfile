FROM python:3.13-slim AS build
# COMPILE=1 compiles what runs for each call: an experiment (docs/decisions/0017-compiled-wheel.md).
ARG COMPILE=0
WORKDIR /src
RUN python -m venv /opt/gateway
COPY requirements-server.lock requirements-dev.lock ./
RUN /opt/gateway/bin/pip install --no-cache-dir --require-hashes --requirement requirements-server.lock
RUN if [ "$COMPILE" = 1 ]; then \
        apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev \
        && python -m venv /opt/compiler \
        && /opt/compiler/bin/pip install --no-cache-dir --require-hashes --requirement requirements-dev.lock; \
    else ln -s /opt/gateway /opt/compiler; fi
COPY pyproject.toml setup.py README.md ./
COPY policies policies
COPY migrations migrations
COPY gateway gateway
RUN GATEWAY_COMPILE=$COMPILE /opt/compiler/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /dist . \
    && /opt/gateway/bin/pip install --no-cache-dir --no-deps /dist/*.whl

FROM python:3.13-slim
RUN useradd --uid 10001 --user-group --no-create-home gateway \
    && install --directory --owner gateway --group gateway --mode 0700 /var/lib/gateway
COPY --from=build /opt/gateway /opt/gateway
COPY gateway.yaml /etc/gateway/gateway.yaml
# The admin listener binds all interfaces of the container; publish its port only where operators are.
ENV PATH=/opt/gateway/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GATEWAY_SERVER__ADMIN=0.0.0.0:8081 \
    GATEWAY_DATA_DIR=/var/lib/gateway
USER gateway
# Commands look for gateway.yaml where they run.
WORKDIR /etc/gateway
VOLUME /var/lib/gateway
EXPOSE 8080 8081
# urlopen raises on any answer but success, and so ends with status 1.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8081/healthz', timeout=2)"]
ENTRYPOINT ["gateway"]
CMD ["serve"]
