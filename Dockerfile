# The image lacks the extras: `parquet` (`usage.sink`, `archive_format: parquet`), `s3` (`usage.archive` in a bucket), `oidc`,
# `tracing`, `costs`, `mysql` and `scripts`. One that has them all, some 300 MB larger, each package by its hash too:
#
#   docker build --build-arg LOCK=requirements-extras.lock .
FROM python:3.13-slim AS build
WORKDIR /src
ARG LOCK=requirements-server.lock
RUN python -m venv /opt/gateway
COPY ${LOCK} .
RUN /opt/gateway/bin/pip install --no-cache-dir --require-hashes --requirement ${LOCK}
COPY pyproject.toml README.md ./
COPY policies policies
COPY migrations migrations
COPY gateway gateway
RUN /opt/gateway/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.13-slim
# Any user of group 0 may write there, so the image runs as whichever user the platform picks (OpenShift picks one).
RUN useradd --uid 10001 --gid 0 --no-create-home gateway \
    && install --directory --owner 10001 --group 0 --mode 0770 /var/lib/gateway
COPY --from=build /opt/gateway /opt/gateway
COPY gateway.yaml /etc/gateway/gateway.yaml
# The admin and the health listener bind all interfaces of the container; publish their ports only where operators are.
# The volume is all that is written, also what is temporary: the root file system may be read-only.
ENV PATH=/opt/gateway/bin:$PATH \
    HOME=/var/lib/gateway \
    TMPDIR=/var/lib/gateway \
    PYTHONUNBUFFERED=1 \
    GATEWAY_SERVER__ADMIN=0.0.0.0:8081 \
    GATEWAY_SERVER__HEALTH=0.0.0.0:8082 \
    GATEWAY_DATA_DIR=/var/lib/gateway
# By number, so that Kubernetes sees that it is not root.
USER 10001:0
# Commands look for gateway.yaml where they run.
WORKDIR /etc/gateway
VOLUME /var/lib/gateway
EXPOSE 8080 8081 8082
# Every role has this listener. urlopen raises on any answer but success, and so ends with status 1.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8082/livez', timeout=2)"]
ENTRYPOINT ["gateway"]
CMD ["serve"]
