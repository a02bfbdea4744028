# syntax=docker/dockerfile:1
FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/esms-calls
COPY pyproject.toml README.md CHANGELOG.md alembic.ini ./
COPY migrations migrations
COPY webapp webapp
RUN /opt/esms-calls/bin/pip install --no-cache-dir --disable-pip-version-check '.[parquet]'

FROM python:3.13-slim
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
