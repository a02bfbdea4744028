# syntax=docker/dockerfile:1
# The digest is that of the index of all platforms. `docker buildx imagetools inspect python:3.13-slim-trixie` shows the newest.
FROM python:3.13.16-slim-trixie@sha256:70729b46c69b4f1e97c4822c1af3df53a1476cf5ddc6c087c0c10bc3a5678c2f AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements requirements
RUN python -m venv /opt/build \
 && /opt/build/bin/pip install --require-hashes -r requirements/build.txt \
 && python -m venv /opt/esms-calls \
 && /opt/esms-calls/bin/pip install --require-hashes -r requirements/image.txt
COPY pyproject.toml README.md CHANGELOG.md alembic.ini ./
COPY migrations migrations
COPY webapp webapp
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /opt/build/wheels . \
 && /opt/esms-calls/bin/pip install --no-deps --no-index --find-links /opt/build/wheels esms-calls

FROM python:3.13.16-slim-trixie@sha256:70729b46c69b4f1e97c4822c1af3df53a1476cf5ddc6c087c0c10bc3a5678c2f
RUN useradd --create-home --uid 10001 esms \
 && install --directory --owner=esms --group=esms --mode=0700 /data
COPY --from=build /opt/esms-calls /opt/esms-calls
COPY --from=build /src/alembic.ini /srv/alembic.ini
COPY --from=build /src/migrations /srv/migrations
ENV PATH=/opt/esms-calls/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    INSTANCE_DIR=/data
WORKDIR /srv
USER 10001
# The embedded SQLite database and the generated tokens; set DATABASE_URL for PostgreSQL.
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=3s --start-period=10s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
CMD ["esms-calls", "serve", "--bind", "0.0.0.0:8000"]
