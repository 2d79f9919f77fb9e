# The image of one function, ingest, index, query or export:
#   docker build --build-arg FUNCTION=ingest --tag torpor-ingest .
# The image of ingest also serves gRPC (command: python -m functions.ingest.rpc), that of index also applies the schema
# (command: python -m functions.common.migrate). All of them run with a read-only root.
ARG BASE=python:3.11-slim
ARG FUNCTION

# Python's images lack the bytecode of the standard library, and a read-only root never gets it: every cold start would
# compile for a third of a second. Made of hashes that nobody checks, bytecode does not depend on the files' times.
FROM $BASE AS runtime
RUN python -m compileall -qf -j 0 --invalidation-mode unchecked-hash \
    -x '/(ensurepip|idlelib|lib2to3|(site|dist)-packages|tests?|tkinter|turtledemo)/' \
    "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"

# The function's own packages, each checked against its hash in the lock: uv can take an extra's part of a lock.
FROM runtime AS build
WORKDIR /build
COPY requirements.lock ./
RUN sed -n '/^uv==/,/# via/p' requirements.lock > uv.txt \
    && python -m venv uv \
    && uv/bin/pip install --quiet --no-cache-dir --require-hashes --requirement uv.txt
ARG FUNCTION
COPY pyproject.toml ./
RUN python -m venv --without-pip /venv \
    && uv/bin/uv pip install --quiet --no-cache --python /venv --no-build --require-hashes \
        --constraint requirements.lock --requirements pyproject.toml --extra "$FUNCTION" \
    && python -m compileall -qf -j 0 --invalidation-mode unchecked-hash /venv
WORKDIR /app
COPY LICENSE ./
COPY functions/__init__.py functions/
COPY functions/common functions/common
COPY functions/$FUNCTION functions/$FUNCTION
RUN python -m compileall -qf --invalidation-mode unchecked-hash functions

FROM runtime AS function
COPY --from=build /venv /venv
COPY --from=build /app /app
WORKDIR /app
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
EXPOSE 8080
USER 65532:65532

# A build argument does not reach an entry point without a shell, so each function has its own; FUNCTION picks one.
FROM function AS ingest
ENTRYPOINT ["python", "-m", "functions.ingest"]

FROM function AS index
COPY schema schema
ENTRYPOINT ["python", "-m", "functions.index"]

FROM function AS query
ENTRYPOINT ["python", "-m", "functions.query"]

FROM function AS export
ENTRYPOINT ["python", "-m", "functions.export"]

FROM $FUNCTION
ARG FUNCTION
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="torpor-$FUNCTION" \
    org.opencontainers.image.description="Torpor, log search that sleeps: the function $FUNCTION" \
    org.opencontainers.image.version="$VERSION" \
    org.opencontainers.image.revision="$REVISION" \
    org.opencontainers.image.licenses="MIT"
