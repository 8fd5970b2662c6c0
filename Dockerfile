# A gate or a worker. Nothing in the image is written at run time but the state directory; the root file
# system can, and in docker-compose.yml does, stay read-only. No medium needs /tmp.
#
# The base is named by tag, since these lines were written where no image registry can be asked. Pin it
# to the digest you have checked: --build-arg PYTHON=python:3.11-bookworm@sha256:... (and SLIM likewise).
ARG PYTHON=python:3.11-bookworm
ARG SLIM=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
WORKDIR /build
RUN python -m venv /opt/cordon
COPY requirements-build.lock requirements.lock ./
RUN /opt/cordon/bin/pip install --no-cache-dir --require-hashes --only-binary :all: --requirement requirements-build.lock \
 && /opt/cordon/bin/pip install --no-cache-dir --require-hashes --no-build-isolation --requirement requirements.lock
COPY pyproject.toml setup.py README.md LICENSE ./
COPY app app
COPY migrations migrations
RUN /opt/cordon/bin/pip install --no-cache-dir --no-deps --no-build-isolation --no-index . \
 && /opt/cordon/bin/pip uninstall --yes cython setuptools pip

FROM ${SLIM}
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin cordon \
 && install --directory --owner cordon --group cordon --mode 0700 /var/lib/cordon /var/lib/cordon/snapshots
COPY --from=build /opt/cordon /opt/cordon
ENV PATH=/opt/cordon/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    CORDON_STATE_DIR=/var/lib/cordon \
    CORDON_HOST=0.0.0.0
USER 10001:10001
EXPOSE 8080
# For plain HTTP behind a proxy; a container that ends TLS itself needs a health check of its own.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-I", "-c", "import http.client as http; gate = http.HTTPConnection('127.0.0.1', 8080, timeout=3); gate.request('GET', '/livez'); raise SystemExit(gate.getresponse().status != 200)"]
ENTRYPOINT ["cordon"]
CMD ["serve"]
