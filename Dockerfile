FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/gateway
COPY requirements-server.lock .
RUN /opt/gateway/bin/pip install --no-cache-dir --require-hashes --requirement requirements-server.lock
COPY pyproject.toml README.md ./
COPY policies policies
COPY migrations migrations
COPY gateway gateway
RUN /opt/gateway/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.13-slim
RUN useradd --uid 10001 --user-group --no-create-home gateway \
    && install --directory --owner gateway --group gateway --mode 0700 /var/lib/gateway
COPY --from=build /opt/gateway /opt/gateway
COPY gateway.yaml /etc/gateway/gateway.yaml
# The admin and the health listener bind all interfaces of the container; publish their ports only where operators are.
ENV PATH=/opt/gateway/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GATEWAY_SERVER__ADMIN=0.0.0.0:8081 \
    GATEWAY_SERVER__HEALTH=0.0.0.0:8082 \
    GATEWAY_DATA_DIR=/var/lib/gateway
USER gateway
# Commands look for gateway.yaml where they run.
WORKDIR /etc/gateway
VOLUME /var/lib/gateway
EXPOSE 8080 8081 8082
# Every role has this listener. urlopen raises on any answer but success, and so ends with status 1.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8082/livez', timeout=2)"]
ENTRYPOINT ["gateway"]
CMD ["serve"]
